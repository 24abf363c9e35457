"""What a backup of the catalogue adds to a volume that was put together from what there is.

Labels and stacks say what is; the backup, what was: it may be of an earlier moment, or be forged.
So of the present it only gives what nobody could see, and only where it fits to what is seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dmsnap.catalogue import rows
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.excerpt import Excerpt, Row
from dmsnap.catalogue.model import SETTLED, Hydration, MountRecord, Point, Volume, VolumeState
from dmsnap.errors import DmsnapError, ForeignDeviceError, WrongStateError
from dmsnap.host import blockdev, inventory, lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear
from dmsnap.service.records import evidence as pieces
from dmsnap.service.records.backup import Recalled
from dmsnap.service.records.evidence import Evidence
from dmsnap.service.volumes import identity
from dmsnap.snapshot import stack


def of_before(recalled: Recalled) -> Recalled:
    """What a recovery volume recalls that has become the volume itself: it is of before the commit.

    Nothing is backed up on it from then on. What was published then, or on its way to another
    device, may have ended since, and the device that is spoken of was the former one.
    """
    past = recalled.excerpt
    if past is None:
        return recalled
    row = {**past.volume, "hydration": None, "device_bytes": None}
    rows_then = {**past.rows, "volume": (row,), "export": ()}
    return replace(recalled, excerpt=replace(past, rows=rows_then))


def volume(evidence: Evidence, found: Volume) -> Volume:
    """``found`` with what was recorded of it and can be seen nowhere.

    How large the device is that a commit has put in the volume's place can be seen.
    """
    past = evidence.recalled.excerpt
    if past is None:
        return found
    row = past.volume
    return replace(
        found,
        created_ns=row["created_ns"],
        units=tuple(row["units"] or ()),
        left_behind=tuple(row["left_behind"] or ()),
        mounts=mounts(found, rows.mounts(row)),
        joined=bool(row["joined"]),
        device_bytes=found.device_bytes
        if found.state is VolumeState.PROMOTED
        else row["device_bytes"],
    )


def mounts(found: Volume, recorded: tuple[MountRecord, ...]) -> tuple[MountRecord, ...]:
    """All mounts, where no more than the first was found and it is the one recorded."""
    places = [mount.mount_point for mount in found.mounts]
    fits = places == [mount.mount_point for mount in recorded][: len(places)]
    return recorded if len(places) <= 1 and fits else found.mounts


def points(past: Excerpt | None, found: Sequence[Point]) -> list[Point]:
    """``found`` with what was said of them, and when those were taken, and whether they are to be
    kept, that are live.
    """
    recorded = {row["id"]: row for row in past.of("point")} if past else {}
    return [point_as(recorded.get(str(point.id)), point) for point in found]


def point_as(row: Row | None, found: Point) -> Point:
    if row is None or row["deleted_ns"] is not None:
        return found
    seen = replace(
        found,
        window_seconds=float(row["window_seconds"]),
        expires_ns=row["expires_ns"],
        comment=row["comment"],
    )
    if found.area_id is None:
        return seen  # the label says the rest
    return replace(seen, created_ns=row["created_ns"], keep=row["keep"])


def notes(recalled: Recalled, found: Iterable[Point]) -> Iterator[str]:
    """What became of the backup, and what it has that is not there any more."""
    if recalled.reason:
        yield recalled.reason
    past = recalled.excerpt
    if past is None:
        return
    there = {point.id for point in found}
    lost = [point_id for point_id in past.point_ids if point_id not in there]
    if lost:
        yield f"{len(lost)} points were not found, and are recorded as deleted"
    for row in past.of("export"):
        yield (
            f"LUN {row['lun']} of {row['target']} was exported to "
            f"{', '.join(row['initiators'])} at {format_time(recalled.written_ns or 0)}: it is "
            f"recorded again; dmsnap export list shows whether it is there"
        )


# a move to another device


def moving(evidence: Evidence, found: Volume) -> tuple[Hydration | None, str | None]:
    """The move that is under way, and what has to be said of one that is not recorded again.

    The marks of what was copied are lost: what is there already is compared when it goes on.
    """
    past = evidence.recalled.excerpt
    recorded = rows.hydration(past.volume) if past else None
    if found.state not in SETTLED:
        return None, None
    target = held_target(found)
    if target is not None:
        same = recorded is not None and leads_to_same(recorded.target, target)
        position_bytes = recorded.position_bytes if recorded and same else 0
        known_as = inventory.device_identity(target)
        return begun(found, pieces.stable_path(target), position_bytes, known_as), None
    if recorded is None or recorded.target == found.backing:
        return None, None
    try:
        require_target(found, recorded.target)
    except DmsnapError as error:
        return None, f"a move of {found.name} to {recorded.target} is not recorded again: {error}"
    position_bytes, known_as = recorded.position_bytes, recorded.identity
    return begun(found, recorded.target, position_bytes, known_as), None


def begun(found: Volume, target: str, position_bytes: int, known_as: str) -> Hydration:
    """A move whose marks are trusted by nobody."""
    position_bytes = min(position_bytes, found.size_bytes)
    return Hydration(found.backing, target, position_bytes, 0, "", 0, known_as)


def held_target(found: Volume) -> int | None:
    """The device that our own dm device holds for a move; None: none, or the move is through."""
    info = stack.find(stack.hydrated(found))
    if info is None or not info.live_table:
        return None
    target = dm.table(info.name)[0].target
    if not isinstance(target, Linear) or leads_to_same(found.backing, target.device):
        return None
    return target.device


def leads_to_same(path: str, devno: int) -> bool:
    try:
        return BlockDevice.probe(lun.node(path)).devno == devno
    except DmsnapError:
        return False


def require_target(found: Volume, path: str) -> None:
    """A device that nobody uses, on which nothing is but what may have been copied to it."""
    device = BlockDevice.probe(Path(path))
    used = [each for each in (found.backing, found.recovery) if each]
    if any(leads_to_same(each, device.devno) for each in used) or any(
        blockdev.depends_on(BlockDevice.probe(lun.node(each)).devno, device.devno) for each in used
    ):
        raise ForeignDeviceError(f"{found.name} lies on it")
    if blockdev.holders(device.devno) or device.size_bytes < found.size_bytes:
        raise WrongStateError("it is in use, or smaller than the volume")
    content = signature.probe(device.path)
    if identity.is_foreign(found, content):
        raise ForeignDeviceError(f"it holds {content}")
