"""What is done with a device whose name was another's when it was recorded: nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume
from test_history import a_label

from dmsnap._native.label import LabelState
from dmsnap.catalogue.export import ExportKind, Source
from dmsnap.catalogue.model import Hydration, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import AlreadyProtectedError, ForeignDeviceError
from dmsnap.host import fstab, inventory, loop, lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import Sysfs
from dmsnap.recovery import lease, replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import publication
from dmsnap.service.pools import pool_return
from dmsnap.service.session import Session
from dmsnap.service.swaps import failback, label_admission
from dmsnap.service.volumes import admission, identity, recognition, unprotect
from dmsnap.snapshot import stack
from dmsnap.units import MIB

SIZE = 64 * MIB
VOLUME = replace(
    a_volume(),
    state=VolumeState.PROTECTED,
    backing="/dev/b",
    recovery="/dev/r",
    size_bytes=SIZE,
    led_to=(("/dev/a", "loop:0:/a.img"), ("/dev/b", "loop:0:/b.img")),
    left_behind=("/dev/a",),
)
EXT4 = Signature(fs_type="ext4", uuid=VOLUME.fs_uuid, usage="filesystem")
NUMBERS = {"/dev/a": 1, "/dev/b": 2, "/dev/c": 4, "/dev/r": 3, "/dev/vg/b": 2}


class Host:
    """Devices with a file each; ``exchange`` is a boot. All hold the volume's file system."""

    def __init__(self) -> None:
        self.files = {1: "/a.img", 2: "/b.img", 3: "/r.img", 4: "/c.img"}
        self.labels: dict[Path, Any] = {}
        self.wiped: list[Path] = []

    def exchange(self) -> None:
        self.files[1], self.files[2] = self.files[2], self.files[1]

    def probe(self, path: Path, **_where: object) -> BlockDevice:
        return BlockDevice(path, NUMBERS[str(path)], SIZE, 512, False)

    def identity(self, devno: int, **_where: object) -> str:
        return f"loop:0:{self.files[devno]}"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(BlockDevice, "probe", found.probe)
    monkeypatch.setattr(inventory, "device_identity", found.identity)
    monkeypatch.setattr(inventory, "find_device", lambda *_, **__: None)
    monkeypatch.setattr(loop, "is_same_file", lambda *_: False)
    monkeypatch.setattr(lun, "is_present", lambda _name: True)
    monkeypatch.setattr(replica, "read_label", found.labels.get)
    monkeypatch.setattr(replica, "wipe_label", found.wiped.append)
    monkeypatch.setattr(signature, "probe", lambda _path: EXT4)
    monkeypatch.setattr(stack, "find", lambda _device: None)
    monkeypatch.setattr(Sysfs, "dm_uuid", lambda *_: None)
    return found


def stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume's origin lies on what has its name."""
    monkeypatch.setattr(stack, "find", lambda _device: SimpleNamespace(devno=9))
    monkeypatch.setattr(Sysfs, "holders", lambda _sysfs, devno: [9] if devno == 2 else [])


@pytest.fixture
def session(catalogue: Catalogue, tmp_path: Path) -> Session:
    catalogue.add_volume(VOLUME)
    return Session(Configuration(state_directory=tmp_path), catalogue)


def at(path: str) -> BlockDevice:
    return BlockDevice.probe(Path(path))


@contextmanager
def refused(host: Host) -> Iterator[None]:
    """After a boot that exchanges the names."""
    host.exchange()
    with pytest.raises(ForeignDeviceError, match="is another device than srv has there"):
        yield


def test_no_stack_is_built_over_it(host: Host) -> None:
    identity.require_backing(VOLUME)
    with refused(host):
        identity.require_backing(VOLUME)


def test_what_a_stack_lies_on_is_the_device(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is there nothing is exchanged."""
    host.exchange()
    stacked(monkeypatch)
    identity.require_backing(VOLUME)


def test_no_failback_leads_to_it(host: Host) -> None:
    promoted = replace(VOLUME, backing="/dev/r", previous_backing="/dev/b", recovery=None)
    failback.require_content(promoted, at("/dev/b"))
    with refused(host):
        failback.require_content(promoted, at("/dev/b"))


def test_its_label_stays(
    host: Host, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The volume's own device has that, at the name of the one that it left."""
    monkeypatch.setattr(lease, "is_ours", lambda _label: True)
    label = replace(a_label(), volume_uuid=VOLUME.id, state=LabelState.PRIMARY)
    host.labels |= {Path("/dev/a"): label, Path("/dev/b"): label}
    host.exchange()
    pool_return.leave(session, VOLUME, "/dev/a", offer=True)
    assert host.wiped == []
    assert "/dev/a is left as it is, and offered to nobody" in caplog.text
    host.exchange()
    pool_return.leave(session, VOLUME, "/dev/a", offer=True)
    assert host.wiped == [Path("/dev/a")]


def test_nothing_of_it_is_mounted_in_place_of_the_volume(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[SimpleNamespace] = []
    monkeypatch.setattr(fstab, "entries", lambda: lines)
    unused = replace(VOLUME, mounts=())
    assert unprotect.mountable(VOLUME) == VOLUME.mounts
    with refused(host):
        unprotect.mountable(VOLUME)
    # Its stack was over it until now.
    assert unprotect.mountable(VOLUME, certain=True) == VOLUME.mounts
    assert unprotect.mountable(unused) == ()
    lines.append(SimpleNamespace(spec="/dev/mapper/srv"))
    with pytest.raises(ForeignDeviceError):
        unprotect.mountable(unused)


def test_another_file_system_is_not_mounted(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor kept from being unprotected: it may have been formatted anew."""
    other = replace(EXT4, uuid="another")
    monkeypatch.setattr(signature, "probe", lambda _path: other)
    assert unprotect.mountable(VOLUME) == ()
    assert "/dev/b is not mounted: /dev/b holds ext4" in caplog.text
    del host


def test_it_is_no_way_back_from_a_recovery_by_a_label(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    assert label_admission.with_certain_primary(VOLUME) == VOLUME
    host.exchange()
    found = label_admission.with_certain_primary(VOLUME)
    assert (found.backing, found.device_bytes) == ("", None)
    assert "there will be no way back to it" in caplog.text


@pytest.mark.usefixtures("host")
def test_it_is_not_published() -> None:
    source = Source(ExportKind.DEVICE, None, None, "/dev/b", SIZE, "loop:0:/b.img")
    assert publication.plain_device(source).devno == 2
    other = replace(source, led_to="loop:0:/a.img")
    with pytest.raises(ForeignDeviceError, match=r"is loop:0:/b\.img now, and was loop:0:/a\.img"):
        publication.plain_device(other)
    publication.plain_device(replace(other, led_to=None))  # recorded by an earlier version
    publication.plain_device(replace(other, device="/dev/vg/b"))  # names it, whatever it is made of


def moving(volume: Volume) -> Volume:
    begun = Hydration("/dev/r", "/dev/b", SIZE, 1, "boot:1", 0, "loop:0:/b.img")
    led_to = (("/dev/c", "loop:0:/c.img"),)
    return replace(volume, backing="/dev/c", hydration=begun, led_to=led_to)


@pytest.mark.parametrize(
    ("change", "part"),
    [(lambda volume: volume, "protected already"), (moving, "being moved to already")],
)
def test_what_a_volume_has_is_no_other_ones_by_another_name(
    host: Host, session: Session, change: Callable[[Volume], Volume], part: str
) -> None:
    """Its stack could not be built, and so nothing holds the device."""
    session.catalogue.update_volume(change(VOLUME))
    admission.check_not_ours(session, at("/dev/a"))
    host.exchange()
    with pytest.raises(AlreadyProtectedError, match=part):
        admission.check_not_ours(session, at("/dev/a"))


def test_disks_that_say_the_same_of_themselves_are_two(host: Host, session: Session) -> None:
    host.files[4] = host.files[2]
    admission.check_not_ours(session, at("/dev/c"))


@pytest.mark.parametrize("known", [(), (("/dev/b", f"size:{SIZE}"),)])
def test_what_may_be_a_volumes_device_is_nobodys(
    host: Host, session: Session, monkeypatch: pytest.MonkeyPatch, known: tuple[tuple[str, str]]
) -> None:
    """A pool may have it by the name of what that volume left, and it looks just like that."""
    session.catalogue.update_volume(replace(VOLUME, led_to=known))
    with pytest.raises(ForeignDeviceError, match="/dev/a holds the file system of srv, which has"):
        admission.check_not_ours(session, at("/dev/a"))
    host.labels[Path("/dev/a")] = a_label()
    admission.check_not_ours(session, at("/dev/a"))
    host.labels.clear()
    stacked(monkeypatch)
    admission.check_not_ours(session, at("/dev/a"))


def test_it_is_recorded_while_the_stack_says_so(
    host: Host, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "seen", lambda _volume: iter(()))
    before = replace(VOLUME, led_to=())
    session.catalogue.update_volume(before)
    recognition.note(session, before)
    assert session.catalogue.volume("srv").led_to == ()
    stacked(monkeypatch)
    recognition.note(session, before)
    assert session.catalogue.volume("srv").led_to == (("/dev/b", host.identity(2)),)
