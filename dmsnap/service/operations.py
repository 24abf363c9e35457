"""What can be begun anew after it was cut off, and who brings to its end what can be.

Functions are named, as actions are on the command line, and imported when they are needed: holding
a volume may finish any operation, and every operation holds a volume.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dmsnap.catalogue.model import Job, Volume
from dmsnap.service.session import Session

PACKAGE = "dmsnap.service"

Again = Callable[..., object]
Finish = Callable[[Session, Volume, Job], bool]
Settle = Callable[[Session, Job], bool]


@dataclass(frozen=True, slots=True)
class Operation:
    """MODULE.FUNCTION for what is done about a job that was cut off.

    ``again(session, **arguments, dry_run=False)`` begins the operation anew: what the command line
    calls, or, where JSON does not hold what that takes, a function that makes it of them.
    ``finish(session, volume, job)`` is called with the volume held and cleared, and says whether
    the job is done now, or undone. Where there is no ``finish``, clearing was all: the job is done
    when its step ``effect`` was. ``settle(session, job)`` says the same of a job that is of no
    protected volume, after clearing what it left.
    """

    again: str
    finish: str | None = None
    effect: str | None = None
    settle: str | None = None


OPERATIONS = {
    "protect": Operation("protect.again", finish="protect.finish"),
    "unprotect": Operation("unprotect.unprotect", finish="unprotect.finish"),
    "assemble": Operation("assemble.assemble", effect="create-stack"),
    "point create": Operation("point.create", effect="window"),
    "point delete": Operation("deletion.delete", finish="deletion.finish_deletion"),
    "point keep": Operation("keeping.keep", finish="keeping.finish"),
    "prune": Operation("prune.again", finish="prune.finish"),
    "point mount": Operation("browse.again", effect="mount"),
    "point umount": Operation("browse.unmount_point", effect="unmount"),
    "point copy": Operation("point_copy.again", effect="reveal", settle="point_copy.settle"),
    "snapshot create": Operation("providers.create_again", settle="providers.settle_creation"),
    "snapshot delete": Operation("providers.delete_again", settle="providers.settle_removal"),
    "sync": Operation("sync.again", effect="apply"),
    "verify": Operation("verify.again"),
    "swap": Operation("swap.swap", finish="swap.finish"),
    "swap from-label": Operation("from_label.again", finish="from_label.finish"),
    "swap revert": Operation("revert.revert", finish="revert.finish"),
    "swap extend": Operation("extension.extend", finish="extension.finish"),
    "swap commit": Operation("promotion.commit", finish="promotion.finish"),
    "resize": Operation("resize.again", finish="resize.finish"),
    "hydrate": Operation("hydrate.again", finish="hydrate.finish"),
    "failback": Operation("failback.failback", effect="record"),
    "export": Operation("export.again", effect="confirm"),
    "export restore": Operation("export_restore.again", effect="enable"),
    "unexport": Operation("unexport.again", effect="withdraw"),
    "lun swap": Operation("lun_swap.again", effect="record"),
}


def again(name: str) -> Again:
    """What begins an operation anew; KeyError for one that is not known."""
    function: Again = _resolve(OPERATIONS[name].again)
    return function


def finish(name: str) -> Finish | None:
    """What finishes an operation or takes it back, where clearing is not all there is to it."""
    operation = OPERATIONS.get(name)
    if operation is None or operation.finish is None:
        return None
    function: Finish = _resolve(operation.finish)
    return function


def settle(name: str) -> Settle | None:
    """What clears after an operation that was of no protected volume."""
    operation = OPERATIONS.get(name)
    if operation is None or operation.settle is None:
        return None
    function: Settle = _resolve(operation.settle)
    return function


def effect(name: str) -> str | None:
    """The step with which an operation has done what it was begun for."""
    operation = OPERATIONS.get(name)
    return operation.effect if operation else None


def _resolve(path: str) -> Any:
    module, _, function = path.partition(".")
    return getattr(import_module(f"{PACKAGE}.{module}"), function)
