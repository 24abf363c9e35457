"""Which device a recorded path leads to, after a boot by which kernel names were exchanged."""

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from catalogue_samples import a_volume
from test_history import a_label
from test_host_sysfs import Tree

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import identity as recorded
from dmsnap.catalogue.model import Hydration, Volume, VolumeState
from dmsnap.errors import ForeignDeviceError, OperatingSystemError
from dmsnap.host import inventory
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.device_path import names_device
from dmsnap.host.signature import Signature
from dmsnap.service.hydrations.crossing import Crossing
from dmsnap.service.volumes import identity
from dmsnap.service.volumes.twins import Host

SIZE = 2048 * 512
VOLUME = replace(
    a_volume(),
    state=VolumeState.PROTECTED,
    size_bytes=SIZE,
    backing="/dev/sdb",
    recovery="/dev/sdr",
)
MOVED = replace(VOLUME, left_behind=("/dev/sda",))
RAW = replace(VOLUME, fs_type="", fs_uuid="")
EXT4 = Signature(fs_type="ext4", uuid=VOLUME.fs_uuid, usage="filesystem")
OTHER = Signature(fs_type="ext4", uuid="another", usage="filesystem")
DISKS = {name: os.makedev(8, 16 * number) for number, name in enumerate(["sda", "sdb", "sdc"])}


@dataclass
class Disks:
    """Disks without an identity of their own, but what files of sysfs say; what is on each."""

    tree: Tree
    contents: dict[str, Signature | None] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, content: Signature | None = None, **files: str) -> Path:
        directory = self.tree.device(name, DISKS[name], **files)
        (self.tree.sysfs.root / "class" / "block" / name).symlink_to(directory)
        self.contents[name] = content
        return directory

    @property
    def host(self) -> Host:
        return Host(self.tree.sysfs, self.tree.proc, self._probe, self._label, self._silent)

    def _probe(self, path: Path) -> Signature | None:
        self.asked.append(path.name)
        if path.name in self.failing:
            raise OperatingSystemError(f"read {path}: Input/output error")
        return self.contents[path.name]

    def _label(self, path: Path) -> Label | None:
        assert path.name not in self.hanging
        return self.labels.get(path.name)

    def _silent(self, paths: Sequence[Path]) -> Collection[Path]:
        return [path for path in paths if path.name in self.hanging]

    def require(self, volume: Volume, path: str = "/dev/sdb") -> None:
        """As :func:`identity.require_led_to` has it of what is at a kernel name."""
        devno = DISKS[Path(path).name]
        size_bytes = self.tree.sysfs.size_bytes(devno)
        device = BlockDevice(Path(path), devno, size_bytes, 512, False)
        identity.require_led_to(volume, path, device, self.host)

    def refused(self, volume: Volume, path: str = "/dev/sdb") -> str:
        with pytest.raises(ForeignDeviceError) as caught:
            self.require(volume, path)
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    tree = Tree(tmp_path)
    (tree.sysfs.root / "class" / "block").mkdir(parents=True)
    return Disks(tree)


def knowing(volume: Volume, device: str, path: str = "/dev/sdb") -> Volume:
    return replace(volume, led_to=((path, device),))


def labelled(volume: Volume, state: LabelState = LabelState.PRIMARY) -> Label:
    return replace(a_label(), volume_uuid=volume.id, state=state)


# by an identity that is recorded


def test_the_device_that_is_recorded_is_there(disks: Disks) -> None:
    disks.add("sda", EXT4, wwid="naa.a\n")
    disks.add("sdb", EXT4, wwid="naa.b\n")
    disks.require(knowing(MOVED, "wwid:naa.b"))
    assert disks.asked == []  # nothing is read of any disk


def test_the_former_device_has_the_name(disks: Disks) -> None:
    """It has the same file system, and the same size."""
    disks.add("sda", EXT4, wwid="naa.b\n")
    disks.add("sdb", EXT4, wwid="naa.a\n")
    sentence = disks.refused(knowing(MOVED, "wwid:naa.b"))
    assert "/dev/sdb is another device than srv has there: wwid:naa.a" in sentence
    assert "not wwid:naa.b, which is /dev/sda now" in sentence


def test_a_loop_device_over_another_file(disks: Disks) -> None:
    disks.add("sdb", None, loop__backing_file="/srv/a.img\n")
    sentence = disks.refused(knowing(RAW, "loop:0:/srv/b.img"))
    assert "loop:0:/srv/a.img, and not loop:0:/srv/b.img, which is not there" in sentence


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/dev/sdb", False),
        ("/dev/loop0p1", False),
        ("/dev/disk/by-path/pci-0000:00:05.0", False),
        ("/srv/a-link", False),
        ("/dev/disk/by-id/wwn-0x5000", True),
        ("/dev/disk/by-partuuid/0f", True),
        ("/dev/vg/srv", True),
        ("/dev/mapper/vg-srv", True),
        ("iscsi://192.0.2.1:3260/iqn.2003-01.org.example:a/1#naa.6001", True),
    ],
)
def test_what_names_a_device_itself(path: str, named: bool) -> None:
    assert names_device(path) is named


# without one


@pytest.mark.parametrize("known", ["", f"size:{SIZE}"])
def test_a_twin_of_the_same_size_cannot_be_told_from_it(disks: Disks, known: str) -> None:
    disks.add("sda", EXT4)
    disks.add("sdb", EXT4)
    disks.add("sdc", OTHER)
    sentence = disks.refused(knowing(MOVED, known))
    assert "/dev/sdb and /dev/sda both hold ext4 (UUID 3f1c)" in sentence
    assert "cannot be told" in sentence


@pytest.mark.parametrize("known", ["", f"size:{SIZE}"])
def test_a_disk_with_something_else_is_no_twin(disks: Disks, known: str) -> None:
    disks.add("sda", OTHER)
    disks.add("sdb", EXT4)
    disks.add("sdc", None)
    disks.require(knowing(MOVED, known))


def test_the_file_system_is_on_another_disk_now(disks: Disks) -> None:
    disks.add("sda", EXT4)
    disks.add("sdb", None)
    sentence = disks.refused(knowing(VOLUME, f"size:{SIZE}"))
    assert "/dev/sdb does not hold ext4 (UUID 3f1c), as srv does, and /dev/sda does" in sentence


def test_a_volume_that_was_spoiled_is_the_volume(disks: Disks) -> None:
    disks.add("sda", None)
    disks.add("sdb", None)
    disks.require(knowing(MOVED, f"size:{SIZE}"))


def test_a_size_tells_a_twin_from_it(disks: Disks) -> None:
    disks.add("sda", EXT4, size="4096\n")
    disks.add("sdb", EXT4)
    disks.require(knowing(MOVED, f"size:{SIZE}"))
    assert "both hold" in disks.refused(knowing(MOVED, f"size:{2 * SIZE}"))
    assert "both hold" in disks.refused(MOVED)


def test_a_twin_with_an_identity_of_its_own_is_another(disks: Disks) -> None:
    """The device had none. Where it was not recorded, it may have had that."""
    disks.add("sda", EXT4, wwid="naa.a\n")
    disks.add("sdb", EXT4)
    disks.require(knowing(MOVED, f"size:{SIZE}"))
    assert "/dev/sda" in disks.refused(MOVED)


def test_what_is_in_a_place_is_taken_for_what_was_there(disks: Disks) -> None:
    """As virtio's disks are known that were given no serial number: their slots stay. Where a disk
    says what it is, another one in its place is told.
    """
    path = "/dev/disk/by-path/pci-0000:00:05.0"
    disks.add("sda", EXT4)
    disks.add("sdb", EXT4, wwid="naa.b\n")
    device = BlockDevice(Path("/dev/sda"), DISKS["sda"], SIZE, 512, False)
    volume = replace(MOVED, backing=path)
    for known in ("", f"size:{SIZE}"):
        identity.require_led_to(knowing(volume, known, path), path, device, disks.host)
    with pytest.raises(ForeignDeviceError, match=r"which is /dev/sdb now"):
        identity.require_led_to(knowing(volume, "wwid:naa.b", path), path, device, disks.host)


def test_disks_that_share_a_serial_number_are_told_by_what_is_on_them(disks: Disks) -> None:
    disks.add("sda", EXT4, serial="0123\n")
    disks.add("sdb", EXT4, serial="0123\n")
    disks.add("sdc", EXT4, serial="4567\n")
    known = (("/dev/sda", "serial:0123"), ("/dev/sdb", "serial:0123"))
    assert "/dev/sdb and /dev/sda both" in disks.refused(replace(MOVED, led_to=known))
    assert "both" in disks.refused(MOVED)
    disks.contents["sda"] = OTHER
    disks.require(replace(MOVED, led_to=known))
    disks.contents["sdc"] = OTHER
    begun = Hydration("/dev/sdb", "/dev/sda", SIZE, 1, "boot:1", 0, "serial:0123")
    disks.require(replace(VOLUME, hydration=begun))  # a move that an earlier version began


def test_another_path_to_the_same_disk_is_no_twin(disks: Disks) -> None:
    disks.add("sda", EXT4, wwid="naa.a\n")
    disks.add("sdb", EXT4, wwid="naa.a\n")
    disks.require(MOVED)


def test_a_replica_is_no_twin(disks: Disks) -> None:
    disks.add("sda", EXT4)
    disks.add("sdb", EXT4)
    disks.labels["sda"] = labelled(MOVED, LabelState.CONSISTENT)
    disks.require(MOVED)
    disks.labels["sda"] = labelled(a_volume())
    disks.require(MOVED)


def test_what_a_stack_of_ours_holds_is_no_twin(disks: Disks) -> None:
    held = disks.add("sda", EXT4)
    disks.add("sdb", EXT4)
    upper = disks.tree.device("dm-0", os.makedev(253, 0), dm__uuid="DMSNAP-x-origin-1\n")
    (disks.tree.sysfs.root / "class" / "block" / "dm-0").symlink_to(upper)
    disks.tree.stack(upper, held)
    disks.require(MOVED)


def test_one_that_hangs_or_fails_is_passed_over(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    for name in DISKS:
        disks.add(name, EXT4)
    disks.hanging, disks.failing = {"sda"}, {"sdc"}
    with caplog.at_level(logging.WARNING):
        disks.require(MOVED)
    assert "/dev/sda does not answer: whether it is the device of srv is open" in caplog.text


def test_the_label_of_a_promoted_volume_tells(disks: Disks) -> None:
    """A move leaves none on the device that it leaves."""
    promoted = replace(MOVED, state=VolumeState.PROMOTED, recovery=None)
    disks.add("sda", EXT4)
    disks.add("sdb", EXT4)
    disks.labels["sdb"] = labelled(promoted)
    disks.require(promoted)
    disks.labels["sda"] = labelled(promoted)
    assert "/dev/sdb and /dev/sda both" in disks.refused(promoted)
    del disks.labels["sdb"]
    assert "and /dev/sda does" in disks.refused(promoted)


def test_a_volume_without_a_file_system(disks: Disks) -> None:
    """Any disk that nobody uses looks like it: so only one that was moved is refused for that."""
    disks.add("sda", None)
    disks.add("sdb", None)
    disks.add("sdc", OTHER)
    disks.require(knowing(RAW, f"size:{SIZE}"))
    moved = replace(RAW, left_behind=("/dev/sdx",))
    assert "/dev/sdb and /dev/sda both hold no file system" in disks.refused(moved)
    disks.labels["sda"] = labelled(moved, LabelState.CONSISTENT)
    disks.require(moved)


def test_what_the_volume_has_at_another_path_is_none_of_its_twins(disks: Disks) -> None:
    """The half copy of a move, whose device was recorded before the volume's own was."""
    disks.add("sda", EXT4, wwid="naa.a\n")
    disks.add("sdb", EXT4, wwid="naa.b\n")
    begun = Hydration("/dev/sdb", "/dev/sda", SIZE, 1, "boot:1", 0, "wwid:naa.a")
    disks.require(replace(VOLUME, hydration=begun))
    disks.require(replace(MOVED, led_to=(("/dev/sda", "wwid:naa.a"),)))
    begun = replace(begun, identity="wwid:naa.b")
    sentence = disks.refused(replace(VOLUME, hydration=begun))
    assert sentence.startswith("/dev/sdb is wwid:naa.b, which srv had at /dev/sda")


# what is recorded


def test_what_is_not_the_volumes_any_more_is_forgotten() -> None:
    volume = replace(MOVED, led_to=(("/dev/gone", "wwid:x"), ("/dev/sda", "wwid:a")))
    known = recorded.leading(volume, "/dev/sdb", "wwid:b")
    assert known.led_to == (("/dev/sda", "wwid:a"), ("/dev/sdb", "wwid:b"))
    assert recorded.led_to(known, "/dev/sdb") == "wwid:b"
    assert recorded.led_to(known, "/dev/sdz") == ""


@pytest.mark.parametrize("found", ["wwid:new", ""])
def test_a_move_records_which_device_it_led_to(found: str) -> None:
    """Of an earlier note that is not known; what was at its path before is none of it."""
    moving = replace(
        VOLUME,
        hydration=Hydration("/dev/sdb", "/dev/sdc", SIZE, 1, "boot:1", 0, found),
        left_behind=("/dev/sdc",),
        led_to=(("/dev/sdb", "wwid:old"), ("/dev/sdc", "wwid:older")),
    )
    after = Crossing("/dev/sdb", "/dev/sdc", None, "boot:2", "table", found).applied(moving)
    assert recorded.led_to(after, "/dev/sdc") == found
    assert recorded.led_to(after, "/dev/sdb") == "wwid:old"


def test_a_device_that_went_away_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(_devno: int, **_where: Any) -> str:
        raise OperatingSystemError("no such device")

    monkeypatch.setattr(inventory, "device_identity", gone)
    assert identity.noted(VOLUME, "/dev/sdb", 1).led_to == ()
    assert "which device /dev/sdb is cannot be recorded: no such device" in caplog.text
