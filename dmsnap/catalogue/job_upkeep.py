"""What goes of jobs with time: else steps alone are millions of rows in some years.

What people ask for stays: the newest job of each volume and operation, and the newest that ended
well, of which it is told how long it took.
"""

from collections.abc import Collection, Sequence

from dmsnap.catalogue.model import JobState
from dmsnap.catalogue.statements import Statements, listed
from dmsnap.catalogue.store import Catalogue

DAY_NS = 86400 * 10**9
# Of jobs that ended well; how the others ended is shown as long as they are.
STEPS_NS = 90 * DAY_NS
JOBS_NS = 365 * DAY_NS
# Each lot is a transaction, behind which others wait.
LOT = 500
# Those that name jobs first.
TABLES = ("hook_run", "job_step", "job_volume")


def forget_old(catalogue: Catalogue, now_ns: int) -> None:
    """Forget jobs older than a year, and steps of those that ended well after 90 days.

    Killed meanwhile, the next time does what is left.
    """
    _forget_jobs(catalogue, now_ns - JOBS_NS)
    _forget_steps(catalogue, now_ns - STEPS_NS)


def _forget_jobs(catalogue: Catalogue, before_ns: int) -> None:
    # In the order of an index by which SQLite then finds them: asked for by their ids, in whatever
    # way, it would look at every job there is.
    query = (
        f"SELECT id FROM job WHERE started_ns < :before AND state <> '{JobState.RUNNING}'"  # noqa: S608
        " ORDER BY started_ns"
    )
    with catalogue.statements() as statements:
        newest = statements.value("SELECT MAX(id) FROM job")
        old = sorted(each for each in statements.values(query, before=before_ns) if each != newest)
    for first in range(0, len(old), LOT):
        lot = old[first : first + LOT]
        with catalogue.statements() as statements:
            going = _without_newest(statements, lot)
            for table in TABLES:
                _delete(statements, table, "job_id", going)
            _delete(statements, "job", "id", going)


def _forget_steps(catalogue: Catalogue, before_ns: int) -> None:
    """The youngest are looked at first, as nothing older has steps where they have none; the oldest
    go first, so that this holds whenever it is cut off.
    """
    query = (
        f"SELECT id, started_ns FROM job WHERE started_ns < :before AND state = '{JobState.DONE}'"  # noqa: S608
        " ORDER BY started_ns DESC LIMIT :lot"
    )
    lots: list[list[int]] = []
    while True:
        with catalogue.statements() as statements:
            jobs = statements.rows(query, before=before_ns, lot=LOT)
            going = _with_steps(statements, [row["id"] for row in jobs])
            going = _without_newest(statements, going)
        if not going:
            break
        lots.append(going)
        before_ns = jobs[-1]["started_ns"]
    for going in reversed(lots):
        with catalogue.statements() as statements:
            _delete(statements, "job_step", "job_id", going)


def _with_steps(statements: Statements, job_ids: Collection[int]) -> list[int]:
    these, given = listed("one", sorted(job_ids))
    query = f"SELECT DISTINCT job_id FROM job_step WHERE job_id IN {these}"  # noqa: S608
    return sorted(statements.values(query, **given))


def _without_newest(statements: Statements, job_ids: Sequence[int]) -> list[int]:
    these, given = listed("one", job_ids)
    newer = (
        "SELECT 1 FROM job_volume AS newer {join} WHERE newer.volume_id = job_volume.volume_id"
        " AND newer.operation = job_volume.operation AND newer.job_id > job_volume.job_id"
    )
    done = f"job.id = newer.job_id AND job.state = '{JobState.DONE}'"
    newer_done = newer.format(join=statements.each("job", done))
    query = (
        "SELECT job_volume.job_id FROM job_volume"  # noqa: S608
        f" {statements.each('job', 'job.id = job_volume.job_id')}"
        f" WHERE job_volume.job_id IN {these} AND (NOT EXISTS ({newer.format(join='')})"
        f" OR job.state = '{JobState.DONE}' AND NOT EXISTS ({newer_done}))"
    )
    newest = set(statements.values(query, **given))
    return [each for each in job_ids if each not in newest]


def _delete(statements: Statements, table: str, key: str, job_ids: Sequence[int]) -> None:
    if job_ids:
        these, given = listed("one", job_ids)
        statements.execute(f"DELETE FROM {table} WHERE {key} IN {these}", **given)  # noqa: S608
