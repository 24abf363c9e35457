"""Retention, slowly and obviously: each rule asked of each point, looking at all the others.

For clocks that never jump. Periods are compared as texts that strftime(3) makes of them.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo

from dmsnap.policy.retention import Action, AgingPoint, Retention, Rule

FORMATS = {
    Rule.HOURLY: "%Y-%m-%d %H %z",
    Rule.DAILY: "%Y-%m-%d",
    Rule.WEEKLY: "%G-%V",
    Rule.MONTHLY: "%Y-%m",
    Rule.YEARLY: "%Y",
}


def period(point: AgingPoint, rule: Rule, zone: tzinfo) -> str:
    moment = datetime.fromtimestamp(point.created_ns // 10**9, zone)
    return moment.strftime(FORMATS[rule])


def is_over(point: AgingPoint, now_ns: int) -> bool:
    """Whether it had a time of its own."""
    return point.expires_ns is not None and now_ns >= point.expires_ns


def is_kept_by(
    rule: Rule,
    point: AgingPoint,
    points: Sequence[AgingPoint],
    retention: Retention,
    now_ns: int,
    zone: tzinfo,
) -> bool:
    """Whether one rule keeps one point of a sequence, oldest first."""
    newer = points[points.index(point) + 1 :]
    over = is_over(point, now_ns)
    if rule is Rule.KEEP:
        return point.keep
    if rule is Rule.HELD:
        return point.held
    if rule is Rule.EXPIRY:
        return point.expires_ns is not None and not over
    if rule is Rule.MINIMUM:
        return len(newer) < retention.minimum
    if rule is Rule.AGE:
        return not over and now_ns - point.created_ns < retention.keep_seconds * 10**9
    if rule in FORMATS:
        own = period(point, rule, zone)
        counted = (other for other in newer if not is_over(other, now_ns))
        periods = {period(other, rule, zone) for other in counted}
        return not over and own not in periods and len(periods) < getattr(retention, rule.value)
    return False


def rules_of(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int, zone: tzinfo
) -> list[set[Rule]]:
    """All the rules that keep each point on the primary."""
    return [
        {rule for rule in Rule if is_kept_by(rule, point, points, retention, now_ns, zone)}
        for point in points
    ]


def of_history(
    points: Sequence[AgingPoint], retention: Retention, now_ns: int, zone: tzinfo
) -> list[tuple[Action, set[Rule]]]:
    """What becomes of each point of a recovery volume."""
    kept = rules_of(points, retention, now_ns, zone)
    for index, point in enumerate(points):
        if point is points[-1]:
            kept[index].add(Rule.REPLICA)
        if any(older.held for older in points[:index]):
            kept[index].add(Rule.CHAIN)
    return [(_action(rules, kept[:index]), rules) for index, rules in enumerate(kept)]


def _action(rules: set[Rule], older: Iterable[set[Rule]]) -> Action:
    if rules:
        return Action.STAY
    return Action.MERGE if any(older) else Action.DROP
