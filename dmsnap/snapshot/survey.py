"""The stacks that live now, read from dm tables and from the UUIDs that prove them ours."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Snapshot, SnapshotOrigin, Target

OURS = re.compile(rf"{dm.UUID_PREFIX}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})-(.+)")
ORIGIN = re.compile(r"origin-(\d+)")
POINT = re.compile(r"point-([0-9a-f]{12})")
BROWSE = re.compile(r"browse-([0-9a-f]{12})")
LEVEL = re.compile(r"history-trial-(\d+)")

Snapshots = Iterator[tuple[str, Snapshot]]


@dataclass(frozen=True, slots=True)
class LiveStack:
    """A front and what lies below it. Devices are numbers; points are the first digits of ids.

    ``below`` is the target of the origin that the front lies over; ``former`` what the origin of
    the generation before it lies over, as long as that is there. ``stores`` are the exception
    stores of live points, ``overlays`` those of points that are mounted.
    """

    volume_id: UUID
    name: str
    front: int
    size_bytes: int
    block_bytes: int
    metadata: int
    generation: int
    below: Target
    former: int | None
    levels: int
    stores: dict[str, Snapshot]
    overlays: dict[str, Snapshot]


def live_stacks() -> list[LiveStack]:
    """Every volume of ours whose front is there, over an origin of its own."""
    devices: dict[UUID, dict[str, DmInfo]] = {}
    for info in dm.list_devices():
        ours = OURS.fullmatch(info.uuid)
        if ours is not None and info.live_table:
            devices.setdefault(UUID(ours[1]), {})[ours[2]] = info
    found = (_stack(volume_id, parts) for volume_id, parts in devices.items())
    return [stack for stack in found if stack is not None]


def _stack(volume_id: UUID, parts: dict[str, DmInfo]) -> LiveStack | None:
    front = parts.get("front")
    if front is None:
        return None
    lines = dm.table(front.name)
    era = lines[0].target
    if len(lines) != 1 or not isinstance(era, Era):
        return None
    origins = dict(_numbered(ORIGIN, parts))
    lying = [number for number, info in origins.items() if info.devno == era.origin]
    if not lying:
        return None
    (generation,) = lying
    return LiveStack(
        volume_id=volume_id,
        name=front.name,
        front=front.devno,
        size_bytes=lines[0].length_bytes,
        block_bytes=era.block_bytes,
        metadata=era.metadata,
        generation=generation,
        below=_target(origins[generation]),
        former=_former(origins.get(generation - 1)),
        levels=len(dict(_numbered(LEVEL, parts))),
        stores=dict(_snapshots(POINT, parts)),
        overlays=dict(_snapshots(BROWSE, parts)),
    )


def _numbered(pattern: re.Pattern[str], parts: dict[str, DmInfo]) -> Iterator[tuple[int, DmInfo]]:
    for role, info in parts.items():
        if (found := pattern.fullmatch(role)) is not None:
            yield int(found[1]), info


def _snapshots(pattern: re.Pattern[str], parts: dict[str, DmInfo]) -> Snapshots:
    for role, info in parts.items():
        if (found := pattern.fullmatch(role)) is not None:
            target = _target(info)
            if isinstance(target, Snapshot):
                yield found[1], target


def _former(origin: DmInfo | None) -> int | None:
    target = _target(origin) if origin else None
    return target.device if isinstance(target, SnapshotOrigin) else None


def _target(info: DmInfo) -> Target:
    return dm.table(info.name)[0].target
