"""What a run does for a volume that joined: one, when its time is there, and nothing by force."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from catalogue_samples import a_volume
from test_newcomer import DECLARED, DISK, LV, PROTECTING

from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError, DmsnapError
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import (
    CopyTable,
    DeclaredIoClass,
    Policy,
)
from dmsnap.service.configuration.declared_value import Size
from dmsnap.service.schedules import policy_run, welcome
from dmsnap.service.session import Session
from dmsnap.service.volumes import discovery, discovery_record, protect
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.discovery import Discovered, Discovery
from dmsnap.service.volumes.protect import ProtectResult
from dmsnap.units import MIB

FIRST = replace(DISK, joins_as="data")
SECOND = replace(LV, joins_as="vg_lv", first_seen_ns=9)
DAY_NS = 86400 * NANOSECONDS


class Runs:
    """Runs that see what a test says, and protect what they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        settings = Configuration(state_directory=directory, run_directory=directory / "run")
        self.session = Session(settings, Catalogue.open(directory / "catalogue.db"))
        self.looks: list[list[Discovered]] = [[FIRST, SECOND], [FIRST, SECOND]]
        self.asked: list[ProtectRequest] = []
        self.turns: list[list[str]] = []
        self.failure: DmsnapError | None = None
        self.findings: tuple[str, ...] = ()
        discovery_record.write(directory, [discovery.seen(FIRST), discovery.seen(SECOND)])
        monkeypatch.setattr(discovery, "discover", self.discover)
        monkeypatch.setattr(protect, "protect", self.protect)
        monkeypatch.setattr(welcome, "turn_on", self.turn_on)
        monkeypatch.setattr(welcome, "reap", self.reap)
        self.reaped: list[str] = []

    def discover(self, _session: Session, *, remember: bool = True) -> Discovery:
        assert remember is (len(self.looks) == 2)
        return Discovery(tuple(self.looks.pop(0)), "default", self.findings)

    @contextmanager
    def turn_on(self, _session: Session, devices: list[str]) -> Iterator[None]:
        self.turns.append(devices)
        yield

    def protect(self, _session: Session, request: ProtectRequest, *, dry_run: bool) -> Any:
        assert not dry_run
        self.asked.append(request)
        if self.failure:
            raise self.failure
        known: Any = dict.fromkeys(ProtectResult.__dataclass_fields__, None)
        return ProtectResult(**known | {"volume": request.name})

    def reap(self, _session: Session, volume: Any, _wanted: object) -> None:
        self.reaped.append(volume.name)

    def run(self, policy: Policy = PROTECTING) -> welcome.Welcome:
        return welcome.welcome(self.session, DECLARED, policy, UTC)

    def tried(self) -> list[str]:
        known = discovery_record.read(self.session.configuration.state_directory)
        return [each.identity for each in known.values() if each.tried_ns is not None]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    return Runs(monkeypatch, tmp_path)


def test_one_is_protected_as_the_policy_says(runs: Runs) -> None:
    policy = replace(PROTECTING, bandwidth=Size(50 * MIB), io_class=DeclaredIoClass.BEST_EFFORT,
                     io_level=7)  # fmt: skip
    found = runs.run(policy)
    assert found.protected is not None
    assert found.protected.volume == "data"
    (asked,) = runs.asked
    assert (asked.device, asked.name, asked.live) == (Path("/dev/sdb1"), "data", False)
    assert (asked.wanted.pool, asked.store, asked.wanted.recovery) == ("disks", "/fast", "")
    assert (asked.identity, asked.wanted.bandwidth) == (DISK.identity, 50 * MIB)
    assert asked.wanted.priority == policy.io_priority
    assert not asked.wanted.overwrite
    assert not asked.wanted.force
    assert runs.turns == [["/dev/sdb1"]]
    assert runs.tried() == [DISK.identity]


def test_a_mounted_lv_is_protected_live(runs: Runs) -> None:
    runs.looks = [[SECOND], [SECOND]]
    assert runs.run().protected is not None
    assert runs.asked[0].live
    assert runs.asked[0].wanted.io_priority == ""


def test_what_is_new_waits_for_another_look(runs: Runs) -> None:
    runs.looks[0] = [replace(FIRST, settled=False), replace(SECOND, settled=False)]
    assert runs.run() == welcome.NOBODY
    assert runs.asked == []
    assert runs.tried() == []


@pytest.mark.parametrize(
    "after",
    [[], [replace(FIRST, joins_as=None)], [replace(FIRST, settled=False)],
     [replace(FIRST, identity="another")]],
)  # fmt: skip
def test_what_changed_while_its_turn_was_waited_for_is_left(
    runs: Runs, after: list[Discovered]
) -> None:
    runs.looks[1] = after
    assert runs.run() == welcome.NOBODY
    assert runs.asked == []
    assert runs.tried() == []


def test_a_failure_is_a_warning_with_all_reasons(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    runs.failure = BusyError("it is in use")
    runs.failure.add_note("/dev/pool: is read-only")
    with caplog.at_level(logging.WARNING):
        assert runs.run() == welcome.NOBODY
    assert "it is in use; /dev/pool: is read-only" in caplog.text
    assert runs.tried() == [DISK.identity]


def test_a_first_copy_is_made_in_the_hours_of_copies(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = replace(PROTECTING, copy=CopyTable(hours="22:00-06:00"))
    noon = 20_000 * DAY_NS + DAY_NS // 2
    monkeypatch.setattr(welcome, "now_ns", lambda: noon)
    assert runs.run(policy).due_ns == noon + 10 * 3600 * NANOSECONDS
    assert runs.asked == []
    runs.looks = [[FIRST], [FIRST]]
    monkeypatch.setattr(welcome, "now_ns", lambda: noon + DAY_NS // 2)
    assert runs.run(policy).protected is not None


def test_what_a_killed_run_left_is_given_back_first(runs: Runs) -> None:
    for name, state, joined in (
        ("left", VolumeState.BUILDING, True),
        ("mine", VolumeState.BUILDING, False),
        ("whole", VolumeState.PROTECTED, True),
    ):
        runs.session.catalogue.add_volume(replace(a_volume(name), state=state, joined=joined))
    runs.run()
    assert runs.reaped == ["left"]


@pytest.mark.parametrize("joining", [[], [FIRST]])
def test_what_was_found_is_told_once(
    runs: Runs, caplog: pytest.LogCaptureFixture, joining: list[Discovered]
) -> None:
    """By the look around, whether anything joined or not; the one before a first copy is silent."""
    runs.findings = ("/dev/sdx (ext4) has vanished since the last look", "/dev/sdy was resized")
    runs.looks = [joining, joining]
    runs.run()
    assert len(runs.asked) == len(joining)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == list(runs.findings)


def test_a_look_that_fails_stops_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_asked: object, **_options: object) -> None:
        raise BusyError("it hangs")

    monkeypatch.setattr(discovery, "discover", fail)
    assert runs.run() == welcome.NOBODY
    assert "the volumes of the host cannot be looked at: it hangs" in caplog.text


def test_a_dry_run_lists_it(runs: Runs) -> None:
    runs.looks = [[FIRST, SECOND]]
    (step,) = welcome.planned(runs.session, PROTECTING)
    assert step.startswith("protect /dev/sdb1 (ext4, UUID ")
    assert step.endswith("as data, with a recovery volume out of the pool disks")
    runs.looks = [[]]
    assert welcome.planned(runs.session, PROTECTING) == []


def test_the_run_lists_what_it_protected(runs: Runs) -> None:
    running = policy_run.PolicyRun(runs.session, "daily", PROTECTING, [], UTC)
    running.welcome(DECLARED)
    assert list(running.volumes) == ["data"]
    assert running.next_copy_ns() is None
    running.welcome_due_ns = 7
    assert running.next_copy_ns() == 7
