"""What hooks did in a job, and what they wrote. Of each hook the newest runs are kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from dmsnap.catalogue.statements import Statements
from dmsnap.catalogue.store import Catalogue

# At most 64 Ki characters each: a hook that writes as much in every run takes some megabytes.
KEPT_RUNS = 200


@dataclass(frozen=True, slots=True)
class HookRecord:
    """One run of a hook. ``outcome`` is what became of it; ``seconds`` None: it was not run.

    ``output``: what it wrote, as text, with a note where the middle of it was left out.
    """

    hook: str
    phase: str
    outcome: str
    failed: bool
    seconds: float | None
    output: str
    step: str = ""


def record(catalogue: Catalogue, job_id: int, step: str, runs: Sequence[HookRecord]) -> None:
    """Record what ran in a step, after what is recorded of the job; the oldest runs go."""
    with catalogue.statements() as statements:
        last = "SELECT MAX(number) FROM hook_run WHERE job_id = :job"
        number = statements.value(last, job=job_id)
        first = 0 if number is None else number + 1
        statements.insert(
            "hook_run",
            (
                asdict(each) | {"job_id": job_id, "number": number, "step": step}
                for number, each in enumerate(runs, start=first)
            ),
        )
        for hook in {each.hook for each in runs}:
            _forget_old(statements, hook)


def _forget_old(statements: Statements, hook: str) -> None:
    """Jobs go as a whole, so that no run of one is missing beside others."""
    job_id = statements.value(
        "SELECT job_id FROM hook_run WHERE hook = :hook ORDER BY job_id DESC LIMIT 1 OFFSET :kept",
        hook=hook,
        kept=KEPT_RUNS,
    )
    if job_id is not None:
        old = "DELETE FROM hook_run WHERE hook = :hook AND job_id <= :job"
        statements.execute(old, hook=hook, job=job_id)


def of_job(catalogue: Catalogue, job_id: int) -> tuple[HookRecord, ...]:
    """The runs of a job that are kept, in the order in which they were."""
    columns = ", ".join(each.name for each in fields(HookRecord))
    query = f"SELECT {columns} FROM hook_run WHERE job_id = :job ORDER BY number"  # noqa: S608
    with catalogue.statements() as statements:
        found = statements.rows(query, job=job_id)
    return tuple(HookRecord(**row | {"failed": bool(row["failed"])}) for row in found)
