"""What is recorded of volumes as they are now: read at once, however many volumes there are.

A volume after the other would be a dozen ways to the server for each. No query looks at what there
was before, however much that is, but for the last of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue import export, jobs, rows, skipped
from dmsnap.catalogue.export import Export
from dmsnap.catalogue.model import Area, Job, JobState, Point
from dmsnap.catalogue.statements import Row, Statements, grouped, listed
from dmsnap.catalogue.store import IS_LIVE, Catalogue


@dataclass(frozen=True, slots=True)
class Present:
    """What is recorded of a volume now.

    ``live`` are the points on its primary, oldest first. ``window_seconds`` is the newest point's.
    ``newest_job`` is the number of the last one that was begun: by it and those that are
    ``unfinished`` a command is noticed that came and went since.
    """

    live: tuple[Point, ...]
    window_seconds: float | None
    areas: tuple[Area, ...]
    exports: tuple[Export, ...]
    unfinished: tuple[Job, ...]
    last_swap: Job | None
    last_sync: Job | None
    newest_job: int | None


@dataclass(frozen=True, slots=True)
class Replica:
    """A volume's replica, as the label on its recovery volume has it."""

    volume_id: UUID
    recovery_id: UUID
    point_id: UUID | None


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """What is recorded of a replica: its point, unless that is deleted, and what it leaves out."""

    point: Point | None = None
    bytes_skipped: int = 0


def of_volumes(catalogue: Catalogue, volume_ids: Sequence[UUID]) -> dict[UUID, Present]:
    """What is recorded of these volumes, by volume."""
    if not volume_ids:
        return {}
    with catalogue.statements() as statements:
        found = _Found(statements, volume_ids)
    return {each: found.of(str(each)) for each in volume_ids}


def of_replicas(catalogue: Catalogue, replicas: Sequence[Replica]) -> dict[UUID, ReplicaRecord]:
    """What is recorded of these replicas, by volume."""
    point_ids = [each.point_id for each in replicas if each.point_id is not None]
    with catalogue.statements() as statements:
        points = grouped(statements.among("point", "id", point_ids), "id")
        recovery_ids = [each.recovery_id for each in replicas]
        left_out = grouped(statements.among("skipped", "recovery_id", recovery_ids), "recovery_id")
    return {
        each.volume_id: ReplicaRecord(
            point=_present(points.get(str(each.point_id), ())),
            bytes_skipped=sum(
                skipped.bytes_in(row, each.point_id)
                for row in left_out.get(str(each.recovery_id), ())
            ),
        )
        for each in replicas
    }


def _present(found: Sequence[Row]) -> Point | None:
    return next((rows.point(row) for row in found if row["deleted_ns"] is None), None)


class _Found:
    """The rows of all volumes that are asked for, by volume."""

    def __init__(self, statements: Statements, volume_ids: Sequence[UUID]) -> None:
        these, ids = listed("volume", volume_ids)
        of_these = f"volume_id IN {these}"
        # Points before areas: a point is recorded after its piece of the store.
        live = f"{of_these} AND {IS_LIVE} ORDER BY created_ns"
        self.live = _by_volume(statements, "point", live, ids)
        areas = f"{of_these} ORDER BY generation, role, id"
        self.areas = _by_volume(statements, "area", areas, ids)
        self.exports = _by_volume(statements, "export", f"{of_these} ORDER BY created_ns", ids)
        newest = statements.rows(_newest(statements, these), **ids)
        self.newest = {row["id"]: row for row in newest}
        unsettled = f"{of_these} AND {statements.is_false('settled')}"
        self.unsettled = _by_volume(statements, "job_volume", unsettled, ids, "volume_id, job_id")
        wanted = {row["job_id"] for left in self.unsettled.values() for row in left}
        wanted |= {row[each] for row in newest for each in ("last_swap", "last_sync")} - {None}
        self.jobs = jobs.of_numbers(statements, wanted)

    def of(self, volume_id: str) -> Present:
        newest = self.newest.get(volume_id, {})
        unsettled = {row["job_id"] for row in self.unsettled.get(volume_id, ())}
        return Present(
            live=tuple(map(rows.point, self.live.get(volume_id, ()))),
            window_seconds=newest.get("window_seconds"),
            areas=tuple(map(rows.area, self.areas.get(volume_id, ()))),
            exports=tuple(map(export.from_row, self.exports.get(volume_id, ()))),
            unfinished=tuple(
                job for job in self.jobs if job.id in unsettled and job.state is JobState.RUNNING
            ),
            last_swap=self._job(newest.get("last_swap")),
            last_sync=self._job(newest.get("last_sync")),
            newest_job=newest.get("newest_job"),
        )

    def _job(self, number: int | None) -> Job | None:
        return next((job for job in self.jobs if job.id == number), None)


def _newest(statements: Statements, these: str) -> str:
    """The query for the last of what is without end: a look into an index for each volume."""
    window = (
        "SELECT window_seconds FROM point WHERE volume_id = volume.id AND deleted_ns IS NULL"
        " ORDER BY created_ns DESC LIMIT 1"
    )
    swap, sync = (
        jobs.newest_done_of(statements, "volume.id", f"'{operation}'")
        for operation in ("swap", "sync")
    )
    job = "SELECT job_id FROM job_volume WHERE volume_id = volume.id ORDER BY job_id DESC LIMIT 1"
    return (
        f"SELECT id, ({window}) AS window_seconds, ({swap}) AS last_swap,"  # noqa: S608
        f" ({sync}) AS last_sync, ({job}) AS newest_job FROM volume WHERE id IN {these}"
    )


def _by_volume(
    statements: Statements,
    table: str,
    which: str,
    values: Mapping[str, object],
    columns: str = "*",
) -> Mapping[str, list[Row]]:
    found = statements.rows(f"SELECT {columns} FROM {table} WHERE {which}", **values)  # noqa: S608
    return grouped(found, "volume_id")
