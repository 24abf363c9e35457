"""Which devices of a pool are looked at and taken, and what is told of the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Hydration
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError, DmsnapError, NotFoundError, TooSmallError
from dmsnap.host import signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.policy.pool import Choice as How
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import Pool
from dmsnap.service.pools import pool, pool_choice, pool_return
from dmsnap.service.pools.pool import PoolDevice, Standing
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.units import GIB, MIB

WANTED = WantedRecovery(pool="disks")
REQUEST = ProtectRequest(Path("/dev/primary"), "srv", WANTED, "/store", 65536, 4096)
LUN = "iscsi://192.0.2.7/iqn.2003-01.org.example:store/1"


def free(name: str, size_bytes: int = 2 * GIB) -> PoolDevice:
    return PoolDevice("disks", name, size_bytes, Standing.FREE)


def taken(name: str, volume: str) -> PoolDevice:
    return PoolDevice("disks", name, 2 * GIB, Standing.TAKEN, volume, "keeps its points")


BUSY = PoolDevice("disks", "/dev/busy", 2 * GIB, Standing.UNUSABLE, None, "is in use: mounted on /")


class House:
    """A pool whose devices are what a test says; ``checks`` has what the admission says of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: list[PoolDevice] = []
        self.checks: dict[str, object] = {}
        self.locks: list[str] = []
        self.looked_at: set[str] = set()

        def check(_session: object, request: ProtectRequest, *_devices: object) -> object:
            answer = self.checks.get(request.wanted.recovery)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def declared() -> dict[str, Pool]:
            volumes = tuple(each.device for each in self.devices)
            return {"disks": Pool(volumes, How.BEST_FIT)}

        def probe(path: Path) -> BlockDevice:
            return BlockDevice(path, hash(str(path)) & 0xFFFF, GIB, 512, False)

        monkeypatch.setattr(pool, "declared_pools", declared)
        monkeypatch.setattr(pool, "survey", lambda *_: self.devices)
        monkeypatch.setattr(pool, "recorded_as", lambda name: name)
        monkeypatch.setattr(admission, "check_device", check)
        monkeypatch.setattr(BlockDevice, "probe", probe)
        monkeypatch.setattr(signature, "probe", lambda _: None)
        self.session = cast(Session, SimpleNamespace(locked=self.locked, running=lambda _: None))

    @contextmanager
    def locked(self, names: list[str]) -> Iterator[None]:
        self.locks += names
        yield
        self.locks.clear()

    def choose(self, *devices: PoolDevice, **asked: Any) -> tuple[str, dict[str, str]]:
        self.devices = list(devices)
        request = replace(REQUEST, wanted=replace(WANTED, **asked))
        with pool_choice.chosen(self.session, request) as choice:
            return choice.request.wanted.recovery, {
                each.device: each.reason for each in choice.passed_over
            }

    def refused(self, *devices: PoolDevice, **asked: Any) -> DmsnapError:
        with pytest.raises(DmsnapError) as caught:
            self.choose(*devices, **asked)
        return caught.value


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_the_others_are_told_of(house: House) -> None:
    found, passed_over = house.choose(
        BUSY, taken("/dev/b", "pg"), free("/dev/d", 4 * GIB), free("/dev/c"), free("/dev/e", MIB)
    )
    assert found == "/dev/c"
    assert passed_over == {
        "/dev/busy": "is in use: mounted on /",
        "/dev/b": "taken by pg: keeps its points",
        "/dev/e": "has 1 MiB, 1.0 GiB are needed",
    }


def test_what_does_not_pass_every_check_is_passed_over_for_the_next(house: House) -> None:
    house.checks["/dev/c"] = BusyError("/dev/c is in use: open in mkfs (pid 7)")
    found, passed_over = house.choose(free("/dev/c"), free("/dev/d", 4 * GIB))
    assert found == "/dev/d"
    assert passed_over == {"/dev/c": "/dev/c is in use: open in mkfs (pid 7)"}


def test_when_none_will_do_every_reason_is_in_the_notes(house: House) -> None:
    house.checks["/dev/c"] = BusyError("/dev/c is in use")
    error = house.refused(BUSY, free("/dev/c"))
    assert isinstance(error, NotFoundError)
    assert error.__notes__ == ["/dev/busy: is in use: mounted on /", "/dev/c: /dev/c is in use"]
    assert isinstance(house.refused(free("/dev/c", MIB)), TooSmallError)


def test_one_that_is_named_is_taken_or_nothing_is(house: House) -> None:
    devices = (free("/dev/c"), free("/dev/d"), taken("/dev/b", "pg"))
    assert house.choose(*devices, recovery="/dev/d")[0] == "/dev/d"
    house.checks["/dev/d"] = BusyError("/dev/d is in use")
    assert isinstance(house.refused(*devices, recovery="/dev/d"), BusyError)
    for name in ("/dev/b", "/dev/unknown"):
        error = house.refused(*devices, recovery=name)
        assert str(error) == f"the pool disks does not offer {name}"


def test_what_served_the_volume_before_comes_first(house: House) -> None:
    devices = (free("/dev/c"), taken("/dev/b", "srv"))
    house.checks["/dev/b"] = object()  # its label
    assert house.choose(*devices)[0] == "/dev/b"
    # Another one that is named is meant.
    assert house.choose(*devices, recovery="/dev/c")[0] == "/dev/c"
    # The volume is another one of the same name by now.
    house.checks["/dev/b"] = BusyError("not of srv as it is now")
    assert house.choose(*devices) == ("/dev/c", {"/dev/b": "taken by srv: keeps its points"})


def test_others_cannot_choose_until_it_is_recorded(house: House) -> None:
    house.devices = [free("/dev/c")]
    with pool_choice.chosen(house.session, REQUEST) as choice:
        assert house.locks == [pool_choice.LOCK]
        choice.settle()
        assert house.locks == []
        choice.settle()
    assert admission.NAME.fullmatch(pool_choice.LOCK) is None


def test_without_a_pool_nothing_is_looked_at(house: House) -> None:
    request = replace(REQUEST, wanted=WantedRecovery("/dev/c"))
    with pool_choice.chosen(house.session, request) as choice:
        assert choice.request is request
        assert house.locks == []


def test_a_pool_that_is_not_declared(house: House) -> None:
    error = house.refused(free("/dev/c"), pool="other")
    assert (str(error), error.hint) == ("there is no pool 'other'", "declared are: disks")


# what the catalogue says


def test_every_device_of_a_volume_is_taken() -> None:
    volume = replace(
        a_volume(),
        previous_backing="/dev/old",
        hydration=Hydration("/dev/vg/srv", "/dev/new", 0, 1, "boot:1", 0),
        left_behind=("/dev/left",),
    )
    uses = dict(pool.recorded_uses([volume]))
    assert set(uses) == {"/dev/vg/srv", "/dev/sdb", "/dev/old", "/dev/new"}
    assert {use.volume for use in uses.values()} == {"srv"}


@pytest.mark.parametrize(
    ("declared", "recorded", "same"),
    [
        ("/dev/none", "/dev/none", True),
        ("/dev/none", "/dev/other", False),
        (LUN, f"{LUN}#naa.6001", True),
        (LUN, LUN.replace("192.0.2.7", "192.0.2.7:3260"), True),
        (LUN, LUN.replace("store/1", "store/2"), False),
        (LUN, "/dev/none", False),
    ],
)
def test_names_of_one_device(declared: str, recorded: str, same: bool) -> None:
    assert pool.is_same(declared, recorded) is same


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    """Recorded, it is taken; a LUN that nobody is logged in to was not seen; else it is no use."""
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        volume = replace(a_volume(), recovery="/dev/never/recorded")
        catalogue.add_volume(volume)
        session = Session(Configuration(), catalogue)
        found = pool.survey(session, "disks", ["/dev/never/recorded", "/dev/never", LUN])
    assert [(each.state, each.volume, each.size_bytes) for each in found] == [
        (Standing.TAKEN, "srv", None),
        (Standing.UNUSABLE, None, None),
        (Standing.UNSEEN, None, None),
    ]
    assert "No such file" in str(found[1].reason)


def test_what_no_pool_can_be_read_for_goes_back_to_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "dmsnap.toml"
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))
    session = cast(Session, SimpleNamespace(configuration=Configuration()))
    tables = '[pool.disks]\nvolumes = ["/dev/none"]\n[pool.more]\nvolumes = ["/dev/none"]\n'
    path.write_text(tables)
    assert pool_return.pools_of(session, "/dev/none") == ("disks", "more")
    assert pool_return.pools_of(session, "/dev/other") == ()
    assert pool_return.pools_of(session, None) == ()
    path.write_text(tables + "[policy.p]\nkeeep = 1\n")
    assert pool_return.pools_of(session, "/dev/none") == ()
    assert "goes back to no pool" in caplog.text
