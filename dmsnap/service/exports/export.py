"""Exporting a front, a point or a device as a LUN."""

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.catalogue.model import Volume
from dmsnap.errors import (
    BusyError,
    ReadOnlyError,
    WrongStateError,
    WrongWordError,
)
from dmsnap.host import interface, kernel
from dmsnap.host.blockdev import BlockDevice, open_exclusive
from dmsnap.host.lio import state
from dmsnap.service import journal
from dmsnap.service.exports import publication
from dmsnap.service.exports.export_list import ExportView, view
from dmsnap.service.exports.export_source import held, of_no_volume, resolve, volume_ids
from dmsnap.service.exports.publication import Publication, Shown
from dmsnap.service.journal import Plan
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission
from dmsnap.snapshot import stack

LUN = 0

# RFC 3720, 3.2.6.3.1: what people write, and what LIO takes of it.
INITIATOR = re.compile(r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9.-]+\.[a-z0-9.-]+(:[a-z0-9.:-]+)?")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What the command line asks for."""

    what: str
    address: str
    port: int
    initiators: tuple[str, ...]
    read_only: bool


def export(session: Session, request: ExportRequest, *, dry_run: bool) -> ExportView | Plan:
    """Publish a front, a point or a device as a LUN. What is exported so already stays. Root."""
    check_words(request)
    source = resolve(session, request.what)
    with held(session, source):
        existing = of_source(session, source)
        if existing is not None:
            require_same(session, existing, request)
            steps = Publication(session, existing).again()
            wanted = existing
        else:
            wanted = planned(session, source, request)
            require_exportable(session, source, wanted)
            steps = Publication(session, wanted).steps()
        arguments = asdict(request) | of_no_volume(source)
        plan = Plan("export", volume_ids(source), steps, arguments=arguments)
        if dry_run:
            return plan
        if existing is None or publication.problem(session, existing):
            journal.run(session.catalogue, plan)
        return view(session, wanted)


def again(session: Session, *, dry_run: bool, **arguments: Any) -> object:
    """Begin anew an export that was cut off."""
    values = {field.name: arguments[field.name] for field in fields(ExportRequest)}
    values["initiators"] = tuple(arguments["initiators"])
    return export(session, ExportRequest(**values), dry_run=dry_run)


def check_words(request: ExportRequest) -> None:
    """What LIO would refuse, or take for something else, without saying why."""
    interface.parse_address(request.address)
    for initiator in request.initiators:
        if not INITIATOR.fullmatch(initiator):
            raise WrongWordError(
                f"{initiator!r} is no initiator's name",
                hint="it is in /etc/iscsi/initiatorname.iscsi there: iqn.YYYY-MM.NAME…, in "
                "small letters",
            )


def of_source(session: Session, source: Source) -> Export | None:
    """The export that shows this already."""
    for found in recorded.exports(session.catalogue):
        now = replace(found.source, size_bytes=source.size_bytes, led_to=source.led_to)
        if now == source:
            return found
    return None


def require_same(session: Session, existing: Export, request: ExportRequest) -> None:
    """Raise unless the export that exists is the one asked for."""
    read_only = request.read_only or existing.source.kind is ExportKind.POINT
    wanted = (request.address, request.port, frozenset(request.initiators), read_only)
    found = (
        existing.address,
        existing.port,
        frozenset(existing.initiators),
        existing.read_only,
    )
    if wanted != found:
        raise BusyError(
            f"{Shown(session, existing.source).name} is exported already: to "
            f"{', '.join(existing.initiators)} at {existing.portal}, "
            f"{'read-only' if existing.read_only else 'to be written'}",
            hint=f"dmsnap unexport {request.what} comes first",
            target=existing.target,
        )


def planned(session: Session, source: Source, request: ExportRequest) -> Export:
    """The record of a new export. A point is never written, whoever asks."""
    serial = serial_of(source)
    if any(found.id == serial for found in recorded.exports(session.catalogue)):
        serial = uuid4()  # another LUN was swapped onto something else, and keeps it
    return Export(
        id=serial,
        source=source,
        target=f"{state.IQN_PREFIX}{slug(session, source)}-{serial.hex[:8]}",
        lun=LUN,
        address=request.address,
        port=request.port,
        initiators=request.initiators,
        read_only=request.read_only or source.kind is ExportKind.POINT,
        generation=1,
        complete=True,
        created_ns=now_ns(),
    )


def serial_of(source: Source) -> UUID:
    """The same for the same thing each time: initiators know it again by its WWN.

    A device of the same name on another host is another one: by one WWN, multipath would take two
    disks for one.
    """
    found = source.point_id or source.volume_id
    if found is not None:
        return found
    host = kernel.machine_id()
    return uuid5(NAMESPACE_URL, f"file://{host}{source.device}") if host else uuid4()


def slug(session: Session, source: Source) -> str:
    """A part of a target's name for people: what RFC 3722 allows of the volume's or device's."""
    if source.volume_id is not None:
        name = session.catalogue.volume_by_id(source.volume_id).name
    else:
        name = Path(str(source.device)).name
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "lun"


def require_exportable(session: Session, source: Source, wanted: Export) -> None:
    """Raise while somebody else uses it, or when it may not be written and should be."""
    if source.kind is ExportKind.POINT:
        return
    if source.volume_id is not None:
        volume = session.catalogue.volume_by_id(source.volume_id)
        path = BlockDevice.probe(Path(front_node(volume))).path
    else:
        device = publication.plain_device(source)
        admission.check_not_ours(session, device)
        if device.read_only and not wanted.read_only:
            raise ReadOnlyError(str(device.path), "an initiator")
        path = device.path
    with open_exclusive(path, write=False):
        pass


def front_node(volume: Volume) -> str:
    """The front's node; one whose stack is not there cannot be exported."""
    if stack.live_front(volume) is not None:
        raise WrongStateError(
            f"{volume.name} was protected while it was mounted: until the next boot its front is "
            f"LVM's device, which is not exported"
        )
    if not stack.exists(stack.front(volume)):
        raise WrongStateError(
            f"/dev/mapper/{volume.name} is not there",
            hint=f"dmsnap assemble {volume.name} comes first",
        )
    return f"/dev/mapper/{volume.name}"
