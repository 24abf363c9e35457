"""Jobs: what was begun, how far each of its steps came, and on which volumes something is left."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, JobState, JobStep, StepState
from dmsnap.catalogue.statements import Row, Statements, from_json, grouped, listed
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError

# Written out, as in the index for it: databases do not take a parameter for what it says.
_IS_RUNNING = f"state = '{JobState.RUNNING}'"


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
    with catalogue.statements() as statements:
        job_id = int(
            statements.value(
                "INSERT INTO job (operation, arguments, pid, started_ns, state)"
                " VALUES (:operation, :arguments, :pid, :started_ns, :state) RETURNING id",
                operation=operation,
                arguments=arguments,
                pid=pid,
                started_ns=now_ns(),
                state=JobState.RUNNING,
            )
        )
        statements.insert(
            "job_volume",
            (
                {"job_id": job_id, "volume_id": each, "settled": False, "operation": operation}
                for each in volume_ids
            ),
        )
        planned = {"job_id": job_id, "state": StepState.PLANNED}
        statements.insert(
            "job_step",
            (planned | {"position": position, "name": name} for position, name in enumerate(steps)),
        )
    return job_id


def record_step(
    catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
) -> None:
    """Record how far a step is."""
    with catalogue.statements() as statements:
        statements.execute(
            "UPDATE job_step SET state = :state, seconds = :seconds"
            " WHERE job_id = :job AND position = :position",
            job=job_id,
            position=position,
            state=state,
            seconds=seconds,
        )


def note(catalogue: Catalogue, job_id: int, outcome: str) -> None:
    """Record what became of a job that is not at its end, and is left to others."""
    with catalogue.statements() as statements:
        statements.update("job", {"id": job_id, "outcome": outcome})


def end(catalogue: Catalogue, job_id: int, state: JobState, outcome: str) -> None:
    """Record how a job ended, on all of its volumes."""
    with catalogue.statements() as statements:
        statements.execute(
            "UPDATE job_volume SET settled = :settled WHERE job_id = :job", job=job_id, settled=True
        )
        _end(statements, job_id, state, outcome)


def settle(
    catalogue: Catalogue, job_id: int, volume_id: UUID, state: JobState, outcome: str
) -> None:
    """Nothing of a job that was cut off is left on one volume; it ends when that was the last."""
    with catalogue.statements() as statements:
        statements.execute(
            "UPDATE job_volume SET settled = :settled WHERE job_id = :job AND volume_id = :volume",
            job=job_id,
            volume=volume_id,
            settled=True,
        )
        left = statements.values(
            "SELECT volume_id FROM job_volume"  # noqa: S608
            f" WHERE job_id = :job AND {statements.is_false('settled')}",
            job=job_id,
        )
        if not left:
            _end(statements, job_id, state, outcome)


def job(catalogue: Catalogue, job_id: int) -> Job:
    """The job with that number, else :class:`NotFoundError`."""
    with catalogue.statements() as statements:
        found = _jobs(statements, "id = :id", id=job_id)
    if not found:
        raise NotFoundError(f"there is no job {job_id}", hint="dmsnap job list shows the jobs")
    return found[0]


def recent(catalogue: Catalogue, count: int) -> list[Job]:
    """The last jobs, the newest first; those that are not at their end are all among them."""
    # Not as two conditions of one query, which would look at every job.
    newest = "SELECT id FROM (SELECT id FROM job ORDER BY id DESC LIMIT :count) AS newest"
    either = f"{newest} UNION SELECT id FROM job WHERE {_IS_RUNNING}"  # noqa: S608
    with catalogue.statements() as statements:
        return _jobs(statements, f"id IN ({either})", count=count)


def running(catalogue: Catalogue) -> list[Job]:
    """All that are not at their end, the newest first."""
    with catalogue.statements() as statements:
        return _jobs(statements, _IS_RUNNING)


def unfinished(catalogue: Catalogue, volume_id: UUID) -> list[Job]:
    """Jobs of which something may be left on a volume, the newest first.

    With the volume's lock held their processes are dead.
    """
    with catalogue.statements() as statements:
        of_volume = (
            "SELECT job_id FROM job_volume WHERE volume_id = :volume"  # noqa: S608
            f" AND {statements.is_false('settled')}"
        )
        return _jobs(statements, f"id IN ({of_volume}) AND {_IS_RUNNING}", volume=volume_id)


def last(catalogue: Catalogue, volume_id: UUID) -> Job | None:
    """The last job of a volume; None: it has had none."""
    newest = "SELECT MAX(job_id) FROM job_volume WHERE volume_id = :volume"
    with catalogue.statements() as statements:
        found = _jobs(statements, f"id = ({newest})", volume=volume_id)
    return found[0] if found else None


def newest_of_each(
    catalogue: Catalogue, volume_ids: Sequence[UUID], operations: Sequence[str]
) -> list[Job]:
    """Of each operation on each volume the last job and the last that ended well, the newest first.

    Those of the past are behind any number of others: each is a look into an index.
    """
    volumes, ids = listed("volume", volume_ids)
    _, names = listed("operation", operations)
    kinds = " UNION ALL ".join(f"SELECT CAST(:{each} AS TEXT) AS name" for each in names)
    last = (
        "SELECT job_id FROM job_volume WHERE volume_id = volume.id AND operation = kind.name"
        " ORDER BY job_id DESC LIMIT 1"
    )
    with catalogue.statements() as statements:
        done = newest_done_of(statements, "volume.id", "kind.name")
        found = statements.rows(
            f"SELECT ({last}) AS last, ({done}) AS done"  # noqa: S608
            f" FROM volume CROSS JOIN ({kinds}) AS kind WHERE volume.id IN {volumes}",
            **ids,
            **names,
        )
        numbers = {number for row in found for number in row.values() if number is not None}
        return of_numbers(statements, numbers)


def newest_done(catalogue: Catalogue, volume_id: UUID, operation: str) -> Job | None:
    """The last job of a kind that ended well, with its steps."""
    with catalogue.statements() as statements:
        newest = f"id = ({newest_done_of(statements, ':volume')})"
        found = _jobs(statements, newest, volume=volume_id, operation=operation)
    return found[0] if found else None


def newest_done_of(statements: Statements, volume_id: str, operation: str = ":operation") -> str:
    """A query: the number of a volume's last job of an operation that ended well.

    The volume's id is given by a column or a parameter, the operation by a parameter or as text.
    """
    job = statements.each("job", f"job.id = job_volume.job_id AND job.state = '{JobState.DONE}'")
    return (
        f"SELECT job_volume.job_id FROM job_volume {job} WHERE job_volume.volume_id = {volume_id}"  # noqa: S608
        f" AND job_volume.operation = {operation} ORDER BY job_volume.job_id DESC LIMIT 1"
    )


def of_numbers(statements: Statements, job_ids: Collection[int]) -> list[Job]:
    """The jobs with these numbers, the newest first; a part of a transaction."""
    return _with_steps(statements, statements.among("job", "id", sorted(job_ids, reverse=True)))


def _end(statements: Statements, job_id: int, state: JobState, outcome: str) -> None:
    ended = {"id": job_id, "finished_ns": now_ns(), "state": state, "outcome": outcome}
    statements.update("job", ended)


def _jobs(statements: Statements, where: str, **values: object) -> list[Job]:
    return _with_steps(statements, statements.rows(f"SELECT * FROM job WHERE {where}", **values))  # noqa: S608


def _with_steps(statements: Statements, found: Sequence[Row]) -> list[Job]:
    """Jobs of their rows, the newest first; what belongs to them is asked for all at once."""
    rows = sorted(found, key=lambda row: row["id"], reverse=True)
    ids = [row["id"] for row in rows]
    volumes, steps = (
        grouped(statements.among(table, "job_id", ids), "job_id")
        for table in ("job_volume", "job_step")
    )
    return [_job(row, volumes[row["id"]], steps[row["id"]]) for row in rows]


def _job(row: Row, volumes: Sequence[Row], steps: Sequence[Row]) -> Job:
    in_order = sorted(steps, key=lambda step: step["position"])
    return Job(
        **row
        | {
            "arguments": from_json(row["arguments"]),
            "state": JobState(row["state"]),
            "volume_ids": tuple(UUID(each["volume_id"]) for each in volumes),
            "steps": tuple(
                JobStep(step["name"], StepState(step["state"]), step["seconds"])
                for step in in_order
            ),
        }
    )
