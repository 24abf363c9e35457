"""Exports told from what LIO publishes now: for a catalogue that was lost.

A backstore of ours has the export's id as its serial number and its generation in its name; what it
shows is told by the device below it. What is half made is nobody's export.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.errors import DmsnapError
from dmsnap.host.dm import device as dm
from dmsnap.host.lio import state
from dmsnap.host.lio.state import Backstore
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.records import evidence as pieces
from dmsnap.snapshot.survey import LiveStack

BACKSTORE = re.compile(rf"{state.BACKSTORE_PREFIX}([0-9a-f]{{12}})-(\d{{1,9}})")
PORTAL = re.compile(r"\[?([0-9a-fA-F.:]+?)\]?:(\d{1,5})")
POINT = re.compile(rf"{dm.UUID_PREFIX}([0-9a-f-]{{36}})-export-([0-9a-f]{{12}})")


@dataclass(frozen=True, slots=True)
class Published:
    """What LIO publishes; of a point, its first digits. ``problems``: what is not understood."""

    exports: tuple[Export, ...]
    problems: tuple[str, ...]

    def of(self, volume_id: UUID | None, points: Sequence[UUID] = ()) -> list[Export]:
        """Those of one volume, or of none, with the whole ids of the points that they show."""
        return [
            whole(export, points) for export in self.exports if export.source.volume_id == volume_id
        ]


def whole(export: Export, points: Sequence[UUID]) -> Export:
    point_id = export.source.point_id
    if point_id is None:
        return export
    known = pieces.whole_id(point_id.hex[:12], points)
    return replace(export, source=replace(export.source, point_id=known))


def look(stacks: Sequence[LiveStack]) -> Published:
    """Everything under our own names. Changes nothing, loads nothing."""
    fronts = {stack.front: stack.volume_id for stack in stacks}
    exports: list[Export] = []
    problems: list[str] = []
    for iqn in state.targets():
        for lun in state.luns(iqn):
            try:
                exports += told(iqn, lun, fronts)
            except (DmsnapError, ValueError) as error:
                problems.append(f"what LUN {lun} of {iqn} shows is not understood: {error}")
    return Published(tuple(exports), tuple(problems))


def told(iqn: str, lun: int, fronts: dict[int, UUID]) -> Iterator[Export]:
    """The export behind a LUN, if it is one of ours and whole."""
    name = state.backstore_of_lun(iqn, lun) or ""
    made, backstore = BACKSTORE.fullmatch(name), state.find_backstore(name)
    portals = [found for found in map(PORTAL.fullmatch, state.portals(iqn)) if found]
    if made is None or backstore is None or backstore.devno is None or not portals:
        return
    serial = UUID(backstore.serial)
    if serial.hex[:12] != made[1]:
        raise ValueError(f"the serial number of {name} is {serial}")
    yield Export(
        id=serial,
        source=source_of(backstore.devno, fronts),
        target=iqn,
        lun=lun,
        address=portals[0][1],
        port=int(portals[0][2]),
        initiators=tuple(state.initiators(iqn)),
        read_only=is_read_only(backstore, iqn, lun),
        generation=int(made[2]),
        complete=True,
        created_ns=now_ns(),
    )


def is_read_only(backstore: Backstore, iqn: str, lun: int) -> bool:
    return backstore.read_only or state.is_write_protected(iqn, lun)


def source_of(devno: int, fronts: dict[int, UUID]) -> Source:
    """What a device shows."""
    size_bytes = SYSFS.size_bytes(devno)
    if devno in fronts:
        return Source(ExportKind.FRONT, fronts[devno], None, None, size_bytes)
    point = POINT.fullmatch(SYSFS.dm_uuid(devno) or "")
    if point is not None:
        shown = UUID(hex=point[2].ljust(32, "0"))
        return Source(ExportKind.POINT, UUID(point[1]), shown, None, size_bytes)
    return Source(ExportKind.DEVICE, None, None, pieces.stable_path(devno), size_bytes)
