"""Publishing again what a boot, or somebody else, took away."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, ExportKind
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, ExitCode
from dmsnap.host.lio import state
from dmsnap.service import journal
from dmsnap.service.exports import export, exported, publication
from dmsnap.service.exports.export_source import held, of_no_volume, volume_ids
from dmsnap.service.exports.publication import Publication, Shown
from dmsnap.service.journal import Plan
from dmsnap.service.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """How one of several exports fared; ``would`` is what a dry run would do about it."""

    exported: str
    target: str
    error: str | None
    exit_code: ExitCode
    would: tuple[str, ...] = ()


def restore(session: Session) -> list[RestoreResult]:
    """Publish again what is recorded and not there; one that fails keeps no other from it. Root."""
    results = [restore_one(session, found) for found in recorded.exports(session.catalogue)]
    return [result for result in results if result is not None]


def restore_one(session: Session, found: Export) -> RestoreResult | None:
    """Publish one export again; None: there is no such one, as a killed command left it."""
    error: DmsnapError | None = None
    try:
        with held(session, found.source):
            if found not in recorded.exports(session.catalogue):
                return None
            restore_held(session, found)
    except DmsnapError as failure:
        error = failure
    return fared(session, found, error)


def fared(
    session: Session, found: Export, error: DmsnapError | None, would: Sequence[str] = ()
) -> RestoreResult:
    code = error.exit_code if error else ExitCode.OK
    name = Shown(session, found.source).name
    return RestoreResult(name, found.target, str(error) if error else None, code, tuple(would))


def forecast(session: Session) -> list[RestoreResult]:
    """What :func:`restore` would do, looked at with nothing held and nothing cleared. Root."""
    return [forecast_one(session, found) for found in recorded.exports(session.catalogue)]


def forecast_one(session: Session, found: Export) -> RestoreResult:
    """What publishing one export again would take."""
    would: Sequence[str] = ()
    error: DmsnapError | None = None
    try:
        if not found.complete:
            would = (f"take back the export by {found.target}, which was cut off",)
        elif publication.problem(session, found):
            would = republishing(session, found).descriptions()
    except DmsnapError as failure:
        error = failure
    return fared(session, found, error, would)


def restore_held(session: Session, found: Export) -> None:
    """Publish one export again, its lock held; nothing happens when initiators can use it."""
    if publication.problem(session, found):
        journal.run(session.catalogue, republishing(session, found))


def republishing(session: Session, found: Export) -> Plan:
    """The plan that publishes one export again, after all checks."""
    if state.find_backstore(found.backstore) is None:
        # After a boot a name may be another disk's: a recovery volume's, or one in use.
        export.require_exportable(session, found.source, found)
    steps = Publication(session, found).again()
    arguments = of_no_volume(found.source)
    return Plan("export restore", volume_ids(found.source), steps, arguments=arguments)


def restore_front(session: Session, volume: Volume) -> None:
    """Publish a front that was made anew, its lock held, as it had been: the boot could not.

    A courtesy of whoever made it: what fails is said, and nothing more.
    """
    for found in exported.of_volume(session, volume):
        if found.source.kind is ExportKind.FRONT:
            try:
                restore_held(session, found)
            except DmsnapError as error:
                log.warning("%s is not published again: %s", found.target, error)


def again(session: Session, *, dry_run: bool, **_arguments: object) -> object:
    """Publish again whatever is not there."""
    return forecast(session) if dry_run else restore(session)
