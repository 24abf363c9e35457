"""A million points: each query looks at what it returns, and not at everything there ever was.

What is held is how many queries a command asks, and how much the database looks at for them:
neither depends on how busy the machine is.
"""

import json
import os
import re
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import catalogue_years
import pytest
import sqlalchemy as sa
from catalogue_years import Years
from pruning_of_nothing import declare, prune_nothing

from dmsnap.catalogue import excerpt, job_upkeep, jobs, lifetime, past, present, schema
from dmsnap.catalogue.database import Place
from dmsnap.catalogue.present import Replica
from dmsnap.catalogue.statements import Cursor, Statements
from dmsnap.catalogue.store import Catalogue
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.operations import OPERATIONS
from dmsnap.service.points import point_history
from dmsnap.service.session import Session

RUNS = 9
LARGE = "point|place|job|job_volume|job_step"
# However much there ever was, little of it is in these; and the newest jobs are the last rows.
FEW = r"USING (?:COVERING )?INDEX (?:point_present|point_live|job_running)|\nSCAN (?:anon|newest)"
SQLITE_SCAN = re.compile(rf"SCAN (?:{LARGE})\b(?! ?(?:{FEW}))")
POSTGRESQL_SCAN = re.compile(rf"Seq Scan on (?:{LARGE})\b")
# In steps or pages: a row of any query, and what a command with the most queries finds nothing for.
LOOKED_AT_FOR_A_ROW, LOOKED_AT_FOR_NOTHING = 60, 5000
# SQLite's machine calls back after so many steps; each row that is looked at takes some.
STEPS = 10
# By how much more may be looked at, in steps of SQLite and in pages of PostgreSQL: an index may
# have become a level deeper, which steps do not tell of, and pages do.
GROWTH, GROWN = {True: 1.1, False: 2}, 20
INDEXES = {
    "job_of_volume_by_operation", "job_running", "job_started", "job_unsettled", "point_live",
    "point_past", "point_present",
}  # fmt: skip
# Of all that there is now, and a few deleted points: what there ever was would be hundreds.
MOST_MIB = 32
# What pruning asks of each volume at most, beside what it asks first: which there are, and joined.
PRUNING = 25

Query = tuple[str, Any]
Ask = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Command:
    """What a command asks, with so many queries and milliseconds of the processor's at most."""

    queries: int
    ask: Ask
    milliseconds: int = 50


def commands(catalogue: Catalogue, years: Years, directory: Path) -> Mapping[str, Command]:
    """Of one volume, which was never swapped, and of all twenty; ``directory`` is for files."""
    volume, all_of_them = years.volumes[0].id, [each.id for each in years.volumes]
    deleted = excerpt.MAX_DELETED if years.points > 100_000 else 200
    held = {each: catalogue.live_points(each)[0].id for each in all_of_them}
    replicas = [Replica(each, uuid4(), held[each]) for each in all_of_them]
    session, name = Session(Configuration(), catalogue), years.volumes[0].name
    declare(directory, [name])

    def listed(*names: str) -> object:
        return point_history.list_as_of(session, names, years.middle_ns)

    return {
        "point list NAME": Command(1, lambda: catalogue.points(volume)),
        "point list": Command(1, catalogue.points),
        "point list NAME --as-of": Command(2, lambda: listed(name)),
        "point list --as-of": Command(2, listed),
        "point show": Command(1, lambda: catalogue.points_beginning("3f2a1234")),
        "point show, of a deleted one": Command(1, lambda: past.deleted(catalogue, "3f2a1234")),
        "status NAME": Command(8, lambda: present.of_volumes(catalogue, all_of_them[:1])),
        "status": Command(8, lambda: present.of_volumes(catalogue, all_of_them)),
        "status, of replicas": Command(2, lambda: present.of_replicas(catalogue, replicas)),
        "report, of each volume": Command(
            1, lambda: past.deleted_since(catalogue, volume, years.middle_ns, 100)
        ),
        "prune, of each volume": Command(
            PRUNING + 2, lambda: prune_nothing(catalogue, directory, [name])
        ),
        "prune, of each point": Command(
            3, lambda: catalogue.delete_point(held[all_of_them[1]], "prune")
        ),
        # Of two thousand points and their places, where a command has recorded something.
        "backup": Command(12, lambda: excerpt.take(catalogue, volume, deleted=deleted), 100),
        "job list": Command(3, lambda: jobs.recent(catalogue, 20)),
        "metrics, report": Command(3, lambda: jobs.recent(catalogue, 200)),
        "metrics, of each operation": Command(
            4, lambda: jobs.newest_of_each(catalogue, all_of_them, tuple(OPERATIONS))
        ),
        # After years of runs that forgot what was old: nothing of a year is older than that.
        "run, what of old jobs goes": Command(
            5, lambda: job_upkeep.forget_old(catalogue, catalogue_years.FIRST_NS)
        ),
        "last swap": Command(1, lambda: jobs.newest_done(catalogue, volume, "swap")),
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


def queries_of(command: Command) -> list[Query]:
    with asked() as queries:
        command.ask()
    return queries


def plan(connection: sa.Connection, query: Query) -> str:
    """How a query is done; by PostgreSQL whatever it costs, if there is an index to do it by."""
    statement, parameters = query
    explain = "EXPLAIN QUERY PLAN "
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN "
    rows = connection.exec_driver_sql(explain + statement, parameters)
    return "\n".join(str(row[-1]) for row in rows)


def looked_at(connection: sa.Connection, queries: Sequence[Query]) -> int:
    """How much the database looks at: steps of SQLite's machine, or pages of PostgreSQL's."""
    if connection.dialect.name == "postgresql":
        return sum(_pages(connection, *query) for query in queries)
    raw: Any = connection.connection.driver_connection
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += STEPS

    raw.set_progress_handler(count, STEPS)
    try:
        for statement, parameters in queries:
            raw.execute(statement, parameters).fetchall()
    finally:
        raw.set_progress_handler(None, 0)
    return steps


def _pages(connection: sa.Connection, statement: str, parameters: Any) -> int:
    explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, FORMAT JSON) "
    found = connection.exec_driver_sql(explain + statement, parameters).scalar_one()
    (top,) = json.loads(found) if isinstance(found, str) else found
    return int(top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"])


def test_nothing_is_searched_through(catalogue: Catalogue, tmp_path: Path) -> None:
    years = catalogue_years.record(catalogue, 1500)
    scan = SQLITE_SCAN if catalogue.name.startswith("/") else POSTGRESQL_SCAN
    for name, command in commands(catalogue, years, tmp_path).items():
        queries = queries_of(command)
        assert 0 < len(queries) <= command.queries, (name, len(queries))
        with catalogue.transaction() as connection:
            for query in queries:
                found = plan(connection, query)
                assert not scan.search(found), (name, query[0], found)


def test_thrice_as_many_years_are_no_more_to_look_at(
    new_place: Callable[[], Place], tmp_path: Path
) -> None:
    """What there is now is the same after ten thousand points and after thirty thousand."""
    sizes = []
    for points_of_each in (500, 1500):
        with Catalogue.open(new_place()) as catalogue:
            years = catalogue_years.record(catalogue, points_of_each)
            asked_for = {
                name: queries_of(command)
                for name, command in commands(catalogue, years, tmp_path).items()
            }
            with catalogue.transaction() as connection:
                is_sqlite = connection.dialect.name == "sqlite"
                turn_off(connection)
                sizes.append(
                    {name: looked_at(connection, found) for name, found in asked_for.items()}
                )
    fewer, more = sizes
    growth = GROWTH[is_sqlite]
    grown = {name: (fewer[name], size) for name, size in more.items()}
    assert {n: g for n, g in grown.items() if g[1] > growth * g[0] + GROWN} == {}


def test_a_query_without_an_index_is_found_out(catalogue: Catalogue) -> None:
    years = catalogue_years.record(catalogue, 500)
    assert years.points == 10_000
    with catalogue.transaction() as connection:
        found = plan(connection, ("SELECT id FROM point WHERE tracking_id = 'boot:1'", ()))
    assert SQLITE_SCAN.search(found) or POSTGRESQL_SCAN.search(found)


def test_an_index_that_is_missing_is_found_out(catalogue: Catalogue, tmp_path: Path) -> None:
    """Each of those by which little is found among much, and one way or the other: else the tests
    above would hold nothing. PostgreSQL takes an index that has more columns as well.
    """
    years = catalogue_years.record(catalogue, 1500)
    asked_for = [
        query
        for command in commands(catalogue, years, tmp_path).values()
        for query in queries_of(command)
    ]
    is_sqlite = catalogue.name.startswith("/")
    indexes = INDEXES | ({"job_of_volume"} if is_sqlite else set())
    assert indexes <= {
        each.name for table in schema.metadata.sorted_tables for each in table.indexes
    }
    missed = set()
    for index in sorted(indexes):
        with catalogue.transaction() as connection:
            turn_off(connection)
            before = [looked_at(connection, [query]) for query in asked_for]
            connection.execute(sa.text(f"DROP INDEX {index}"))
            after = [looked_at(connection, [query]) for query in asked_for]
            scan = SQLITE_SCAN if is_sqlite else POSTGRESQL_SCAN
            searches = any(scan.search(plan(connection, query)) for query in asked_for)
            grown = any(
                now > GROWTH[is_sqlite] * was + GROWN
                for was, now in zip(before, after, strict=True)
            )
            if not searches and not grown:
                missed.add(index)
            connection.rollback()
    assert missed == set()


def turn_off(connection: sa.Connection) -> None:
    """Of so few rows PostgreSQL would rather read all; since 17 also an index, to join with it."""
    if connection.dialect.name == "postgresql":
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(sa.text(f"SET LOCAL enable_{way} = off"))


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


def milliseconds_of(connection: sa.Connection, ask: Ask) -> tuple[float, float]:
    """What is done ``RUNS`` times: the median of its times, and the mean of the processor's.

    The processor's are the client's and the server's: however many wait for it, they are the same.
    """
    times = []
    before = time.process_time() + _server_seconds(connection)
    for _ in range(RUNS):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    used = time.process_time() + _server_seconds(connection) - before
    return statistics.median(times) * 1000, used / RUNS * 1000


def _server_seconds(connection: sa.Connection) -> float:
    """The processor time of the connection's process, in ticks; SQLite has none."""
    if connection.dialect.name == "sqlite":
        return 0
    driver: Any = connection.connection.driver_connection
    status = Path(f"/proc/{driver.info.backend_pid}/stat").read_text()
    user, system = status.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def fetched(connection: sa.Connection, queries: Sequence[Query]) -> int:
    """Have the database do them, and fetch the rows; returns how many these are."""
    driver: Any = connection.connection.driver_connection
    rows = 0
    for statement, parameters in queries:
        cursor = driver.execute(statement, parameters)
        if cursor.description:
            rows += len(cursor.fetchall())
    return rows


def peak_mib(ask: Ask) -> float:
    """What Python holds at most while it is asked and what is answered is made of it."""
    tracemalloc.start()
    try:
        ask()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.exhaustive
def test_a_million_points(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    years = catalogue_years.record(catalogue, 50_000)
    assert years.points == 1_000_000
    too_long: dict[str, float] = {}
    with capsys.disabled():
        for name, command in commands(catalogue, years, tmp_path).items():
            queries = queries_of(command)
            assert 0 < len(queries) <= command.queries, (name, len(queries))
            with catalogue.transaction() as connection:
                median, used = milliseconds_of(connection, partial(fetched, connection, queries))
                size, rows = looked_at(connection, queries), fetched(connection, queries)
            peak = peak_mib(command.ask)
            print(
                f"\n{median:8.2f} ms, {used:8.2f} of the processor, for {len(queries):3} queries, "
                f"{rows:5} rows, {size:7} steps or pages, {peak:5.1f} MiB: {name}",
                end="",
            )
            assert peak < MOST_MIB, name
            assert size < LOOKED_AT_FOR_A_ROW * rows + LOOKED_AT_FOR_NOTHING, name
            too_long |= {name: used} if used > command.milliseconds else {}
    assert too_long == {}
