"""The stack of a volume: the names of its dm devices and the tables they should have.

::

    NAME                   front    era over origin
    dmsnap-NAME-origin-G   origin   snapshot-origin over the backing device
    dmsnap-NAME-point-ID   point    snapshot + COW store, one per live point

Of a volume whose layers were put under a mounted LV (snapshot.layers), the LV's own dm device is
the front until the next boot, and a base of ours stands for the LV below the origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue.model import SETTLED, Area, AreaRole, LiveFront, Point, Volume
from dmsnap.errors import BusyError, StackChangedError
from dmsnap.host import kernel, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.cookie import UdevFlags
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Snapshot, SnapshotOrigin, Table, format_table, single
from dmsnap.host.sysfs import SYSFS
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.space import open_space

try:
    # What hashlib has; that would load all of OpenSSL, for one name.
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s

TARGETS = ("era", "snapshot", "snapshot-origin", "snapshot-merge", "linear")
NAME_PREFIX = "dmsnap-"


@dataclass(frozen=True, slots=True)
class DmName:
    """A dm device of ours: its name and the UUID that proves ownership."""

    name: str
    uuid: str


def front(volume: Volume) -> DmName:
    """What people mount: a device of ours with the volume's name, or until the next boot LVM's."""
    live = live_front(volume)
    return DmName(live.name, live.uuid) if live else own_front(volume)


def own_front(volume: Volume) -> DmName:
    """The front that is ours: the name that people mount."""
    return DmName(volume.name, f"{dm.UUID_PREFIX}{volume.id}-front")


def live_front(volume: Volume) -> LiveFront | None:
    """The LV's own dm device, while that is the front: in the boot in which it was made so."""
    live = volume.live
    return live if live is not None and live.boot_id == kernel.boot_id() else None


def base(volume: Volume) -> DmName:
    """What stands for an LV below the origin until the next boot.

    Named after the LV: after a commit the volume lies on another device, and this one does not
    stand for that.
    """
    digest = blake2s(volume.backing.encode(errors="surrogateescape"), digest_size=6)
    return _hidden(volume, "base", digest.hexdigest())


def backing(volume: Volume) -> BlockDevice:
    """What the origin lies on: the recorded device, or what stands for it."""
    info = find(base(volume))
    return BlockDevice.probe(dm.node(info.name) if info else lun.node(volume.backing))


def origin(volume: Volume, generation: int | None = None) -> DmName:
    """The device under the front; its generation rises with every swap."""
    return _hidden(volume, "origin", str(volume.generation if generation is None else generation))


def era_maker(volume: Volume) -> DmName:
    """A device that exists for a moment, for dm-era to make the metadata of a generation."""
    return _hidden(volume, "era", str(volume.generation))


def spare_maker(volume: Volume) -> DmName:
    """The same for metadata that no generation has yet."""
    return _hidden(volume, "era", "spare")


def hydrated(volume: Volume) -> DmName:
    """What holds and counts writes to the device that the volume is being moved to."""
    return _hidden(volume, "hydrated", "1")


def live_point(volume: Volume, point_id: UUID) -> DmName:
    """A live COW snapshot on the primary."""
    return _hidden(volume, "point", point_id.hex[:12])


def history_level(volume: Volume, position: int, purpose: str) -> DmName:
    """A level of the stacked undo stores; position 0 is one step back."""
    return _hidden(volume, "history", f"{purpose}-{position}")


def history_store(volume: Volume, position: int, purpose: str) -> DmName:
    """The slice of the recovery volume that holds a level's undo store."""
    return _hidden(volume, "store", f"{purpose}-{position}")


def store_again(device: DmName) -> DmName:
    """Another name of the exception store below a device: the kernel reads it anew by that."""
    return DmName(f"{device.name}-store", f"{device.uuid}-store")


def browse(volume: Volume, point_id: UUID) -> DmName:
    """The throwaway overlay over a point that is mounted."""
    return _hidden(volume, "browse", point_id.hex[:12])


def exported(volume: Volume, mark: str) -> DmName:
    """A point as LIO publishes it: of the volume's size, read-only."""
    return _hidden(volume, "export", mark)


def _hidden(volume: Volume, role: str, suffix: str) -> DmName:
    return DmName(
        f"{NAME_PREFIX}{volume.name}-{role}-{suffix}",
        f"{dm.UUID_PREFIX}{volume.id}-{role}-{suffix}",
    )


def find(device: DmName) -> DmInfo | None:
    """The state of one of our devices, found by UUID; None when it is not there.

    :class:`StackChangedError` when somebody renamed it: what is done by name, a table loaded into
    the front above all, would hit whoever has that name now.
    """
    info = dm.info(uuid=device.uuid)
    if info is not None and info.name != device.name:
        raise StackChangedError(
            f"the dm device {device.name} was renamed to {info.name}",
            hint=f"give it its name back: dmsetup rename {info.name} {device.name}",
            device=device.name,
        )
    return info


def require(device: DmName) -> DmInfo:
    """As :func:`find`; a device that is missing is a :class:`StackChangedError`, too."""
    info = find(device)
    if info is None:
        raise StackChangedError(f"the dm device {device.name} is missing", device=device.name)
    return info


def exists(device: DmName) -> bool:
    """Whether one of our devices is there."""
    return find(device) is not None


def remove(device: DmName) -> None:
    """Remove one of our devices, found by UUID; nothing happens when it is not there."""
    info = dm.info(uuid=device.uuid)
    if info is not None:
        dm.remove(info.name)


def attach_area(volume: Volume, area: Area) -> BlockDevice:
    """The block device of a piece of the volume's store."""
    return open_space(volume.store).attach(area.path)


def front_table(volume: Volume, metadata: BlockDevice) -> Table:
    """dm-era over the origin."""
    below = require(origin(volume))
    return single(volume.size_bytes, Era(metadata.devno, below.devno, volume.block_bytes))


def origin_table(volume: Volume, backing: BlockDevice) -> Table:
    """Always a snapshot-origin, so that taking a point needs no table change."""
    return single(volume.size_bytes, SnapshotOrigin(backing.devno))


def point_table(volume: Volume, backing: BlockDevice, cow: BlockDevice) -> Table:
    """A live point."""
    return single(volume.size_bytes, Snapshot(backing.devno, cow.devno, volume.chunk_bytes))


def era_area(volume: Volume, areas: Sequence[Area]) -> Area:
    """The era metadata that the volume's present generation uses."""
    for area in areas:
        if area.role is AreaRole.ERA_METADATA and area.generation == volume.generation:
            return area
    raise StackChangedError(f"the catalogue has no era metadata for {volume.name}")


def turn_discards_off(volume: Volume) -> None:
    """Keep dm-era from seeing discards.

    A discard over several blocks marks only its first one (drivers/md/dm-era-target.c, era_map):
    the others would change unseen. Set again after every load of the front's table, which
    recomputes the queue's limits.
    """
    SYSFS.set_discard_max_bytes(require(front(volume)).devno, 0)


def expected_tables(volume: Volume, areas: list[Area], points: list[Point]) -> dict[DmName, Table]:
    """What a protected volume's devices should look like now."""
    below = backing(volume)
    by_id = {area.id: area for area in areas}
    metadata = attach_area(volume, era_area(volume, areas))
    tables = {
        front(volume): front_table(volume, metadata),
        origin(volume): origin_table(volume, below),
    }
    for point in points:
        if point.area_id is not None and point.invalid_reason is None:
            if point.area_id not in by_id:
                # Read by somebody who holds no lock: it was removed between two looks.
                raise StackChangedError(f"the COW store of point {point.id} is gone")
            cow = attach_area(volume, by_id[point.area_id])
            tables[live_point(volume, point.id)] = point_table(volume, below, cow)
    return tables


def settle(
    device: DmName,
    table: Table,
    deadline_ms: int,
    udev: UdevFlags = UdevFlags.HIDDEN,
    *,
    read_only: bool = False,
) -> None:
    """Have one of our devices with ``table``, and not suspended.

    One that has another may be used: then it gets this in a window of at most ``deadline_ms``.

    An era target is never loaded over another one, which may have the same metadata open and
    would then destroy it.
    """
    info = find(device)
    if info is None:
        dm.create(device.name, device.uuid, table, udev=udev, read_only=read_only)
        return
    live = dm.table(info.name)
    if live == table:
        if info.suspended:
            dm.resume(info.name, udev=udev)
        return
    if any(isinstance(line.target, Era) for line in live):
        raise StackChangedError(
            f"{device.name} has another table of dm-era: {format_table(live)}",
            hint=f"unmount it, remove it with dmsetup remove {device.name}, and assemble it again",
        )
    if info.suspended or not info.live_table:
        dm.reload(info.name, table, udev=udev, read_only=read_only)
    else:
        exchange(info, table, deadline_ms, udev=udev, read_only=read_only)


def differences(expected: dict[DmName, Table]) -> list[str]:
    """A sentence for every device that is missing, suspended or has another table."""
    found = []
    for device, table in expected.items():
        info = find(device)
        if info is None or not info.live_table:
            found.append(f"{device.name} is missing")
        elif info.suspended:
            found.append(f"{device.name} is suspended")
        elif dm.table(info.name) != table:
            found.append(_other_table(device))
    return found


def _other_table(device: DmName) -> str:
    if not device.uuid.startswith(dm.UUID_PREFIX):
        return passed_by(device.name)
    return f"{device.name} has another table: {format_table(dm.table(device.name))}"


def passed_by(name: str) -> str:
    """That the layers under an LV were dropped."""
    return (
        f"LVM has put its own table back under {name}, as lvextend or lvchange --refresh do: what "
        f"is written to it passes the layers by"
    )


def problems(volume: Volume, areas: list[Area], points: list[Point]) -> list[str]:
    """What is wrong with a protected volume's devices, a sentence each; none when all is well."""
    below = origin(volume)
    if not exists(below):
        # Without it nobody can say what the front's table should be.
        return [f"{below.name} is missing"]
    return differences(expected_tables(volume, areas, points))


def check(volume: Volume, areas: list[Area], points: list[Point]) -> None:
    """Raise :class:`StackChangedError` unless the live tables are what they should be."""
    if volume.state not in SETTLED:
        return
    found = problems(volume, areas, points)
    if found:
        raise StackChangedError(
            f"the stack of {volume.name} is not as dmsnap left it: {'; '.join(found)}",
            hint=f"dmsnap assemble {volume.name} puts it right",
            differences=found,
        )


def require_held_by(volume: Volume, device: BlockDevice) -> None:
    """Raise :class:`BusyError` when anything but the volume's own dm devices holds a device."""
    ours = f"{dm.UUID_PREFIX}{volume.id}-"
    for holder in SYSFS.holders(device.devno):
        if not (SYSFS.dm_uuid(holder) or "").startswith(ours):
            raise BusyError(f"{device.path} is held by {SYSFS.display_name(holder)}")
