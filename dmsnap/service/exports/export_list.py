"""What is exported, and how it fares. Changes nothing."""

from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, ExportKind
from dmsnap.host.lio import state
from dmsnap.service.exports import publication
from dmsnap.service.exports.publication import Shown
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class ExportView:
    """A LUN as people see it. ``sessions``: the initiators that are logged in now."""

    exported: str
    kind: ExportKind
    volume: str | None
    point: UUID | None
    target: str
    lun: int
    portal: str
    initiators: tuple[str, ...]
    read_only: bool
    serial: UUID
    sessions: tuple[str, ...]
    problem: str | None


def view(session: Session, export: Export) -> ExportView:
    """Look at one export; nothing is changed."""
    shown = Shown(session, export.source)
    return ExportView(
        exported=shown.name,
        kind=export.source.kind,
        volume=shown.volume.name if shown.volume else None,
        point=export.source.point_id,
        target=export.target,
        lun=export.lun,
        portal=export.portal,
        initiators=export.initiators,
        read_only=export.read_only,
        serial=export.id,
        sessions=tuple(state.sessions(export.target)),
        problem=publication.problem(session, export),
    )


def list_exports(session: Session) -> list[ExportView]:
    """All exports, the oldest first."""
    return [view(session, export) for export in recorded.exports(session.catalogue)]
