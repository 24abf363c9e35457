"""What a volume has exported: refusing what would pull it away, clearing what is half done."""

import logging
import re
from collections.abc import Collection, Sequence
from uuid import UUID

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, ExportKind
from dmsnap.catalogue.model import Point, Volume
from dmsnap.errors import BusyError, DmsnapError
from dmsnap.host.dm import device as dm
from dmsnap.host.lio import state, target
from dmsnap.recovery import chain
from dmsnap.service.exports import export_unit
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)

# The device itself, and the levels and stores of a chain below it.
SHOWS_POINT = re.compile(r"-export-([0-9a-f]{12})(?:-\d+)?$")


def of_volume(session: Session, volume: Volume) -> list[Export]:
    """The exports of a volume's front and of its points."""
    return recorded.exports(session.catalogue, volume.id)


def require_unexported(
    session: Session, volume: Volume, kinds: Sequence[ExportKind] = tuple(ExportKind)
) -> None:
    """Raise :class:`BusyError` while anything of the volume, of some kinds, is exported."""
    for export in of_volume(session, volume):
        if export.source.kind in kinds:
            raise busy(volume, export)


def require_point_unexported(session: Session, volume: Volume, point_id: UUID) -> None:
    """Raise :class:`BusyError` while one point is exported."""
    for export in of_volume(session, volume):
        if export.source.point_id == point_id:
            raise busy(volume, export)


def require_live_unexported(session: Session, volume: Volume, live: Collection[Point]) -> None:
    """Raise while any of some live points, which would have to go, is exported."""
    for point in live:
        require_point_unexported(session, volume, point.id)


def require_replica_unexported(session: Session, volume: Volume) -> None:
    """Raise while a point that lies on the recovery volume is exported: it must not be written."""
    for export in of_volume(session, volume):
        point_id = export.source.point_id
        if point_id is not None and is_over_replica(volume, point_id):
            raise busy(volume, export)


def is_over_replica(volume: Volume, point_id: UUID) -> bool:
    """Whether what shows a point now lies on anything but a snapshot on the primary."""
    shown = dm.info(uuid=stack.exported(volume, mark(point_id)).uuid)
    live = dm.info(uuid=stack.live_point(volume, point_id).uuid)
    return shown is not None and (live is None or live.devno not in dm.deps(shown.name))


def require_front_read_only(session: Session, volume: Volume) -> None:
    """Raise while initiators may write to the front: nobody here could make them stop."""
    for export in of_volume(session, volume):
        if export.source.kind is ExportKind.FRONT and not export.read_only:
            raise busy(volume, export)


def shows_front(session: Session, volume: Volume) -> bool:
    """Whether the front is exported, as it is recorded."""
    return any(export.source.kind is ExportKind.FRONT for export in of_volume(session, volume))


def busy(volume: Volume, export: Export) -> BusyError:
    """The error that names the LUN and who has it."""
    point_id = export.source.point_id
    what = volume.name if point_id is None else f"point {point_id} of {volume.name}"
    return BusyError(
        f"{what} is exported to {', '.join(export.initiators)} as LUN {export.lun} of "
        f"{export.target}",
        hint=f"dmsnap unexport {point_id or volume.name} comes first",
        target=export.target,
    )


def opened_by_lio(volume: Volume) -> int:
    """How often our own backstores hold the front open."""
    front = stack.require(stack.front(volume))
    return sum(1 for backstore in state.backstores_on(front.devno) if backstore.is_ours)


# clearing up


def reap(session: Session, exports: Sequence[Export]) -> None:
    """Finish or take back what a killed command left; its lock is held by us now.

    An export that was never complete, or is not any more, goes. One that a swap of its LUN left
    half done is mapped as it is recorded. The boot publishes what is left.
    """
    for export in exports:
        try:
            if not export.complete:
                take_down(session, export)
                recorded.forget(session.catalogue, export.id)
            elif state.has_target(export.target):
                settle(export)
        except DmsnapError as error:
            log.warning("the export by %s is not put right: %s", export.target, error)
    try:
        export_unit.settle(session)
    except DmsnapError as error:
        log.warning("what publishes exports at boot is not put right: %s", error)


def settle(export: Export) -> None:
    """Have the LUN show what is recorded, and no backstore and device beside it."""
    if state.find_backstore(export.backstore) is None:
        return  # for dmsnap export restore
    if not is_whole(export):
        target.create_target(export.target, export.initiators)
        target.map_lun(export.target, export.lun, export.backstore, read_only=export.read_only)
        target.add_portal(export.target, export.address, export.port)
        target.enable(export.target)
    for name in backstores_of(export):
        if name != export.backstore:
            target.remove_backstore(name)


def is_whole(export: Export) -> bool:
    """Whether initiators reach a LUN that shows the backstore recorded."""
    return (
        state.is_enabled(export.target)
        and export.portal in state.portals(export.target)
        and state.backstore_of_lun(export.target, export.lun) == export.backstore
    )


def backstores_of(export: Export) -> list[str]:
    """The backstores that were made for an export, of every generation."""
    prefix = export.backstore.removesuffix(str(export.generation))
    return [found.name for found in state.backstores() if found.name.startswith(prefix)]


def take_down(session: Session, export: Export) -> None:
    """Remove all that an export is made of; whoever is logged in loses the LUN."""
    target.remove_target(export.target)
    for name in backstores_of(export):
        target.remove_backstore(name)
    source = export.source
    if source.volume_id is not None and source.point_id is not None:
        hide_point(session.catalogue.volume_by_id(source.volume_id), mark(source.point_id))


def mark(point_id: UUID) -> str:
    """What tells the devices that show one point from those of others."""
    return point_id.hex[:12]


def hide_point(volume: Volume, point_mark: str) -> None:
    """Remove the device that shows a point to LIO, and the levels below it."""
    stack.remove(stack.exported(volume, point_mark))
    chain.remove(chain.existing(volume, chain.export_purpose(point_mark)))


def hide_stray_points(session: Session, volume: Volume) -> None:
    """Devices that showed a point to a LUN which shows something else, or never came to be."""
    points = (export.source.point_id for export in of_volume(session, volume))
    wanted = {mark(point_id) for point_id in points if point_id is not None}
    uuids = [info.uuid for info in dm.list_devices(f"{dm.UUID_PREFIX}{volume.id}-")]
    found = {match[1] for match in map(SHOWS_POINT.search, uuids) if match is not None}
    for stray in found - wanted:
        shown = dm.info(uuid=stack.exported(volume, stray).uuid)
        for backstore in state.backstores_on(shown.devno) if shown else []:
            if backstore.is_ours:
                target.remove_backstore(backstore.name)
        hide_point(volume, stray)


def remove_stray_backstores(session: Session, volume: Volume) -> None:
    """What showed the front to a LUN that shows a device of no volume now: it holds the front open.

    The export is none of the volume's any more. What any LUN shows stays, whatever is recorded.
    """
    front = dm.info(uuid=stack.front(volume).uuid)
    found = state.backstores_on(front.devno) if front is not None else []
    if not found:
        return
    wanted: set[str | None] = {export.backstore for export in of_volume(session, volume)}
    for iqn in state.targets():
        wanted.update(state.backstore_of_lun(iqn, lun) for lun in state.luns(iqn))
    for backstore in found:
        if backstore.is_ours and backstore.name not in wanted:
            target.remove_backstore(backstore.name)
