"""A command that is begun anew: about the devices that it named, and no others by those names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmsnap.catalogue import jobs as recorded
from dmsnap.catalogue.model import JobState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ForeignDeviceError
from dmsnap.host import inventory, kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.service import forecast, jobs, journal, named_devices, operations
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session

WORDS = {"name": "srv", "recovery": "/dev/sdb", "overwrite": True, "device": "/dev/vg/srv"}


class Host:
    """A disk at a kernel name."""

    def __init__(self) -> None:
        self.identity = "loop:0:/srv/b.img"
        self.boot = "first"

    def probe(self, path: Path, **_where: object) -> BlockDevice:
        return BlockDevice(path, 1, 4096, 512, False)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(BlockDevice, "probe", found.probe)
    monkeypatch.setattr(inventory, "device_identity", lambda _devno: found.identity)
    monkeypatch.setattr(kernel, "boot_id", lambda: found.boot)
    monkeypatch.setattr(named_devices, "_may_be_exchanged", lambda word: word == "/dev/sdb")
    return found


def test_what_is_no_device_or_says_itself_which_it_is() -> None:
    for word in ("srv", "/etc/passwd", "/dev/vg/srv", "/dev/disk/by-id/x", "/dev/null"):
        assert named_devices.with_devices({"word": word}) == {"word": word}


@pytest.mark.usefixtures("host")
def test_which_devices_were_named_is_recorded() -> None:
    arguments = dict(named_devices.with_devices(WORDS))
    assert arguments["led_to"] == {"/dev/sdb": "loop:0:/srv/b.img", "boot_id": "first"}
    assert named_devices.asked(arguments) == WORDS
    named_devices.require_same(arguments)
    named_devices.require_same(WORDS)  # of an earlier version


def other_disk(host: Host) -> None:
    host.identity, host.boot = "loop:0:/srv/a.img", "second"


def same_disk(host: Host) -> None:
    host.boot = "second"


def job_of(catalogue: Catalogue) -> int:
    """The number of a job that was undone."""

    def fail() -> None:
        raise ForeignDeviceError("it failed")

    with pytest.raises(ForeignDeviceError, match="it failed"):
        journal.run(catalogue, Plan("attach", (), [Step("copy", "copy", fail)], WORDS))
    (job,) = recorded.recent(catalogue, 1)
    assert job.state is JobState.UNDONE
    return job.id


@pytest.mark.parametrize(("change", "same"), [(other_disk, False), (same_disk, True)])
def test_what_is_begun_anew_after_a_boot(
    host: Host,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Host], None],
    same: bool,
) -> None:
    """With --overwrite: that was about the disk that had the name then."""
    begun: list[dict[str, Any]] = []

    def begin(_session: Session, **words: Any) -> None:
        begun.append(words)

    monkeypatch.setattr(operations, "again", lambda _: begin)
    session = Session(Configuration(), catalogue)
    number = job_of(catalogue)
    change(host)
    if same:
        forecast.resuming(session, number)
        assert jobs.resume(session, number).job.arguments == WORDS
        assert begun == [WORDS | {"dry_run": False}]
        return
    for resuming in (jobs.resume, forecast.resuming):
        with pytest.raises(
            ForeignDeviceError, match=r"/dev/sdb is loop:0:/srv/a\.img now, and was"
        ):
            resuming(session, number)
    assert begun == []


@pytest.mark.parametrize("identity", ["size:4096", "serial:0123"])
def test_one_without_an_identity_may_be_another_after_a_boot(host: Host, identity: str) -> None:
    host.identity = identity
    arguments = named_devices.with_devices(WORDS)
    named_devices.require_same(arguments)
    host.boot = "second"
    with pytest.raises(ForeignDeviceError, match="it may be another device"):
        named_devices.require_same(arguments)
