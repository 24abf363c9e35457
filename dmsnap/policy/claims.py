"""What the points of a history can claim when it has no room for all: who goes first."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import tzinfo
from enum import IntEnum
from uuid import UUID

from dmsnap.policy import retention as rules_of
from dmsnap.policy.retention import AgingPoint, Decision, Retention, Rule


class Claim(IntEnum):
    """The higher, the later a point goes. One that is marked never does: its label says so, too.

    What stays for its age alone are the many that follow each other closely; a month has one.
    """

    NONE = 0  # no rule keeps it
    AGE = 1
    HOURLY = 2
    DAILY = 3
    WEEKLY = 4
    MONTHLY = 5
    YEARLY = 6
    MINIMUM = 7
    EXPIRY = 8
    KEEP = 9


def of_history(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int | None, zone: tzinfo
) -> dict[UUID, Claim]:
    """The claims of a recovery volume's points, in the order in which they were taken.

    While the clock is in doubt (``now_ns`` None) they are judged by what it said of the points
    themselves: to let the oldest go in place of that would cost those that stay for longest.
    """
    decisions = rules_of.of_history(points, retention, now_ns, zone)
    if any(Rule.CLOCK in each.rules for each in decisions):
        last_ns = max(point.created_ns for point in points)
        lasting = [_lasting(point, last_ns) for point in points]
        decisions = rules_of.of_history(lasting, retention, last_ns, zone)
    return {each.point: _claim(each) for each in decisions}


def _lasting(point: AgingPoint, now_ns: int) -> AgingPoint:
    """With its own time not over, if it has one."""
    return point if point.expires_ns is None else replace(point, expires_ns=now_ns + 1)


def _claim(decision: Decision) -> Claim:
    """The highest that any of its rules gives."""
    names = [rule.name for rule in decision.rules]
    return max((Claim[name] for name in names if name in Claim.__members__), default=Claim.NONE)
