"""What a report is made of. Times are nanoseconds since the epoch; what is not known is None."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """Where a point is, or was last."""

    LIVE = "live"
    REPLICA = "replica"
    HISTORY = "history"
    NOWHERE = "no place"  # of a deleted one: none was recorded


class Standing(StrEnum):
    """What a point is worth; drawn in this order, so that the good lie over the others."""

    GONE = "gone"
    FAULTY = "faulty"
    HERE = "here"


@dataclass(frozen=True, slots=True)
class PlottedPoint:
    """A point; ``fault`` is why it is worth nothing, ``deleted_reason`` why it was deleted."""

    id: str
    created_ns: int
    lanes: tuple[Lane, ...]
    keep: bool = False
    fault: str | None = None
    deleted_ns: int | None = None
    deleted_reason: str | None = None
    expires_ns: int | None = None
    comment: str | None = None

    @property
    def is_gone(self) -> bool:
        return self.deleted_ns is not None

    @property
    def standing(self) -> Standing:
        if self.is_gone:
            return Standing.GONE
        return Standing.FAULTY if self.fault else Standing.HERE


@dataclass(frozen=True, slots=True)
class Overwritten:
    """What the sync that brought a point overwrote, by the undo store that leads back from it."""

    point_ns: int
    store_bytes: int


class Verdict(StrEnum):
    """The newest point's age against the schedules of the volume's policies."""

    UNSCHEDULED = "unscheduled"  # no policy says when points are taken
    UNKNOWN = "unknown"
    MISSING = "missing"  # there is no point that can be recovered
    IN_TIME = "in time"
    DUE = "due"  # a run has begun since that should bring a newer one
    LATE = "late"  # so have two


@dataclass(frozen=True, slots=True)
class Punctuality:
    """``due_ns`` is the first run after the newest point; ``reason``, why nothing is known."""

    verdict: Verdict
    policies: tuple[str, ...] = ()
    due_ns: int | None = None
    reason: str | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether it is not even known which policies the volume is under."""
        return self.verdict is Verdict.UNKNOWN and not self.policies


NOTHING_PROMISED = Punctuality(Verdict.UNSCHEDULED)


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that failed or was undone."""

    operation: str
    ended_ns: int
    state: str
    outcome: str


@dataclass(frozen=True, slots=True)
class VolumeContent:
    """One volume. ``points`` and ``overwritten`` are ordered by time, ``failed`` newest first.

    ``recovery_seconds`` is what the last swap took.
    """

    name: str
    state: str
    device: str
    recovery: str | None
    size_bytes: int
    newest_ns: int | None
    recovery_seconds: float | None
    punctuality: Punctuality
    points: Sequence[PlottedPoint] = ()
    overwritten: Sequence[Overwritten] = ()
    problems: Sequence[str] = ()
    failed: Sequence[FailedJob] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """All volumes of a host at one moment."""

    host: str
    made_ns: int
    volumes: Sequence[VolumeContent] = ()
