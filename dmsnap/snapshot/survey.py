"""The stacks that live now, read from dm tables and from the UUIDs that prove them ours."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue.model import LiveFront
from dmsnap.host import kernel
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Linear, Snapshot, SnapshotOrigin, Target
from dmsnap.host.sysfs import SYSFS

OURS = re.compile(rf"{dm.UUID_PREFIX}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})-(.+)")
ORIGIN = re.compile(r"origin-(\d+)")
POINT = re.compile(r"point-([0-9a-f]{12})")
BROWSE = re.compile(r"browse-([0-9a-f]{12})")
LEVEL = re.compile(r"history-trial-(\d+)")
BASE = re.compile(r"base-[0-9a-f]{12}")
NAMED = re.compile(r"dmsnap-(.+)-origin-\d+")

Snapshots = Iterator[tuple[str, Snapshot]]


@dataclass(frozen=True, slots=True)
class LiveStack:
    """A front and what lies below it. Devices are numbers; points are the first digits of ids.

    ``below`` is the target of the origin that the front lies over; ``former`` what the origin of
    the generation before it lies over, as long as that is there. ``stores`` are the exception
    stores of live points, ``overlays`` those of points that are mounted. ``lv``: the front is an
    LV's own dm device. ``base`` is the UUID of what stands for an LV, for which ``below`` and
    ``former`` name the LV.
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
    lv: LiveFront | None = None
    base: str | None = None


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
    lv = None if "front" in parts else _lv_over(parts)
    front = parts.get("front", lv)
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
    base = next((info for role, info in parts.items() if BASE.fullmatch(role)), None)
    named = NAMED.fullmatch(origins[generation].name)
    return LiveStack(
        volume_id=volume_id,
        name=named[1] if lv and named else front.name,
        front=front.devno,
        size_bytes=lines[0].length_bytes,
        block_bytes=era.block_bytes,
        metadata=era.metadata,
        generation=generation,
        below=_without_base(_target(origins[generation]), base, lv),
        former=_former(origins.get(generation - 1), base, lv),
        levels=len(dict(_numbered(LEVEL, parts))),
        stores=dict(_snapshots(POINT, parts)),
        overlays=dict(_snapshots(BROWSE, parts)),
        lv=LiveFront(lv.name, lv.uuid, kernel.boot_id()) if lv else None,
        base=base.uuid if base else None,
    )


def _lv_over(parts: dict[str, DmInfo]) -> DmInfo | None:
    """The LV's own dm device, where the layers were put under it."""
    for _, origin in _numbered(ORIGIN, parts):
        for holder in SYSFS.holders(origin.devno):
            if (SYSFS.dm_uuid(holder) or "").startswith("LVM-"):
                return dm.info(SYSFS.dm_name(holder))
    return None


def _without_base(target: Target, base: DmInfo | None, lv: DmInfo | None) -> Target:
    """The target over the LV itself, for one over what stands for an LV."""
    if base is None or not isinstance(target, SnapshotOrigin) or target.device != base.devno:
        return target
    if lv is not None:
        return SnapshotOrigin(lv.devno)
    held = _target(base)
    return SnapshotOrigin(held.device) if isinstance(held, Linear) else target


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


def _former(origin: DmInfo | None, base: DmInfo | None, lv: DmInfo | None) -> int | None:
    target = _without_base(_target(origin), base, lv) if origin else None
    return target.device if isinstance(target, SnapshotOrigin) else None


def _target(info: DmInfo) -> Target:
    return dm.table(info.name)[0].target
