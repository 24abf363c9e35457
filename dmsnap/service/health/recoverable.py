"""What a volume can be recovered to, and how long that took when it was done last."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dmsnap.catalogue.clock import format_time, is_to_come, now_ns
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

    One that a verification found wrong is none: a swap refuses it. Nor is one whose time is yet to
    come: nobody knows how old that is.
    """
    good = [each for each in _good(points, standing) if not is_to_come(each.created_ns)]
    if not good:
        return None
    found = max(good, key=lambda each: each.created_ns)
    return RecoverablePoint(str(found.id), found.created_ns, age_seconds(found.created_ns) or 0.0)


def age_seconds(created_ns: int) -> float | None:
    """How long ago that was; None where it is yet to come, so that nobody knows."""
    if is_to_come(created_ns):
        return None
    # Less than nothing where the clock was set back a little since.
    return max(0, now_ns() - created_ns) / NANOSECONDS


def of_the_future(points: Sequence[Point], standing: Collection[str]) -> list[str]:
    """What is wrong with points whose time is yet to come, of those that hold."""
    return [
        f"point {each.id} was taken at {format_time(each.created_ns)}, which is yet to come: the "
        f"clock was wrong then, or is now, and nobody knows how old the point is"
        for each in _good(points, standing)
        if is_to_come(each.created_ns)
    ]


def _good(points: Sequence[Point], standing: Collection[str]) -> list[Point]:
    return [each for each in points if str(each.id) in standing and each.invalid_reason is None]


def measured_seconds(last_swap: Job | None) -> float | None:
    """How long the last swap took that ended well; None where that was not measured.

    One that was cut off and finished by another command lacks the time of a step.
    """
    if last_swap is None:
        return None
    done = [step.seconds for step in last_swap.steps if step.state is StepState.DONE]
    seconds = [each for each in done if each is not None]
    return sum(seconds) if seconds and len(seconds) == len(last_swap.steps) else None
