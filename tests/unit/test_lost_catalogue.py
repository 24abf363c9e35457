"""Names of pieces, machine-ids, leases: what is read again when the catalogue is gone."""

import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap._native.label import HistoryFlag, Label, LabelState, LabelTwin
from dmsnap.catalogue.model import AreaRole, MountRecord
from dmsnap.catalogue.sqlite import SqliteFile
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, ForeignDeviceError
from dmsnap.host import kernel
from dmsnap.recovery import lease
from dmsnap.snapshot.space import PieceName, piece_name, plan_area

POINT = UUID("0123456789abcdef0123456789abcdef")
HERE, THERE = uuid4(), uuid4()
DISK = Path("/dev/sdb")


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: HERE)
    monkeypatch.setattr(kernel, "host_name", lambda: "here")


def a_label(**changes: object) -> Label:
    made = Label(
        generation=5,
        size_bytes=2**30,
        volume_uuid=uuid4(),
        recovery_uuid=uuid4(),
        state=LabelState.CONSISTENT,
        flags=HistoryFlag(0),
        point_uuid=uuid4(),
        point_time_ns=1,
        next_point_uuid=None,
        next_point_time_ns=0,
        history_offset_bytes=0,
        history_length_bytes=0,
        name="srv",
        fs_type="ext4",
        fs_uuid="",
        host="there",
        host_uuid=THERE,
        lease_time_ns=10**18,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# names


@pytest.mark.parametrize("role", list(AreaRole))
@pytest.mark.parametrize("point_id", [None, POINT])
@pytest.mark.parametrize("store", ["/var/lib/dmsnap/store", "vg0"])
def test_a_piece_says_what_it_is(role: AreaRole, point_id: UUID | None, store: str) -> None:
    volume = replace(a_volume("a-cow-b"), store=store, generation=3)
    area = plan_area(volume, role, 1, point_id=point_id)
    digits = "0123456789ab" if point_id else None
    assert piece_name(area.path) == PieceName("a-cow-b", role, 3, digits)
    assert (area.generation, area.point_id) == (3, point_id)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/s/srv-cow-0a1b2c3d.img", PieceName("srv", AreaRole.COW, None, None)),
        ("/dev/vg/dmsnap-srv-era-metadata-0a1b2c3d",
         PieceName("srv", AreaRole.ERA_METADATA, None, None)),
        ("/s/srv-cow-0a1b2c3.img", None),
        ("/s/srv-photo-0a1b2c3d.img", None),
        ("/s/-cow-0a1b2c3d.img", None),
        ("/s/holiday.img", None),
    ],
)  # fmt: skip
def test_names_of_before_and_of_others(path: str, expected: PieceName | None) -> None:
    assert piece_name(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0123456789abcdef0123456789abcdef\n", POINT),
        ("uninitialized\n", None),
        ("", None),
        ("0123", None),
    ],
)
def test_machine_id(tmp_path: Path, text: str, expected: UUID | None) -> None:
    path = tmp_path / "machine-id"
    path.write_text(text)
    assert kernel.machine_id_in(path) == expected
    assert kernel.machine_id_in(tmp_path / "missing") is None


# leases


def test_a_label_that_is_written_is_ours() -> None:
    stamped = lease.stamped(a_label(), a_volume())
    assert (stamped.host, stamped.host_uuid) == ("here", HERE)
    assert stamped.lease_time_ns > 10**18
    assert (stamped.block_size, stamped.chunk_size) == (128, 8)
    assert (stamped.device, stamped.store) == ("/dev/vg/srv", "/var/lib/dmsnap/store")
    assert (stamped.mount_point, stamped.mount_options) == ("/srv", "rw,noatime")
    assert lease.is_ours(stamped)
    assert lease.is_ours(lease.released(stamped))


def test_what_does_not_fit_is_not_said() -> None:
    """A part of a path would lead elsewhere."""
    long = replace(
        a_volume(),
        backing="/dev/disk/by-id/" + "x" * 200,
        store="/" + "y" * 128,
        mounts=(MountRecord("/srv", "ext4", ("z" * 129,)),),
    )
    stamped = lease.stamped(a_label(device="/dev/old", mount_point="/old"), long)
    assert (stamped.device, stamped.store) == ("", "")
    assert (stamped.mount_point, stamped.mount_options) == ("", "")


def test_another_hosts_claim() -> None:
    with pytest.raises(ForeignDeviceError, match="there") as caught:
        lease.require_ours(DISK, a_label())
    assert "last sign of life is of 2001-09-09T01:46:40Z" in str(caught.value)
    assert "--force" in (caught.value.hint or "")
    lease.require_ours(DISK, a_label(host_uuid=None))
    lease.require_ours(DISK, a_label(host_uuid=HERE))


def test_a_host_without_an_identity_owns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: None)
    assert lease.renewed(a_label()).host_uuid is None
    assert not lease.is_ours(a_label())


@pytest.mark.parametrize("twin", list(LabelTwin))
def test_damaged_sectors(twin: LabelTwin) -> None:
    label = a_label(twin=twin)
    assert (lease.damage(DISK, label) is None) == (twin in (LabelTwin.SAME, LabelTwin.EARLIER))
    if twin is LabelTwin.DOUBTFUL:
        with pytest.raises(CorruptError, match="may have been the newer one"):
            lease.require_trusted(DISK, label)
    else:
        lease.require_trusted(DISK, label)


# the file


def test_a_damaged_catalogue_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state" / "catalogue.db"
    assert SqliteFile(path).damage() is None
    with Catalogue.open(path) as catalogue:
        catalogue.add_volume(a_volume())
    assert SqliteFile(path).damage() is None
    spoiled = bytearray(path.read_bytes())
    spoiled[4096:] = os.urandom(len(spoiled) - 4096)
    path.write_bytes(spoiled)
    assert SqliteFile(path).damage()
    aside = SqliteFile(path).set_aside()
    assert aside.read_bytes() == spoiled
    assert not path.exists()
    with Catalogue.open(path) as catalogue:
        assert catalogue.volumes() == []
    assert aside.exists()


def test_a_file_that_is_none_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    path.write_bytes(os.urandom(8192))
    assert SqliteFile(path).damage()
    path.write_bytes(b"")
    assert SqliteFile(path).damage() is None


def test_a_whole_volume_is_recorded_at_once(tmp_path: Path) -> None:
    volume = a_volume()
    areas = [an_area(volume), an_area(volume, AreaRole.OVERLAY)]
    points = [a_point(volume, 1), a_point(volume, 2)]
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(volume)
        catalogue.add_point(points[0])
        catalogue.remove_volume(volume.id)
        catalogue.add_whole(volume, areas, points)
        assert catalogue.volume("srv") == volume
        assert catalogue.areas(volume.id) == areas
        assert catalogue.points(volume.id) == points
