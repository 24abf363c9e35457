"""What the schedules of a volume's policies promise of the age of its newest point and replica."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host import local_time, systemd
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.policy.copying import Copying
from dmsnap.report.content import NOTHING_PROMISED, Punctuality, Verdict
from dmsnap.report.punctuality import judged
from dmsnap.service.configuration import coherence, configuration_check
from dmsnap.service.configuration.declaration import CopyTable, Declarations, Make, Policy

# A point is late when the second run after it has begun.
RUNS = 2
DAY_NS = 86400 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Promises:
    """What is declared; ``doubt`` is why nothing can be judged by it."""

    declared: Declarations = field(default_factory=Declarations)
    doubt: str | None = None

    @classmethod
    def read(cls) -> "Promises":
        """Of the configuration that commands use. Mistakes in it are a doubt, and no error."""
        checked = configuration_check.check(calendars=False)
        if checked.ok:
            return cls(checked.declared)
        return cls(doubt="the configuration has mistakes, which dmsnap config check shows")

    def judged(self, volume: str, newest_ns: int | None, now_ns: int) -> Punctuality:
        """The age of a volume's newest point against what its policies promise."""
        if self.doubt is not None:
            return Punctuality(Verdict.UNKNOWN, reason=self.doubt)
        policies = dict(self._scheduled(volume))
        if not policies:
            return NOTHING_PROMISED
        if newest_ns is None:
            return Punctuality(Verdict.MISSING, tuple(policies))
        reason = _reason_against(policies)
        if reason is not None:
            return Punctuality(Verdict.UNKNOWN, tuple(policies), reason=reason)
        try:
            runs_ns = list(_runs_ns(policies, newest_ns))
        except DmsnapError as error:
            return Punctuality(Verdict.UNKNOWN, tuple(policies), reason=str(error))
        spread = max(int(policy.spread) for policy in policies.values())
        return judged(tuple(policies), runs_ns, now_ns, spread * NANOSECONDS)

    def replica_judged(self, volume: str, replica_ns: int, now_ns: int) -> Punctuality:
        """The age of what the recovery volume holds against what the policy of its history says.

        A live point does not make that any younger. Of mistakes ``judged`` tells.
        """
        policies = coherence.policies_of(self.declared, volume)
        name = policies.get("history") if self.doubt is None else None
        if name is None or not self.declared.policy[name].schedule:
            return NOTHING_PROMISED
        policy = self.declared.policy[name]
        try:
            copies_ns = _copies_ns(policy, replica_ns)
        except DmsnapError as error:
            return Punctuality(Verdict.UNKNOWN, (name,), reason=str(error))
        return judged((name,), copies_ns, now_ns, int(policy.spread) * NANOSECONDS)

    def _scheduled(self, volume: str) -> Iterator[tuple[str, Policy]]:
        """Each policy that a volume is under and that has a schedule."""
        for name in sorted(set(coherence.policies_of(self.declared, volume).values())):
            policy = self.declared.policy[name]
            if policy.schedule:
                yield name, policy


def _reason_against(policies: dict[str, Policy]) -> str | None:
    """Why nothing is promised that could be judged."""
    # Their runs make nothing in other hours, and there is no other point meanwhile.
    waiting = [
        name
        for name, policy in policies.items()
        if policy.make is Make.RECOVERY_VOLUME and policy.copy and policy.copy.hours
    ]
    return f"{', '.join(waiting)} copies in hours of its own" if waiting else None


def _runs_ns(policies: dict[str, Policy], newest_ns: int) -> Iterator[int]:
    """The first runs of each schedule after the newest point."""
    for policy in policies.values():
        yield from _runs_of(policy, newest_ns, RUNS)


def _runs_of(policy: Policy, after_ns: int, count: int) -> Iterator[int]:
    for expression in policy.schedule:
        zone = local_time.LOCALTIME.resolve()
        found = _elapses(expression, after_ns // NANOSECONDS, count, zone)
        yield from (seconds * NANOSECONDS for seconds in found)


def _copies_ns(policy: Policy, replica_ns: int) -> list[int]:
    """From when on the next two points behind the replica's should be copied."""
    copying = (policy.copy or CopyTable()).copying
    if policy.make is Make.RECOVERY_VOLUME:
        # There are no points that could wait.
        copying = Copying(hours=copying.hours)
    runs_ns = sorted(set(_runs_of(policy, replica_ns, RUNS + copying.passed)))
    runs_ns = runs_ns[copying.passed : copying.passed + RUNS]
    dues_ns = [run_ns + copying.delay_seconds * NANOSECONDS for run_ns in runs_ns]
    if copying.hours is None or not dues_ns:
        return dues_ns
    # All that has waited is copied in the same hours: it is late when they have come again.
    first_ns = copying.hours.opening_ns(dues_ns[0], local_time.zone())
    return [first_ns, copying.hours.opening_ns(first_ns + DAY_NS, local_time.zone())]


@lru_cache(maxsize=4096)
def _elapses(expression: str, after_seconds: int, count: int, _zone: Path) -> Sequence[int]:
    """What systemd says, remembered: the service asks again and again about the same point.

    The time zone is part of the question. What fails is asked anew.
    """
    return systemd.elapses(expression, after_seconds, count)
