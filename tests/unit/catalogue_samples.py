"""Values to record in a catalogue."""

from uuid import uuid4

from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.catalogue.model import Area, AreaRole, MountRecord, Point, Volume, VolumeState


def a_volume(name: str = "srv") -> Volume:
    return Volume(
        id=uuid4(),
        name=name,
        state=VolumeState.BUILDING,
        backing="/dev/vg/srv",
        recovery="/dev/sdb",
        recovery_id=uuid4(),
        store="/var/lib/dmsnap/store",
        size_bytes=2**44,
        block_bytes=65536,
        chunk_bytes=4096,
        fs_type="ext4",
        fs_uuid="3f1c",
        mounts=(
            MountRecord("/srv", "ext4", ("rw", "noatime")),
            MountRecord("/mnt/a b", "ext4", ()),
        ),
        generation=1,
        tracking_id="boot:1",
        created_ns=1_790_000_000_000_000_001,
    )


def an_area(volume: Volume, role: AreaRole = AreaRole.COW) -> Area:
    return Area(uuid4(), volume.id, role, 1, f"/store/{uuid4().hex}.img", 2**34, uuid4())


def a_point(volume: Volume, created_ns: int = 5) -> Point:
    return Point(
        uuid4(), volume.id, created_ns, True, False, 2**32 - 1, "boot:1", 0.0034, uuid4(), "torn",
        expires_ns=2**62, comment="before the change",
    )  # fmt: skip


def an_export(volume: Volume) -> Export:
    return Export(
        id=uuid4(),
        source=Source(ExportKind.POINT, volume.id, uuid4(), None, 2**44),
        target="iqn.2026-01.local.dmsnap:srv-1",
        lun=0,
        address="2001:db8::1",
        port=3260,
        initiators=("iqn.2026-01.org.example:a", "iqn.2026-01.org.example:b"),
        read_only=True,
        generation=1,
        complete=False,
        created_ns=1,
    )
