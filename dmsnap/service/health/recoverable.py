"""What a volume can be recovered to, and how long that took when it was done last."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, Point, StepState
from dmsnap.policy.chronology import NANOSECONDS


@dataclass(frozen=True, slots=True)
class RecoverablePoint:
    """A moment that a swap can go back to, and how long ago that was."""

    point: str
    created_ns: int
    age_seconds: float


def newest(points: Sequence[Point], standing: Collection[str]) -> RecoverablePoint | None:
    """The newest point that is in one of the places that hold, by the ids in ``standing``.

    One that a verification found wrong is none: a swap refuses it.
    """
    good = [each for each in points if str(each.id) in standing and each.invalid_reason is None]
    if not good:
        return None
    found = max(good, key=lambda each: each.created_ns)
    # Less than nothing where the clock was set back since.
    age_ns = max(0, now_ns() - found.created_ns)
    return RecoverablePoint(str(found.id), found.created_ns, age_ns / NANOSECONDS)


def measured_seconds(last_swap: Job | None) -> float | None:
    """How long the last swap took that ended well; None where that was not measured.

    One that was cut off and finished by another command lacks the time of a step.
    """
    if last_swap is None:
        return None
    done = [step.seconds for step in last_swap.steps if step.state is StepState.DONE]
    seconds = [each for each in done if each is not None]
    return sum(seconds) if seconds and len(seconds) == len(last_swap.steps) else None
