"""A volume put together again from what there is of it, as it can be recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap._native.label import HistoryFlag, Label, LabelState
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Area, AreaRole, MountRecord, Point, Volume, VolumeState
from dmsnap.errors import BusyError, DmsnapError, WrongStateError
from dmsnap.host import lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm.target import SnapshotOrigin
from dmsnap.recovery import replica
from dmsnap.recovery.lease import OPTION_SEPARATOR
from dmsnap.recovery.search import Labelled
from dmsnap.service.records import evidence as pieces
from dmsnap.service.records import recollection
from dmsnap.service.records.backup import NOTHING, Recalled
from dmsnap.service.records.evidence import Evidence
from dmsnap.service.swaps import mounting
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import POINT_DIGITS
from dmsnap.snapshot.survey import LiveStack
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import to_bytes

# Of a label of version 1: what protect takes by default.
CHUNK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Known:
    """A volume as it can be recorded; ``notes``: what had to be guessed, a sentence each.

    ``recalled`` is what its recovery volume says of the past, to be recorded with it.
    """

    volume: Volume
    areas: tuple[Area, ...]
    points: tuple[Point, ...]
    notes: tuple[str, ...]
    recalled: Recalled = NOTHING


def state_of(evidence: Evidence, overlay: Area | None) -> VolumeState:
    """Where the volume stands; an overlay without a stack is that of a trial."""
    live, label = evidence.live, evidence.label
    merging = label is not None and label.state is LabelState.MERGING
    primary = label is not None and label.state is LabelState.PRIMARY
    if label is not None and label.state is LabelState.COPYING:
        return VolumeState.BUILDING
    if live is None:
        trial = VolumeState.TRIAL if overlay else VolumeState.PROTECTED
        return VolumeState.COMMITTING if merging else VolumeState.PROMOTED if primary else trial
    if not isinstance(live.below, SnapshotOrigin):
        return VolumeState.COMMITTING if merging else VolumeState.TRIAL
    if evidence.found is not None and live.below.device == evidence.found.device.devno:
        return VolumeState.PROMOTED if primary else VolumeState.COMMITTING
    return VolumeState.PROTECTED


def mounts_of(evidence: Evidence, run_directory: Path) -> tuple[MountRecord, ...]:
    """How the front is mounted, or was when the label was last written."""
    label = evidence.label
    try:
        parking = mounting.parking(run_directory, evidence.name)
        live = mounting.records(evidence.live.front, parking) if evidence.live else ()
    except BusyError:
        live = ()
    if live or label is None or not label.mount_point:
        return live
    options = tuple(label.mount_options.split(OPTION_SEPARATOR)) if label.mount_options else ()
    return (MountRecord(label.mount_point, label.fs_type, options),)


def known(evidence: Evidence, run_directory: Path) -> Known:
    """Put together what there is; :class:`WrongStateError` when it is not enough."""
    if evidence.live is not None and evidence.live.former is None and evidence.found is None:
        require_ordinary(evidence.live)
    metadata = pieces.piece_path(evidence.live.metadata) if evidence.live else None
    said = evidence.label.store if evidence.label else ""
    store = pieces.store_of(metadata) if metadata else said
    if not store:
        raise WrongStateError(
            f"where the store of {evidence.name} is cannot be known: its label does not say it, "
            f"and its stack is not there"
        )
    volume = first_draft(evidence, store, run_directory)
    areas = list(pieces.areas_of(evidence, volume, metadata))
    volume = replace(volume, generation=pieces.generation_of(evidence, areas))
    overlay = next((a for a in areas if pieces.is_now(a, volume, AreaRole.OVERLAY)), None)
    state = state_of(evidence, overlay)
    over_replica = state in (VolumeState.TRIAL, VolumeState.COMMITTING)
    volume = placed(evidence, replace(volume, state=state))
    if over_replica:
        volume = replace(volume, trial_point=trial_point(evidence, overlay))
    points = points_of(volume, evidence.label)
    points += live_points(evidence, volume, areas, [point.id for point in points])
    points = recollection.points(evidence.recalled.excerpt, points)
    volume = recollection.volume(evidence, volume)
    hydration, lost = recollection.moving(evidence, volume)
    remarks = [*notes(evidence, volume, areas)]
    remarks += recollection.notes(evidence.recalled, points)
    remarks += [lost] if lost else []
    return Known(
        replace(volume, hydration=hydration),
        tuple(areas),
        tuple(points),
        tuple(remarks),
        evidence.recalled,
    )


def require_ordinary(live: LiveStack) -> None:
    """A front over something else than a device of its own needs the label to be understood."""
    if not isinstance(live.below, SnapshotOrigin):
        raise WrongStateError(
            f"{live.name} lies over a {live.below.type_name}, and its recovery volume was not found"
        )


def first_draft(evidence: Evidence, store: str, run_directory: Path) -> Volume:
    """All but the state, and what follows from it."""
    live, label = evidence.live, evidence.label
    size_bytes = live.size_bytes if live else label.size_bytes if label else 0
    block_bytes = live.block_bytes if live else to_bytes(label.block_size) if label else 0
    return Volume(
        id=evidence.volume_id,
        name=evidence.name,
        state=VolumeState.PROTECTED,
        backing="",
        recovery=None,
        recovery_id=None,
        store=store,
        size_bytes=size_bytes,
        block_bytes=block_bytes,
        chunk_bytes=chunk_bytes_of(evidence),
        fs_type=label.fs_type if label else "",
        fs_uuid=label.fs_uuid if label else "",
        mounts=mounts_of(evidence, run_directory),
        generation=live.generation if live else 0,
        tracking_id=new_tracking_id(),
        created_ns=now_ns(),
        live=live.lv if live else None,
    )


def chunk_bytes_of(evidence: Evidence) -> int:
    """What live points copy at a time, as the ones that are there do."""
    if evidence.live is not None and evidence.live.stores:
        return next(iter(evidence.live.stores.values())).chunk_bytes
    said = evidence.label.chunk_size if evidence.label else 0
    return to_bytes(said) if said else CHUNK_BYTES


def placed(evidence: Evidence, volume: Volume) -> Volume:
    """With the devices in the places that its state gives them."""
    live, found = evidence.live, evidence.found
    recovery = pieces.stable_name(found.device.devno) if found else None
    recorded = found.label.device if found else ""
    if volume.state is VolumeState.PROMOTED:
        assert found is not None and recovery is not None  # noqa: S101, PT018 - known by its label
        return replace(
            volume,
            backing=recovery,
            previous_backing=recorded or None,
            device_bytes=found.device.size_bytes,
        )
    primary = recorded
    if live is not None and isinstance(live.below, SnapshotOrigin) and not_on(live, found):
        primary = pieces.stable_name(live.below.device, recorded)
    elif live is not None and live.former is not None:
        primary = pieces.stable_name(live.former, recorded)
    if volume.state is VolumeState.PROTECTED and not primary:
        raise WrongStateError(f"where the device of {volume.name} is cannot be known")
    recovery_id = found.label.recovery_uuid if found else None
    after = replace(
        volume,
        backing=primary,
        recovery=recovery,
        recovery_id=recovery_id,
        device_bytes=device_bytes(volume, primary),
    )
    require_base(live, after)
    return after


def device_bytes(volume: Volume, path: str) -> int | None:
    """What the volume's device has in all, where it was its recovery volume and keeps its label."""
    try:
        device = BlockDevice.probe(lun.node(path))
        kept = replica.read_label(device.path)
    except DmsnapError:
        return None
    return device.size_bytes if replica.is_of_primary(kept, volume) else None


def require_base(live: LiveStack | None, volume: Volume) -> None:
    """What stands for an LV is known by the LV's path, which may have been another one."""
    if live is not None and live.base not in (None, stack.base(volume).uuid):
        raise WrongStateError(
            f"{volume.name} was protected while it was mounted, by another path of its logical "
            f"volume than {volume.backing}: its stack is not understood before the next boot"
        )


def not_on(live: LiveStack, found: Labelled | None) -> bool:
    """Whether the stack lies on another device than the recovery volume."""
    return (
        found is None
        or not isinstance(live.below, SnapshotOrigin)
        or live.below.device != found.device.devno
    )


def trial_point(evidence: Evidence, overlay: Area | None) -> UUID:
    """The point that the front shows, found by the levels below it or by the overlay's name."""
    ids = pieces.ids_in(evidence.label)
    if evidence.live is not None and evidence.live.levels < len(ids):
        return ids[evidence.live.levels]
    if overlay is not None and overlay.point_id in ids:
        return overlay.point_id
    raise WrongStateError(
        f"which point the trial of {evidence.name} shows cannot be known: its recovery volume "
        f"holds none that its overlay is for"
    )


def points_of(volume: Volume, label: Label | None) -> list[Point]:
    """The points that the label knows. Their tracking is lost: so the next sync compares."""
    if label is None or label.point_uuid is None or label.state is LabelState.PRIMARY:
        return []
    moments = [(label.point_uuid, label.point_time_ns, label.flags)]
    moments += [(e.point_uuid, e.point_time_ns, e.flags) for e in label.history]
    unique = {point_id: (time_ns, flags) for point_id, time_ns, flags in moments}
    return [
        new_point(volume, point_id, time_ns, keep=bool(flags & HistoryFlag.KEEP))
        for point_id, (time_ns, flags) in unique.items()
    ]


def new_point(
    volume: Volume, point_id: UUID, time_ns: int, *, keep: bool, area: Area | None = None
) -> Point:
    return Point(
        id=point_id,
        volume_id=volume.id,
        created_ns=time_ns,
        keep=keep,
        temporary=False,
        era_since=0,
        tracking_id="",
        window_seconds=0.0,
        area_id=area.id if area else None,
    )


def live_points(
    evidence: Evidence, volume: Volume, areas: Sequence[Area], known_ids: Sequence[UUID]
) -> list[Point]:
    """The snapshots that live now; when they were taken no label says."""
    if evidence.live is None:
        return []
    found = []
    for digits in evidence.live.stores:
        point_id = pieces.whole_id(digits, evidence.point_ids)
        area = next((a for a in areas if a.role is AreaRole.COW and a.point_id == point_id), None)
        if area is not None and point_id not in known_ids:
            found.append(new_point(volume, point_id, now_ns(), keep=False, area=area))
    return found


def notes(evidence: Evidence, volume: Volume, areas: Sequence[Area]) -> Iterator[str]:
    """What is not as it was."""
    if evidence.found is None:
        yield f"the recovery volume of {volume.name} was not found: it has none now"
    if evidence.live is None:
        yield f"the stack of {volume.name} is not there: dmsnap assemble {volume.name} builds it"
    if volume.state is VolumeState.TRIAL and evidence.live is None:
        yield f"an overlay of {volume.name} was found: it is taken for a trial"
    if not volume.backing:
        yield f"the device of {volume.name} is not known"
    for digits in evidence.live.stores if evidence.live else ():
        if any(point_id.hex.startswith(digits) for point_id in evidence.point_ids):
            continue
        yield (
            f"of live point {digits} neither the moment is known nor more than the first "
            f"{POINT_DIGITS} digits"
        )
    if not any(pieces.is_now(area, volume, AreaRole.ERA_METADATA) for area in areas):
        yield f"the era metadata of {volume.name} is not in {volume.store}"
