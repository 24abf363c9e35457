"""What the schedules of a volume's policies promise of its newest point's age."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host import local_time, systemd
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.report.content import NOTHING_PROMISED, Punctuality, Verdict
from dmsnap.report.punctuality import judged
from dmsnap.service.configuration import coherence, configuration_check
from dmsnap.service.configuration.declaration import Declarations, Make, Policy

# A point is late when the second run after it has begun.
RUNS = 2


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
        for expression in policy.schedule:
            found = _elapses(expression, newest_ns // NANOSECONDS, local_time.LOCALTIME.resolve())
            yield from (seconds * NANOSECONDS for seconds in found)


@lru_cache(maxsize=4096)
def _elapses(expression: str, after_seconds: int, _zone: Path) -> Sequence[int]:
    """What systemd says, remembered: the service asks again and again about the same point.

    The time zone is part of the question. What fails is asked anew.
    """
    return systemd.elapses(expression, after_seconds, RUNS)
