"""A million points: each query looks at what it returns, and not at everything there ever was."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import catalogue_years
import pytest
import sqlalchemy as sa
from catalogue_years import Years

from dmsnap.catalogue import export, jobs, lifetime, past, skipped
from dmsnap.catalogue.model import AreaRole
from dmsnap.catalogue.statements import Cursor, Statements
from dmsnap.catalogue.store import Catalogue

LIMIT_SECONDS = 0.05
LARGE = "point|place|job|job_volume|job_step"
# However much there ever was, little of it is in these; and the newest jobs are the last rows.
FEW = r"USING (?:COVERING )?INDEX (?:point_present|job_running)|\nSCAN (?:anon|newest)"
SQLITE_SCAN = re.compile(rf"SCAN (?:{LARGE})\b(?! ?(?:{FEW}))")
POSTGRESQL_SCAN = re.compile(rf"Seq Scan on (?:{LARGE})\b")

Query = tuple[str, Any]


def questions(catalogue: Catalogue, years: Years) -> Mapping[str, Callable[[], object]]:
    """What the commands ask, by the command: of one volume, and of all."""
    volume, ids = years.volumes[3], [each.id for each in years.volumes]

    def status(volume_id: UUID) -> list[object]:
        (first, *_) = points = catalogue.points(volume_id)
        return [
            points,
            catalogue.areas(volume_id),
            catalogue.areas(volume_id, AreaRole.BROWSE),
            catalogue.find_point(first.id),
            jobs.unfinished(catalogue, volume_id),
            jobs.last_done(catalogue, volume_id, "swap"),
            jobs.newest_done(catalogue, volume_id, "swap"),
            export.exports(catalogue, volume_id),
            skipped.of_replica(catalogue, uuid4(), first.id),
        ]

    def prune(volume_id: UUID) -> list[object]:
        return [
            jobs.unfinished(catalogue, volume_id),
            catalogue.points(volume_id),
            catalogue.areas(volume_id),
            catalogue.areas(volume_id, AreaRole.BROWSE),
        ]

    return {
        "point list NAME": lambda: catalogue.points(volume.id),
        "point list": lambda: [catalogue.points(each) for each in ids],
        "point list NAME --as-of": lambda: past.as_of(catalogue, years.middle_ns, volume.id),
        "point list --as-of": lambda: past.as_of(catalogue, years.middle_ns),
        "point show, of a deleted one": lambda: past.deleted(catalogue, "3f2a1234"),
        "status NAME": lambda: status(volume.id),
        "status": lambda: [status(each) for each in ids],
        "report": lambda: past.deleted_since(catalogue, volume.id, years.middle_ns, 100),
        "prune NAME": lambda: prune(volume.id),
        "prune": lambda: [prune(each) for each in ids],
        "job list": lambda: jobs.recent(catalogue, 20),
    }


@contextmanager
def asked() -> Iterator[list[Query]]:
    """The statements that are executed meanwhile."""
    found: list[Query] = []
    execute = Statements.run

    def run(self: Statements, text: str, values: Mapping[str, object]) -> Cursor:
        found.append((text, values))
        return execute(self, text, values)

    def note(*event: Any) -> None:
        found.append((event[2], event[3]))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Statements, "run", run)
            yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def plan(connection: sa.Connection, query: Query) -> str:
    """How a query is done; by PostgreSQL whatever it costs, if there is an index to do it by."""
    statement, parameters = query
    explain = "EXPLAIN QUERY PLAN "
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN "
    rows = connection.exec_driver_sql(explain + statement, parameters)
    return "\n".join(str(row[-1]) for row in rows)


def test_nothing_is_searched_through(catalogue: Catalogue) -> None:
    years = catalogue_years.record(catalogue, 1500)
    scan = SQLITE_SCAN if catalogue.name.startswith("/") else POSTGRESQL_SCAN
    for name, ask in questions(catalogue, years).items():
        with asked() as queries:
            ask()
        assert queries, name
        with catalogue.transaction() as connection:
            for query in queries:
                found = plan(connection, query)
                assert not scan.search(found), (name, query[0], found)


def test_a_query_without_an_index_is_found_out(catalogue: Catalogue) -> None:
    years = catalogue_years.record(catalogue, 500)
    assert years.points == 10_000
    with catalogue.transaction() as connection:
        found = plan(connection, ("SELECT id FROM point WHERE tracking_id = 'boot:1'", ()))
    assert SQLITE_SCAN.search(found) or POSTGRESQL_SCAN.search(found)


def test_as_of_finds_what_a_look_at_every_point_finds(catalogue: Catalogue) -> None:
    years = catalogue_years.record(catalogue, 600)
    volume = years.volumes[3]
    assert len(catalogue.points(volume.id)) == years.present
    everything = sa.text("SELECT id, created_ns, deleted_ns FROM point WHERE volume_id = :volume")
    with catalogue.transaction() as connection:
        rows = connection.execute(everything, {"volume": str(volume.id)}).all()
    hours = (-1, 0, 1, 69, 70, 71, 299, 529, 530, 531, 599, 600, 10_000)
    for hour in hours:
        for beside in (-1, 0, 1):
            time_ns = catalogue_years.FIRST_NS + hour * catalogue_years.HOUR_NS + beside
            before = [row for row in rows if row.created_ns <= time_ns]
            expected = {row.id for row in before if (row.deleted_ns or time_ns + 1) > time_ns}
            found = past.as_of(catalogue, time_ns, volume.id)
            assert {str(one.point.id) for one in found} == expected
    with_all = past.as_of(catalogue, years.middle_ns)
    assert len(with_all) == 20 * len(past.as_of(catalogue, years.middle_ns, volume.id))


def test_the_newest_deleted_points_of_a_volume(catalogue: Catalogue) -> None:
    years = catalogue_years.record(catalogue, 600)
    volume = years.volumes[3]
    everything = sa.text(
        "SELECT id, created_ns FROM point WHERE volume_id = :volume AND deleted_ns IS NOT NULL "
        "ORDER BY created_ns"
    )
    with catalogue.transaction() as connection:
        rows = connection.execute(everything, {"volume": str(volume.id)}).all()
    since_ns = rows[100].created_ns
    found = past.deleted_since(catalogue, volume.id, since_ns, 1000)
    assert [str(one.point.id) for one in found] == [row.id for row in rows[100:]]
    assert all(one.deletion is not None for one in found)
    newest = past.deleted_since(catalogue, volume.id, since_ns, 7)
    assert [str(one.point.id) for one in newest] == [row.id for row in rows[-7:]]
    assert past.deleted_since(catalogue, volume.id, rows[-1].created_ns + 1, 7) == []


def test_every_time_is_in_a_class() -> None:
    longest_ns = 2**63 - 1
    for lived_ns in (-(10**18), 0, 1, 10**9 - 1, 10**9, 4 * 10**9 - 1, 4 * 10**9, longest_ns):
        number = lifetime.class_of(0, lived_ns)
        assert number in lifetime.CLASSES
        assert lived_ns < 4**number * lifetime.SECOND_NS
        for time_ns in (0, 10**9, longest_ns):
            assert -1 <= lifetime.taken_after_ns(number, time_ns) < 2**63


def best_seconds(catalogue: Catalogue, queries: list[Query]) -> float:
    """The database's time for them with that for fetching the rows, the best of five."""
    times = []
    with catalogue.transaction() as connection:
        for _ in range(5):
            begun = time.perf_counter()
            for statement, parameters in queries:
                connection.exec_driver_sql(statement, parameters).fetchall()
            times.append(time.perf_counter() - begun)
    return min(times)


@pytest.mark.exhaustive
def test_a_million_points(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    years = catalogue_years.record(catalogue, 50_000)
    assert years.points == 1_000_000
    seconds = {}
    for name, ask in questions(catalogue, years).items():
        with asked() as queries:
            ask()
        seconds[name] = best_seconds(catalogue, queries)
    with capsys.disabled():
        for name, took in seconds.items():
            print(f"\n{took * 1000:8.2f} ms  {name}", end="")
    assert {name for name, took in seconds.items() if took > LIMIT_SECONDS} == set()
