"""What of this host is meant by a word of the command line, and the locks of it."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.catalogue.model import Job, Volume
from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host import inventory
from dmsnap.host.blockdev import BlockDevice
from dmsnap.service import operations
from dmsnap.service.exports import exported
from dmsnap.service.luns import luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points.point import MIN_PREFIX, find
from dmsnap.service.reaper import reap, seen_to
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission

log = logging.getLogger(__name__)

# A lock that no volume's name can be.
DEVICES_LOCK = "export:devices"


def resolve(session: Session, what: str) -> Source:
    """The front of the volume named, the point whose id it begins with, or the device at a path."""
    if "/" in what:
        device = BlockDevice.probe(Path(what))
        path = admission.stable_path(Path(what))
        known_as = inventory.device_identity(device.devno)
        return Source(ExportKind.DEVICE, None, None, path, device.size_bytes, known_as)
    volume = session.catalogue.find_volume(what)
    if volume is not None:
        return Source(ExportKind.FRONT, volume.id, None, None, volume.size_bytes)
    try:
        point = find(session, what)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no protected volume, no point and no device {what!r}",
            hint="dmsnap status lists the volumes, dmsnap point list the points",
        ) from error
    volume = session.catalogue.volume(point.volume)
    return Source(ExportKind.POINT, volume.id, point.id, None, volume.size_bytes)


@contextmanager
def held(session: Session, *sources: Source, wanted: Wanted | None = None) -> Iterator[None]:
    """Hold the locks of what is shown, after clearing what killed commands left.

    LUNs below what is shown are ``wanted`` unless told. Where none is, what cannot be cleared but
    exports is no obstacle.
    """
    names = [name for source in sources for name in lock_names(session, source)]
    cleared: set[UUID] = set()
    with session.locked(names), ExitStack() as ends:
        for source in sources:
            if source.volume_id is None:
                exported.reap(session, of_devices(session))
                continue
            volume = session.catalogue.volume_by_id(source.volume_id)
            needed = wanted or below(session, source)
            if volume.id in cleared:
                # To be reaped once more it would look as if this command had been killed.
                luns.attach_all(session, volume, needed)
                continue
            ends.enter_context(clear(session, volume, needed))
            cleared.add(volume.id)
        yield


def below(session: Session, source: Source) -> Wanted:
    """The LUNs below a front, or below a point: what else a volume has may be dead."""
    if source.point_id is None:
        return Wanted.SERVING
    point = session.catalogue.find_point(source.point_id)
    is_live = point is not None and point.area_id is not None
    return Wanted.SERVING if is_live else Wanted.RECOVERY


def clear(session: Session, volume: Volume, wanted: Wanted) -> AbstractContextManager[None]:
    """As service.reaper does; an export that is to go may be just what is in its way.

    What is returned is entered for as long as the volume is held.
    """
    try:
        return seen_to(session, volume, reap(session, volume, wanted))
    except DmsnapError as error:
        if wanted is not Wanted.NONE:
            raise
        log.warning("not all is cleared of what was left of %s: %s", volume.name, error)
        exported.reap(session, exported.of_volume(session, volume))
        return nullcontext()


def volume_ids(*sources: Source) -> list[UUID]:
    """The volumes that a job on these works on; none for a device."""
    found = (source.volume_id for source in sources)
    return list(dict.fromkeys(volume_id for volume_id in found if volume_id is not None))


def of_no_volume(source: Source) -> dict[str, object]:
    """What a job on a device has among its arguments: the lock by which it is known to live."""
    return {} if source.volume_id is not None else {"name": DEVICES_LOCK}


def lock_names(session: Session, source: Source) -> list[str]:
    """A volume's; of a device its own, too, so that nobody protects it meanwhile."""
    if source.volume_id is not None:
        return [session.catalogue.volume_by_id(source.volume_id).name]
    try:
        device = BlockDevice.probe(Path(str(source.device)))
    except NotFoundError:
        return [DEVICES_LOCK]
    return [DEVICES_LOCK, admission.device_lock(device)]


def of_devices(session: Session) -> list[Export]:
    """The exports of devices that are of no volume."""
    return [
        export
        for export in recorded.exports(session.catalogue)
        if export.source.kind is ExportKind.DEVICE
    ]


def find_export(session: Session, what: str) -> Export:
    """The export of what is named, or that of a target's name."""
    exports = recorded.exports(session.catalogue)
    for export in exports:
        if what in (export.target, export.source.device, names_volume(session, export)):
            return export
    if "/" in what and Path(what).exists():
        path = admission.stable_path(Path(what))
        fitting = [export for export in exports if export.source.device == path]
    else:
        digits = what.lower().replace("-", "")
        fitting = [
            export
            for export in exports
            if export.source.point_id is not None
            and len(digits) >= MIN_PREFIX
            and export.source.point_id.hex.startswith(digits)
        ]
    if len(fitting) != 1:
        raise NotFoundError(
            f"{what!r} fits {len(fitting)} exports" if fitting else f"{what!r} is not exported",
            hint="dmsnap export list shows what is",
        )
    return fitting[0]


def names_volume(session: Session, export: Export) -> str | None:
    """The name of the volume whose front is exported."""
    if export.source.kind is not ExportKind.FRONT or export.source.volume_id is None:
        return None
    return session.catalogue.volume_by_id(export.source.volume_id).name


def settle(session: Session, job: Job) -> bool:
    """Whether a job on devices of no volume was done; what it left of exports is cleared."""
    with session.locked([DEVICES_LOCK]):
        exported.reap(session, of_devices(session))
    return operations.has_taken_effect(job)
