"""What can be begun anew after it was cut off, and who brings to its end what can be.

Functions are named, as actions are on the command line, and imported when they are needed: holding
a volume may finish any operation, and every operation holds a volume.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dmsnap.catalogue.model import Job, StepState, Volume
from dmsnap.service.session import Session

PACKAGE = "dmsnap.service"

Again = Callable[..., object]
Finish = Callable[[Session, Volume, Job], bool]
Settle = Callable[[Session, Job], bool]
Mend = Callable[[Volume], None]


@dataclass(frozen=True, slots=True)
class Operation:
    """PACKAGE.MODULE.FUNCTION for what is done about a job that was cut off.

    ``again(session, **arguments, dry_run=False)`` begins the operation anew: what the command line
    calls, or, where JSON does not hold what that takes, a function that makes it of them.
    ``finish(session, volume, job)`` is called with the volume held and cleared, and says whether
    the job is done now, or undone. Where there is no ``finish``, clearing was all: the job is done
    when its step ``effect`` was; that is recorded, too, where what was done is looked for besides.
    ``settle(session, job)`` says the same of a job that is of no
    protected volume, after clearing what it left. ``mend(volume)`` does what is left to do and may
    take long: ``job resume`` waits for it, as after a boot, and no command that has other work.
    """

    again: str
    finish: str | None = None
    effect: str | None = None
    settle: str | None = None
    mend: str | None = None


# What begins by rolling a sync back, which may be concluded since it was cut off itself.
ROLL_BACK = "replicas.settling.settle_replica"

OPERATIONS = {
    "protect": Operation("volumes.protect.again", finish="volumes.protect.finish"),
    "unprotect": Operation("volumes.unprotect.unprotect", finish="volumes.unprotect.finish"),
    "assemble": Operation("volumes.assemble.assemble", effect="create-stack"),
    "point create": Operation("points.point.create", effect="window"),
    "point delete": Operation("points.deletion.again", finish="points.deletion.finish_deletion"),
    "point keep": Operation("points.keeping.keep", finish="points.keeping.finish"),
    "point set": Operation("points.properties.again", finish="points.properties.finish"),
    "prune": Operation("points.prune.again", finish="points.prune.finish"),
    "point mount": Operation("points.browse.again", effect="mount"),
    "point umount": Operation("points.browse.unmount_point", effect="unmount"),
    "point copy": Operation(
        "points.point_copy.again", effect="reveal", settle="points.point_copy.settle"
    ),
    "snapshot create": Operation(
        "snapshots.providers.create_again", settle="snapshots.providers.settle_creation"
    ),
    "snapshot delete": Operation(
        "snapshots.providers.delete_again", settle="snapshots.providers.settle_removal"
    ),
    "sync": Operation(
        "replicas.sync.again",
        finish="replicas.settling.finish",
        effect="apply",
        mend=ROLL_BACK,
    ),
    "attach": Operation("replicas.attach.again", finish="replicas.attach.finish"),
    "verify": Operation("replicas.verify.again"),
    "swap": Operation("swaps.swap.swap", finish="swaps.swap.finish", mend=ROLL_BACK),
    "swap from-label": Operation("swaps.from_label.again", finish="swaps.from_label.finish"),
    "swap revert": Operation("swaps.revert.revert", finish="swaps.revert.finish"),
    "swap extend": Operation("swaps.extension.extend", finish="swaps.extension.finish"),
    "swap commit": Operation("swaps.promotion.commit", finish="swaps.promotion.finish"),
    "resize": Operation("resizing.resize.again", finish="resizing.resize.finish", mend=ROLL_BACK),
    "hydrate": Operation("hydrations.hydrate.again", finish="hydrations.hydrate.finish"),
    "failback": Operation("swaps.failback.failback", finish="swaps.failback.finish"),
    "export": Operation(
        "exports.export.again", effect="confirm", settle="exports.export_source.settle"
    ),
    "export restore": Operation(
        "exports.export_restore.again", effect="enable", settle="exports.export_source.settle"
    ),
    "unexport": Operation(
        "exports.unexport.again", effect="withdraw", settle="exports.export_source.settle"
    ),
    "lun swap": Operation(
        "exports.lun_swap.again", effect="record", settle="exports.export_source.settle"
    ),
}


# What was recorded by another version: clearing is all that is known of it.
UNKNOWN = Operation("")


def again(name: str) -> Again:
    """What begins an operation anew; KeyError for one that is not known."""
    function: Again = _resolve(OPERATIONS[name].again)
    return function


def finish(name: str) -> Finish | None:
    """What finishes an operation or takes it back, where clearing is not all there is to it."""
    function: Finish | None = _resolve(OPERATIONS.get(name, UNKNOWN).finish)
    return function


def settle(name: str) -> Settle | None:
    """What clears after an operation that was of no protected volume."""
    function: Settle | None = _resolve(OPERATIONS.get(name, UNKNOWN).settle)
    return function


def mend(name: str) -> Mend | None:
    """What is left to do of an operation that was cut off, for who has the time."""
    function: Mend | None = _resolve(OPERATIONS.get(name, UNKNOWN).mend)
    return function


def has_taken_effect(job: Job) -> bool:
    """Whether a job has done the step for which its operation was begun."""
    effect = OPERATIONS.get(job.operation, UNKNOWN).effect
    return effect is not None and job.has(effect, StepState.DONE)


def is_finished_by_looking(name: str) -> bool:
    """Whether devices and labels decide what becomes of an operation that was cut off."""
    operation = OPERATIONS.get(name, UNKNOWN)
    looking = operation.finish is not None or operation.settle is not None
    return looking and operation.effect is None


def _resolve(path: str | None) -> Any:
    if path is None:
        return None
    module, _, function = path.rpartition(".")
    return getattr(import_module(f"{PACKAGE}.{module}"), function)
