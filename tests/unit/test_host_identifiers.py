"""By what a device is known: a directory of links, and sysfs as a tree."""

import os
from pathlib import Path

from dmsnap.host import identifiers
from dmsnap.host.sysfs import Sysfs

DEVNO = os.makedev(253, 3)
GROUP, VOLUME = "6kSyhg5F3rQlK4XfVUqHqAtrLbGc2uRz", "WnzmVQEd0GzPn2yBqWkR0zUe3Mtj7XqF"


def device(root: Path, **attributes: str) -> Sysfs:
    directory = root / "devices" / "dm-3"
    link = root / "dev" / "block" / "253:3"
    link.parent.mkdir(parents=True)
    link.symlink_to(directory)
    for name, text in attributes.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sysfs(root)


def test_links_lead_to_one_device_by_several_names(tmp_path: Path) -> None:
    """Character devices stand for disks: what a link leads to is known by its number."""
    for directory, name, node in (
        ("by-id", "b", "/dev/null"), ("by-uuid", "a", "/dev/null"), ("by-id", "c", "/dev/zero"),
        ("by-path", "stale", "/dev/gone-since"), ("other", "d", "/dev/null"),
    ):  # fmt: skip
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / name).symlink_to(node)
    null = Path("/dev/null").stat().st_rdev
    assert identifiers.links_to([null], directory=tmp_path) == [
        f"{tmp_path}/by-id/b",
        f"{tmp_path}/by-uuid/a",
    ]
    assert identifiers.links_to([], directory=tmp_path) == []
    assert identifiers.links_to([null], directory=tmp_path / "none") == []


def test_uuids_of_lvm_are_shown_as_lvm_shows_them(tmp_path: Path) -> None:
    sysfs = device(tmp_path, dm__uuid=f"LVM-{GROUP}{VOLUME}\n")
    assert identifiers.lvm_uuids(DEVNO, sysfs=sysfs) == (
        "WnzmVQ-Ed0G-zPn2-yBqW-kR0z-Ue3M-tj7XqF",
        "6kSyhg-5F3r-QlK4-XfVU-qHqA-trLb-Gc2uRz",
    )


def test_what_is_no_logical_volume_has_no_such_uuids(tmp_path: Path) -> None:
    for number, uuid in enumerate(("CRYPT-LUKS2-x", f"LVM-{GROUP}{VOLUME}-real", "LVM-short")):
        sysfs = device(tmp_path / str(number), dm__uuid=uuid)
        assert identifiers.lvm_uuids(DEVNO, sysfs=sysfs) is None
    assert identifiers.lvm_uuids(DEVNO, sysfs=device(tmp_path / "disk", size="8")) is None


def test_a_disk_names_itself(tmp_path: Path) -> None:
    scsi = device(tmp_path / "scsi", device__wwid="naa.6001405 \n")
    nvme = device(tmp_path / "nvme", wwid="eui.0025385\n")
    assert identifiers.wwid(DEVNO, sysfs=scsi) == "naa.6001405"
    assert identifiers.wwid(DEVNO, sysfs=nvme) == "eui.0025385"
    assert identifiers.wwid(DEVNO, sysfs=device(tmp_path / "loop", size="8")) is None


def test_a_disk_without_a_name_of_its_own_may_have_a_number(tmp_path: Path) -> None:
    virtio = device(tmp_path / "virtio", serial="VB-7 \n")
    card = device(tmp_path / "card", device__cid="035344\n")
    assert identifiers.serial(DEVNO, sysfs=virtio) == "VB-7"
    assert identifiers.serial(DEVNO, sysfs=card) == "035344"
    assert identifiers.serial(DEVNO, sysfs=device(tmp_path / "none", serial="\n")) is None
