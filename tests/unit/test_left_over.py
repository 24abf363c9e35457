"""Copies that a boot called off are begun by the service when it starts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_waiting import VOLUME, House, taken

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.daemon import duties
from dmsnap.errors import CorruptError, ProgramError
from dmsnap.host import reach, systemd
from dmsnap.recovery import replica
from dmsnap.service.configuration import configuration, configuration_check
from dmsnap.service.configuration.declaration import (
    CopyTable,
    Declarations,
    Make,
    Policy,
    Subclient,
)
from dmsnap.service.configuration.declared_value import Duration
from dmsnap.service.schedules import left_over

DAILY = Policy(schedule=("daily",))


class Host:
    """One volume under one policy, and the units that were begun."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.policy = DAILY
        self.active: set[str] = set()
        self.begun: list[str] = []
        monkeypatch.setattr(configuration, "declares", lambda *_: True)
        monkeypatch.setattr(configuration_check, "require", self.declared)
        monkeypatch.setattr(systemd, "is_running", lambda: True)
        monkeypatch.setattr(systemd, "is_active", lambda unit: unit in self.active)
        monkeypatch.setattr(systemd, "begin", self.begun.append)

    def declared(self) -> SimpleNamespace:
        subclients = {"all": Subclient(volumes=("srv", "gone"), policy="a b")}
        return SimpleNamespace(
            declared=Declarations(policy={"a b": self.policy}, subclient=subclients)
        )

    def started(self, policy: Policy = DAILY) -> list[str]:
        """What is begun when the service starts."""
        self.policy = policy
        self.begun.clear()
        duties.go_on_copying(self.house.session)
        return self.begun


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        yield Host(House(catalogue, monkeypatch), monkeypatch)


UNIT = r"dmsnap-copy@a\x20b"


def test_what_waits_to_be_copied_is(host: Host) -> None:
    assert host.started() == []
    older, newer = host.house.add(taken(9, 3), taken(1, 5))
    assert host.started() == [f"{UNIT}.service"]
    host.house.on_replica = older
    assert host.started() == [f"{UNIT}.service"]
    host.house.on_replica = newer
    assert host.started() == []


def test_what_is_to_be_copied_later_gets_its_time_again(host: Host) -> None:
    host.house.add(taken(1, 5))
    later = replace(DAILY, copy=CopyTable(delay=Duration(7200)))
    assert host.started(later) == [f"{UNIT}.service"]
    passing = replace(DAILY, copy=CopyTable(let_pass=3))
    assert host.started(passing) == []


@pytest.mark.parametrize("kind", ["service", "timer"])
def test_what_is_begun_or_has_its_time_is_left_alone(host: Host, kind: str) -> None:
    """As at a start of the service that is not the boot's."""
    host.house.add(taken(1, 5))
    host.active = {f"{UNIT}.{kind}"}
    assert host.started() == []


def test_only_hours_say_that_a_copy_of_the_volume_itself_waits(host: Host) -> None:
    copying = replace(DAILY, make=Make.RECOVERY_VOLUME)
    assert host.started(copying) == []
    nightly = replace(copying, copy=CopyTable(hours="22:00-06:00"))
    assert host.started(nightly) == [f"{UNIT}.service"]


def test_policies_that_begin_nothing(host: Host) -> None:
    host.house.add(taken(1, 5))
    assert host.started(Policy()) == []
    assert host.started(replace(DAILY, make=Make.SNAPSHOT)) == []
    trial = replace(VOLUME, state=VolumeState.TRIAL)
    host.house.session.catalogue.update_volume(trial)
    assert host.started() == []


def test_a_label_that_cannot_be_read_is_for_the_run_to_see(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_volume: object) -> None:
        raise CorruptError("the label is damaged")

    monkeypatch.setattr(replica, "label_of", damaged)
    assert host.started() == [f"{UNIT}.service"]


def test_a_disk_that_hangs_is_for_the_run_to_see(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service asks by a program, and has no thread waiting for it."""

    def hangs(_volume: object) -> None:
        raise AssertionError("it would hang here")

    monkeypatch.setattr(replica, "label_of", hangs)
    monkeypatch.setattr(reach, "reads", lambda *_: False)
    assert host.started() == [f"{UNIT}.service"]


def test_a_unit_that_cannot_be_begun_keeps_no_other_from_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(unit: str) -> None:
        if unit == "dmsnap-copy@a.service":
            raise ProgramError("systemctl failed")
        host.begun.append(unit)

    monkeypatch.setattr(left_over, "policies", lambda _: ["a", "b"])
    monkeypatch.setattr(systemd, "begin", begin)
    assert host.started() == ["dmsnap-copy@b.service"]
    assert "copies under the policy a were not begun: systemctl failed" in caplog.text


def test_mistakes_of_the_configuration_are_told(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken() -> None:
        raise CorruptError("the configuration has mistakes")

    monkeypatch.setattr(configuration_check, "require", mistaken)
    assert host.started() == []
    assert "copies that wait were not begun: the configuration has mistakes" in caplog.text
