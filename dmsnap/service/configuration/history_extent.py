"""Policies that keep more points in a history than a label has room for."""

import time
from collections.abc import Iterator, Mapping

from dmsnap.host import systemd
from dmsnap.policy.retention import Retention
from dmsnap.recovery.history import MAX_ENTRIES
from dmsnap.service.configuration.declaration import Make, Policy

HOUR_SECONDS = 3600
DAY_SECONDS = 86400


def notes(policies: Mapping[str, Policy]) -> Iterator[str]:
    """A sentence for each such policy. Asks systemd when its runs are; ``ProgramError`` where that
    cannot say.
    """
    for name, policy in policies.items():
        if policy.make is Make.SNAPSHOT or policy.history is None or not policy.schedule:
            continue
        retention = policy.history.retention
        count = most_points(retention, _runs_within(policy, retention.keep_seconds))
        # The replica's own point is in no entry.
        if count > MAX_ENTRIES + 1:
            yield (
                f"the policy {name} keeps up to {count} points on a recovery volume, which has "
                f"room for {MAX_ENTRIES + 1}: the oldest of those give way that only keep = … has "
                f"stay, then those of hours, days, weeks and months"
            )


def most_points(retention: Retention, by_age: int) -> int:
    """How many points stay, of which ``by_age`` for their age; at most, as weeks have days."""
    beyond = 0
    for count, seconds in (
        (retention.hourly, HOUR_SECONDS),
        (retention.daily, DAY_SECONDS),
        (retention.weekly, 7 * DAY_SECONDS),
        (retention.monthly, 30 * DAY_SECONDS),
        (retention.yearly, 365 * DAY_SECONDS),
    ):
        beyond += max(0, count - min(by_age, retention.keep_seconds // seconds))
    return max(by_age + beyond, retention.minimum)


def _runs_within(policy: Policy, seconds: int) -> int:
    """How many runs a policy has in so many seconds. Those beyond what has room are not counted."""
    now = int(time.time())
    runs = {
        run
        for expression in policy.schedule
        for run in systemd.elapses(expression, now, MAX_ENTRIES + 2)
    }
    return sum(run <= now + seconds for run in runs)
