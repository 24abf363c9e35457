"""Taking a LUN back."""

from dataclasses import replace
from functools import partial

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export
from dmsnap.errors import BusyError
from dmsnap.host.lio import state, target
from dmsnap.service import journal
from dmsnap.service.exports import export_unit, exported
from dmsnap.service.exports.export_source import find_export, held, of_no_volume, volume_ids
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.session import Session


def unexport(session: Session, what: str, *, force: bool, dry_run: bool) -> Plan | None:
    """Take a LUN back; refused while an initiator is logged in, unless forced. Root."""
    source = find_export(session, what).source
    with held(session, source, wanted=Wanted.NONE):
        withdrawn = find_export(session, what)
        steps = withdrawal(session, withdrawn, force=force)
        arguments = {"what": what, "force": force} | of_no_volume(source)
        plan = Plan("unexport", volume_ids(source), steps, arguments=arguments)
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None


def again(session: Session, *, what: str, force: bool, dry_run: bool, **_source: object) -> object:
    """Begin anew taking back a LUN that was cut off."""
    return unexport(session, what, force=force, dry_run=dry_run)


def withdrawal(session: Session, withdrawn: Export, *, force: bool) -> list[Step]:
    """The steps that take a LUN back."""
    users = state.sessions(withdrawn.target)
    if users and not force:
        raise BusyError(
            f"{', '.join(users)} is logged in to {withdrawn.target}",
            hint="unmount it there and log out, or give --force: its I/O will fail",
            sessions=users,
        )

    def forget() -> None:
        recorded.forget(session.catalogue, withdrawn.id)
        export_unit.settle(session)

    incomplete = replace(withdrawn, complete=False)
    return [
        Step(
            "disable",
            f"end the sessions of {withdrawn.target}",
            partial(target.disable, withdrawn.target),
            partial(reenable, withdrawn),
        ),
        Step(
            "withdraw",
            f"record that {withdrawn.target} goes",
            partial(recorded.record, session.catalogue, incomplete),
            final=True,
        ),
        Step(
            "remove",
            f"remove {withdrawn.target} and its backstore",
            partial(exported.take_down, session, withdrawn),
            final=True,
        ),
        Step("forget", "forget the export", forget, final=True),
    ]


def reenable(kept: Export) -> None:
    """Take sessions again, where there is a target at all."""
    if state.has_target(kept.target):
        target.enable(kept.target)
