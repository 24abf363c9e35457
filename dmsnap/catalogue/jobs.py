"""Jobs: what was begun, how far each of its steps came, and on which volumes something is left."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, JobState, JobStep, StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError

# Written out, as in the index for it: databases do not take a parameter for what it says.
_IS_RUNNING = schema.job.c.state == sa.literal_column("'running'")


def begin(
    catalogue: Catalogue,
    operation: str,
    volume_ids: Sequence[UUID],
    *,
    arguments: Mapping[str, object],
    pid: int,
    steps: Sequence[str],
) -> int:
    """Record an operation and its steps before the first is done; returns the job's id."""
    with catalogue.transaction() as connection:
        job_id: int = connection.execute(
            schema.job.insert()
            .values(
                operation=operation,
                arguments=dict(arguments),
                pid=pid,
                started_ns=now_ns(),
                state=JobState.RUNNING,
            )
            .returning(schema.job.c.id)
        ).scalar_one()
        for table, rows in (
            (schema.job_volume, [{"volume_id": str(each)} for each in volume_ids]),
            (
                schema.job_step,
                [
                    {"position": position, "name": name, "state": StepState.PLANNED}
                    for position, name in enumerate(steps)
                ],
            ),
        ):
            if rows:
                connection.execute(table.insert(), [{"job_id": job_id, **row} for row in rows])
    return job_id


def record_step(
    catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
) -> None:
    """Record how far a step is."""
    step = schema.job_step.c
    with catalogue.transaction() as connection:
        connection.execute(
            schema.job_step.update()
            .where(step.job_id == job_id, step.position == position)
            .values(state=state, seconds=seconds)
        )


def end(catalogue: Catalogue, job_id: int, state: JobState, outcome: str) -> None:
    """Record how a job ended, on all of its volumes."""
    with catalogue.transaction() as connection:
        _settle(connection, job_id, None)
        _end(connection, job_id, state, outcome)


def settle(
    catalogue: Catalogue, job_id: int, volume_id: UUID, state: JobState, outcome: str
) -> None:
    """Nothing of a job that was cut off is left on one volume; it ends when that was the last."""
    with catalogue.transaction() as connection:
        _settle(connection, job_id, volume_id)
        left = sa.select(schema.job_volume).where(
            schema.job_volume.c.job_id == job_id, ~schema.job_volume.c.settled
        )
        if connection.execute(left).first() is None:
            _end(connection, job_id, state, outcome)


def job(catalogue: Catalogue, job_id: int) -> Job:
    """The job with that number, else :class:`NotFoundError`."""
    found = _jobs(catalogue, schema.job.c.id == job_id)
    if not found:
        raise NotFoundError(f"there is no job {job_id}", hint="dmsnap job list shows the jobs")
    return found[0]


def recent(catalogue: Catalogue, count: int) -> list[Job]:
    """The last jobs, the newest first; those that are not at their end are all among them."""
    job = schema.job.c
    newest = sa.select(job.id).order_by(job.id.desc()).limit(count).subquery()
    # Not as two conditions of one query, which would look at every job.
    either = sa.union(sa.select(newest.c.id), sa.select(job.id).where(_IS_RUNNING))
    return _jobs(catalogue, job.id.in_(either))


def running(catalogue: Catalogue) -> list[Job]:
    """All that are not at their end, the newest first."""
    return _jobs(catalogue, _IS_RUNNING)


def unfinished(catalogue: Catalogue, volume_id: UUID) -> list[Job]:
    """Jobs of which something may be left on a volume, the newest first.

    With the volume's lock held their processes are dead.
    """
    of_volume = sa.select(schema.job_volume.c.job_id).where(
        schema.job_volume.c.volume_id == str(volume_id), ~schema.job_volume.c.settled
    )
    return _jobs(catalogue, sa.and_(schema.job.c.id.in_(of_volume), _IS_RUNNING))


def last_done(catalogue: Catalogue, volume_id: UUID, operation: str) -> int | None:
    """When the last job of a kind ended that ended well: nanoseconds since the epoch."""
    query = _newest_done(schema.job.c.finished_ns, volume_id, operation)
    with catalogue.transaction() as connection:
        found: int | None = connection.scalar(query)
    return found


def newest_done(catalogue: Catalogue, volume_id: UUID, operation: str) -> Job | None:
    """The last job of a kind that ended well, with its steps."""
    newest = _newest_done(schema.job.c.id, volume_id, operation).scalar_subquery()
    return next(iter(_jobs(catalogue, schema.job.c.id == newest)), None)


def _newest_done(column: sa.Column[Any], volume_id: UUID, operation: str) -> sa.Select[tuple[Any]]:
    job = schema.job.c
    is_of_volume = sa.exists().where(
        schema.job_volume.c.job_id == job.id, schema.job_volume.c.volume_id == str(volume_id)
    )
    return (
        sa.select(column)
        .where(job.operation == operation, job.state == JobState.DONE, is_of_volume)
        .order_by(job.id.desc())
        .limit(1)
    )


def _settle(connection: sa.Connection, job_id: int, volume_id: UUID | None) -> None:
    statement = schema.job_volume.update().where(schema.job_volume.c.job_id == job_id)
    if volume_id is not None:
        statement = statement.where(schema.job_volume.c.volume_id == str(volume_id))
    connection.execute(statement.values(settled=True))


def _end(connection: sa.Connection, job_id: int, state: JobState, outcome: str) -> None:
    connection.execute(
        schema.job.update()
        .where(schema.job.c.id == job_id)
        .values(finished_ns=now_ns(), state=state, outcome=outcome)
    )


def _jobs(catalogue: Catalogue, where: sa.ColumnElement[bool]) -> list[Job]:
    query = sa.select(schema.job).where(where).order_by(schema.job.c.id.desc())
    with catalogue.transaction() as connection:
        rows = connection.execute(query).mappings().all()
        return [_job(connection, row) for row in rows]


def _job(connection: sa.Connection, row: sa.RowMapping) -> Job:
    volumes = sa.select(schema.job_volume.c.volume_id).where(
        schema.job_volume.c.job_id == row["id"]
    )
    steps = (
        sa.select(schema.job_step)
        .where(schema.job_step.c.job_id == row["id"])
        .order_by(schema.job_step.c.position)
    )
    return Job(
        **dict(row)
        | {
            "state": JobState(row["state"]),
            "volume_ids": tuple(UUID(each) for each in connection.scalars(volumes)),
            "steps": tuple(
                JobStep(step["name"], StepState(step["state"]), step["seconds"])
                for step in connection.execute(steps).mappings()
            ),
        }
    )
