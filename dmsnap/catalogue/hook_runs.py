"""What hooks did in a job, and what they wrote. Of each hook the newest runs are kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa

from dmsnap.catalogue import schema
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
    run = schema.hook_run.c
    with catalogue.transaction() as connection:
        last = connection.scalar(sa.select(sa.func.max(run.number)).where(run.job_id == job_id))
        for number, each in enumerate(runs, start=0 if last is None else last + 1):
            row = asdict(each) | {"job_id": job_id, "number": number, "step": step}
            connection.execute(schema.hook_run.insert().values(**row))
        for hook in {each.hook for each in runs}:
            _forget_old(connection, hook)


def _forget_old(connection: sa.Connection, hook: str) -> None:
    """Jobs go as a whole, so that no run of one is missing beside others."""
    run = schema.hook_run.c
    oldest = (
        sa.select(run.job_id)
        .where(run.hook == hook)
        .order_by(run.job_id.desc())
        .offset(KEPT_RUNS)
        .limit(1)
    )
    job_id = connection.scalar(oldest)
    if job_id is not None:
        old = schema.hook_run.delete().where(run.hook == hook, run.job_id <= job_id)
        connection.execute(old)


def of_job(catalogue: Catalogue, job_id: int) -> tuple[HookRecord, ...]:
    """The runs of a job that are kept, in the order in which they were."""
    columns = [schema.hook_run.c[each.name] for each in fields(HookRecord)]
    query = (
        sa.select(*columns)
        .where(schema.hook_run.c.job_id == job_id)
        .order_by(schema.hook_run.c.number)
    )
    with catalogue.transaction() as connection:
        return tuple(HookRecord(**row) for row in connection.execute(query).mappings())
