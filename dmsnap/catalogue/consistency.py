"""Rows that contradict each other: what no command leaves, but a defect or a hand may have."""

from collections.abc import Iterator

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.model import JobState, PlaceKind, VolumeState
from dmsnap.catalogue.store import Catalogue

_volume, _point, _area, _place = (
    table.c for table in (schema.volume, schema.point, schema.area, schema.place)
)
_job, _job_volume, _export = schema.job.c, schema.job_volume.c, schema.export.c

_IS_PRESENT = _point.deleted_ns.is_(None)
_IS_PROTECTED = _volume.removed_ns.is_(None)

# A defect may have made a million of them.
MOST_OF_A_KIND = 100

# A sentence, and the query for what it is said of.
_CONTRADICTIONS: tuple[tuple[str, sa.Select[tuple[str]]], ...] = (
    (
        "point {} is recorded as live in a piece of the store that is not recorded",
        sa.select(_point.id)
        .outerjoin(schema.area, _area.id == _point.area_id)
        .where(_IS_PRESENT, _point.area_id.is_not(None), _area.id.is_(None)),
    ),
    (
        "point {} is recorded as live, and not in a piece of the store",
        sa.select(_place.point_id)
        .join(schema.point, _point.id == _place.point_id)
        .where(
            _IS_PRESENT,
            _point.area_id.is_(None),
            _place.kind == PlaceKind.LIVE,
            _place.until_ns.is_(None),
        ),
    ),
    (
        "point {} is recorded as deleted, and as being somewhere",
        sa.select(_place.point_id)
        .join(schema.point, _point.id == _place.point_id)
        .where(_point.deleted_ns.is_not(None), _place.until_ns.is_(None))
        .distinct(),
    ),
    (
        "the volume {} is recorded as promoted without a former device",
        sa.select(_volume.name).where(
            _IS_PROTECTED,
            _volume.state == VolumeState.PROMOTED,
            _volume.previous_backing.is_(None),
        ),
    ),
    (
        "the volume {} is recorded as on trial without a recovery volume",
        sa.select(_volume.name).where(
            _IS_PROTECTED,
            _volume.state.in_((VolumeState.TRIAL, VolumeState.COMMITTING)),
            _volume.recovery.is_(None),
        ),
    ),
    (
        "the piece {} belongs to a volume that is not protected any more",
        sa.select(_area.path)
        .join(schema.volume, _volume.id == _area.volume_id)
        .where(_volume.removed_ns.is_not(None)),
    ),
    (
        "the export {} is of a volume that is not protected any more",
        sa.select(_export.id)
        .join(schema.volume, _volume.id == _export.volume_id)
        .where(_volume.removed_ns.is_not(None)),
    ),
    (
        "the export {} is of a point that was deleted",
        sa.select(_export.id)
        .join(schema.point, _point.id == _export.point_id)
        .where(_point.deleted_ns.is_not(None)),
    ),
    (
        "job {} is recorded as running, and as ended",
        sa.select(_job.id).where(_job.state == JobState.RUNNING, _job.finished_ns.is_not(None)),
    ),
    (
        "job {} is recorded as ended, and not when",
        sa.select(_job.id).where(_job.state != JobState.RUNNING, _job.finished_ns.is_(None)),
    ),
    (
        "job {} is recorded as ended, and something of it as left",
        sa.select(_job.id)
        .join(schema.job_volume, _job_volume.job_id == _job.id)
        .where(_job.state != JobState.RUNNING, ~_job_volume.settled)
        .distinct(),
    ),
)


def contradictions(catalogue: Catalogue) -> Iterator[str]:
    """A sentence for each; of one kind a hundred, and then one that there are more."""
    for sentence, query in _CONTRADICTIONS:
        with catalogue.transaction() as connection:
            found = connection.scalars(query.limit(MOST_OF_A_KIND + 1)).all()
        yield from (sentence.format(what) for what in found[:MOST_OF_A_KIND])
        if len(found) > MOST_OF_A_KIND:
            yield f"there are more of which this is to be said: {sentence.format('…')}"
