"""What is mounted again where a volume was, and over what it is not."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from dmsnap.catalogue.model import MountRecord
from dmsnap.errors import BusyError, DmsnapError, MountPointTakenError
from dmsnap.host import mount, mount_tree, mountinfo, placeholder
from dmsnap.host.mountinfo import Mount
from dmsnap.service.swaps import mounting

FRONT, OTHER = 0xFE01, 0x0801
DEVICE = Path("/dev/mapper/srv")
HELD, HELD_AS = 0x30, placeholder.source(UUID(int=1), "srv")
SRV, PARKING = Path("/srv"), Path("/run/dmsnap/mounts/srv")


class Table:
    """A mount table: what is mounted last at a place is on top of what is there."""

    def __init__(self) -> None:
        self.entries: list[Mount] = []
        self.ids = count(100)

    def put(self, place: Path, devno: int, fs_type: str = "ext4", source: str = "") -> None:
        above = [entry for entry in self.entries if place.is_relative_to(entry.mount_point)]
        parent_id = above[-1].mount_id if above else 1
        names = {FRONT: str(DEVICE), OTHER: "/dev/sda1"}
        self.entries.append(
            Mount(
                next(self.ids), parent_id, devno, "/", place,
                ("rw", "relatime"), fs_type, source or names.get(devno, fs_type), ("rw",),
            )
        )  # fmt: skip

    def hold(self, place: Path) -> None:
        """Put a placeholder there."""
        self.put(place, HELD, "tmpfs", HELD_AS)
        self.entries[-1] = replace(self.entries[-1], super_options=("ro", "nr_inodes=2"))

    def take(self, place: Path) -> None:
        top = mountinfo.mount_at(place)
        assert top is not None
        self.entries.remove(top)

    def at(self, place: Path) -> list[int]:
        return [entry.devno for entry in self.entries if entry.mount_point == place]


def refused(_place: Path) -> None:
    raise DmsnapError("nothing is mounted in a placeholder's place")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table()

    def mounted(_device: Path, place: Path, fs_type: str, _options: Sequence[str]) -> None:
        made.put(place, FRONT, fs_type)

    def bound(source: Path, place: Path, _options: Sequence[str] = ()) -> None:
        there = mountinfo.mount_at(source)
        assert there is not None
        made.put(place, there.devno, there.fs_type)

    monkeypatch.setattr(mountinfo, "mounts", lambda **_: list(made.entries))
    monkeypatch.setattr(mount, "mounts", lambda **_: list(made.entries))
    monkeypatch.setattr(mount, "mount", mounted)
    monkeypatch.setattr(mount, "bind", bound)
    monkeypatch.setattr(mount, "detach", made.take)
    monkeypatch.setattr(mount, "unmount", lambda place, *_: made.take(place))
    monkeypatch.setattr(placeholder, "unmount", lambda place, _held_as, _seconds: made.take(place))
    monkeypatch.setattr(mount_tree, "make_private", refused)
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(Path, "is_dir", lambda _path: True)
    return made


def unmounted(table: Table) -> tuple[MountRecord, ...]:
    """How the front was mounted, after it was unmounted."""
    records = mounting.records(FRONT, PARKING)
    take_down(records)
    assert mountinfo.mounts_of(FRONT) == []
    return records


def take_down(records: Sequence[MountRecord]) -> None:
    mounting.unmount(FRONT, 0, records, held_as=HELD_AS)


def test_it_is_not_mounted_over_what_somebody_else_has_mounted(table: Table) -> None:
    table.put(SRV, FRONT)
    records = unmounted(table)
    table.put(SRV, OTHER)
    with pytest.raises(MountPointTakenError, match=r"/dev/sda1 is mounted on /srv by now"):
        mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [OTHER]
    table.take(SRV)
    mounting.mount_all(DEVICE, FRONT, records)
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [FRONT]


def test_what_lay_there_before_is_mounted_over_again(table: Table) -> None:
    table.put(SRV, OTHER)
    table.put(SRV, FRONT)
    records = unmounted(table)
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [OTHER, FRONT]
    table.take(SRV)
    table.put(SRV, 0x15, "tmpfs")
    with pytest.raises(MountPointTakenError, match="tmpfs is mounted on /srv by now"):
        mounting.mount_all(DEVICE, FRONT, records)


def test_an_automount_unit_only_waits_there(table: Table) -> None:
    table.put(SRV, 0x2A, "autofs", "systemd-1")
    table.put(SRV, FRONT)
    records = unmounted(table)
    assert [record.over for record in records] == [0]
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [0x2A, FRONT]


def test_what_covers_the_volume_covers_it_again(table: Table) -> None:
    table.put(SRV, FRONT)
    table.put(SRV, OTHER)
    records = unmounted(table)
    assert [(record.inside, record.over) for record in records] == [(False, 0), (True, 0)]
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [FRONT, OTHER]


def test_who_was_killed_between_two_mounts_of_one_is_finished(table: Table) -> None:
    """It is mounted inside again, and parked still."""
    table.put(SRV, FRONT)
    table.put(SRV / "disk", OTHER)
    records = unmounted(table)
    parked = Path(records[1].bind_from)
    table.put(SRV, FRONT)
    table.put(SRV / "disk", OTHER)
    mounting.mount_all(DEVICE, FRONT, records)
    assert (table.at(SRV / "disk"), table.at(parked)) == ([OTHER], [])


def test_what_was_inside_stays_parked_where_its_place_is_taken(table: Table) -> None:
    table.put(SRV, FRONT)
    table.put(SRV / "disk", OTHER)
    records = unmounted(table)
    table.put(SRV, FRONT)
    table.put(SRV / "disk", 0x15, "tmpfs")
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV / "disk") == [0x15]
    assert table.at(Path(records[1].bind_from)) == [OTHER]


def test_only_the_volume_itself_is_unmounted(table: Table) -> None:
    table.put(SRV, FRONT)
    records = mounting.records(FRONT, PARKING)
    table.put(SRV, OTHER)
    with pytest.raises(BusyError, match="over what is to be unmounted there"):
        take_down(records)
    assert table.at(SRV) == [FRONT, OTHER]


def test_a_placeholder_is_in_nobodys_way(table: Table) -> None:
    table.put(SRV, FRONT)
    records = unmounted(table)
    table.hold(SRV)
    assert mounting.records(FRONT, PARKING) == ()
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [FRONT]


def test_a_placeholder_beneath_the_volume_is_not_counted(table: Table) -> None:
    """It is there after an attempt to unmount that failed."""
    table.hold(SRV)
    table.put(SRV, FRONT)
    records = unmounted(table)
    assert [record.over for record in records] == [0]
    table.put(SRV, OTHER)
    with pytest.raises(MountPointTakenError):
        mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [HELD, OTHER]


def test_a_placeholder_over_the_volume_goes(table: Table) -> None:
    """A command was killed when it had just mounted the volume again."""
    table.put(SRV, FRONT)
    records = mounting.records(FRONT, PARKING)
    table.hold(SRV)
    assert mounting.records(FRONT, PARKING) == records
    mounting.mount_all(DEVICE, FRONT, records)
    assert table.at(SRV) == [FRONT]
    table.hold(SRV)
    take_down(records)
    assert table.at(SRV) == []


def test_a_mount_within_the_volume_is_not_held(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A placeholder would keep busy what it lies in."""
    held: list[Path] = []

    def unmount(place: Path, _held_as: str, _seconds: float) -> None:
        held.append(place)
        table.take(place)

    monkeypatch.setattr(placeholder, "unmount", unmount)
    for place in (SRV, SRV / "bound", SRV, Path("/mnt"), Path("/mnt/bound")):
        table.put(place, OTHER if place.name == "mnt" else FRONT)
    take_down(())
    assert held == [Path("/mnt/bound"), SRV]


def test_what_was_about_to_be_mounted_is_no_mount_of_it(table: Table) -> None:
    """A command was killed when it had mounted the volume in the placeholder."""
    stage = SRV / placeholder.STAGE
    table.put(SRV, FRONT)
    records = unmounted(table)
    table.hold(SRV)
    table.put(stage, FRONT)
    assert mounting.records(FRONT, PARKING) == ()
    take_down(records)
    assert (table.at(stage), table.at(SRV)) == ([], [HELD])
    table.put(stage, FRONT)
    mounting.mount_all(DEVICE, FRONT, records)
    assert (table.at(stage), table.at(SRV)) == ([], [FRONT])
    table.put(stage, FRONT)
    assert len(mounting.records(FRONT, PARKING)) == 2  # a directory of theirs, by that name
