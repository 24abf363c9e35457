"""Whether the newest point is as young as schedules promise, and saying so."""

from collections.abc import Sequence

from dmsnap.catalogue.clock import format_time
from dmsnap.report.content import Punctuality, Verdict


def judged(
    policies: Sequence[str], runs_ns: Sequence[int], now_ns: int, spread_ns: int
) -> Punctuality:
    """By the first runs after the newest point; each begins up to ``spread_ns`` later.

    Two are what it takes to be late: a run may copy for long, and this one is still at it.
    """
    if not runs_ns:
        return Punctuality(Verdict.IN_TIME, tuple(policies))
    runs = sorted(set(runs_ns))
    begun = sum(run_ns + spread_ns < now_ns for run_ns in runs)
    verdict = (Verdict.IN_TIME, Verdict.DUE, Verdict.LATE)[min(begun, 2)]
    return Punctuality(verdict, tuple(policies), runs[0])


def sentence(found: Punctuality) -> str:
    """What a report says of it."""
    names = ", ".join(found.policies)
    due = format_time(found.due_ns) if found.due_ns is not None else None
    if found.verdict is Verdict.UNSCHEDULED:
        return "under no policy that says when points are taken"
    if found.verdict is Verdict.MISSING:
        return f"no point can be recovered, which runs of {names} should have brought"
    if found.verdict is Verdict.UNKNOWN:
        return f"not judged: {found.reason}"
    if due is None:
        return f"as young as {names} promises; no further run is planned"
    if found.verdict is Verdict.IN_TIME:
        return f"as young as {names} promises; the next run is at {due}"
    if found.verdict is Verdict.DUE:
        return f"{names} has run since, at {due}: a newer point should come of that"
    return f"late: runs of {names} have brought no newer point since {due}"
