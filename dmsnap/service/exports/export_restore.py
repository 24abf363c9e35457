"""Publishing again what a boot, or somebody else, took away."""

import logging
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
    """How one of several exports fared."""

    exported: str
    target: str
    error: str | None
    exit_code: ExitCode


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
    code = error.exit_code if error else ExitCode.OK
    name = Shown(session, found.source).name
    return RestoreResult(name, found.target, str(error) if error else None, code)


def restore_held(session: Session, found: Export) -> None:
    """Publish one export again, its lock held; nothing happens when initiators can use it."""
    if publication.problem(session, found):
        if state.find_backstore(found.backstore) is None:
            # After a boot a name may be another disk's: a recovery volume's, or one in use.
            export.require_exportable(session, found.source, found)
        steps = Publication(session, found).again()
        arguments = of_no_volume(found.source)
        plan = Plan("export restore", volume_ids(found.source), steps, arguments=arguments)
        journal.run(session.catalogue, plan)


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


def again(session: Session, **_arguments: object) -> object:
    """Publish again whatever is not there."""
    return restore(session)
