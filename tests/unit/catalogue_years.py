"""A catalogue after years: twenty volumes, a point an hour, each kept for three days.

Of each volume a hundred points are kept for good, and the newest three are live: however many there
were, what there is now is the same.
"""

from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa
from catalogue_samples import a_volume

from dmsnap.catalogue import lifetime
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue

VOLUMES = 20
HOUR_NS = 3600 * 10**9
FIRST_NS = 1_600_000_000 * 10**9
PERSISTS_HOURS = 70
KEPT, LIVE = 100, 3

_LIFETIME_CLASS = lifetime.class_of(0, PERSISTS_HOURS * HOUR_NS)
_ID = {
    "sqlite": "printf('%08x-0000-4000-8000-%012x', (i * 2654435761 + v) % 4294967296, i * 32 + v)",
    "postgresql": "lpad(to_hex((i * 2654435761 + v) % 4294967296), 8, '0') || '-0000-4000-8000-'"
    " || lpad(to_hex(i * 32 + v), 12, '0')",
}
_VOLUME_ID = {
    "sqlite": "printf('%08x-0000-4000-8000-000000000000', v)",
    "postgresql": "lpad(to_hex(v), 8, '0') || '-0000-4000-8000-000000000000'",
}
_AREA_ID = {
    "sqlite": "printf('%08x-0001-4000-8000-%012x', v, i)",
    "postgresql": "lpad(to_hex(v), 8, '0') || '-0001-4000-8000-' || lpad(to_hex(i), 12, '0')",
}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE number(n) AS"
    " (VALUES (CAST(0 AS BIGINT)) UNION ALL SELECT n + 1 FROM number WHERE n < {last})",
    "postgresql": "WITH number(n) AS"
    " (SELECT CAST(n AS BIGINT) FROM generate_series(0, {last}) AS series(n))",
}
_ROWS = f", row AS (SELECT n, n / {VOLUMES} AS i, n % {VOLUMES} AS v FROM number)"  # noqa: S608
_INSERTS = (
    "INSERT INTO point (id, volume_id, created_ns, keep, temporary, era_since, tracking_id,"
    " window_seconds, area_id, deleted_ns, deleted_reason, deleted_by, lifetime_class) {rows}"
    " SELECT {id}, {volume}, {created}, {keep}, {false}, i, 'boot:1', 0.003,"
    " CASE WHEN {is_live} THEN {area} END,"
    " CASE WHEN {is_gone} THEN {gone} END, CASE WHEN {is_gone} THEN 'no room' END,"
    " CASE WHEN {is_gone} THEN 'root' END, CASE WHEN {is_gone} THEN {class} END FROM row",
    "INSERT INTO area (id, volume_id, role, generation, path, size_bytes, point_id) {rows}"
    " SELECT {area}, {volume}, 'cow', 1, '/var/lib/dmsnap/store/srv-cow.img', 1024, {id}"
    " FROM row WHERE {is_live}",
    "INSERT INTO place (point_id, kind, since_ns, device, until_ns) {rows}"
    " SELECT {id}, 'live', {created}, '/var/lib/dmsnap/store/srv-cow.img',"
    " CASE WHEN NOT {is_live} THEN {created} + 60000000000 END FROM row",
    "INSERT INTO place (point_id, kind, since_ns, device, until_ns) {rows}"
    " SELECT {id}, 'history', {created} + 60000000000, '/dev/sdb',"
    " CASE WHEN {is_gone} THEN {gone} END FROM row WHERE NOT {is_live}",
    "INSERT INTO job (id, operation, arguments, pid, started_ns, finished_ns, state, outcome)"
    " {rows} SELECT n + 1, {operation}, '{{}}', 42, {created}, {created} + 1, 'done', '' FROM row",
    "INSERT INTO job_volume (job_id, volume_id, settled, operation)"
    " {rows} SELECT n + 1, {volume}, {true}, {operation} FROM row",
    "INSERT INTO job_step (job_id, position, name, state, seconds)"
    " {rows} SELECT n + 1, 0, 'track', 'done', 0.5 FROM row",
)


@dataclass(frozen=True, slots=True)
class Years:
    """What was recorded. ``present`` is how many points of each volume are left; of the volumes
    the first was never swapped.
    """

    volumes: tuple[Volume, ...]
    points: int
    present: int
    middle_ns: int


def record(catalogue: Catalogue, points_of_each: int) -> Years:
    """Fill an empty catalogue, by the database's own means."""
    volumes = tuple(
        replace(
            a_volume(f"srv{number}"),
            id=UUID(f"{number:08x}-0000-4000-8000-{0:012x}"),
            state=VolumeState.PROTECTED,
        )
        for number in range(VOLUMES)
    )
    for volume in volumes:
        catalogue.add_volume(volume)
    with catalogue.transaction() as connection:
        kind = connection.dialect.name
        kept_every, first_left = max(1, points_of_each // KEPT), points_of_each - PERSISTS_HOURS
        is_kept = f"i % {kept_every} = 0"
        words = {
            "rows": (_NUMBERS[kind] + _ROWS).format(last=points_of_each * VOLUMES - 1),
            "id": _ID[kind],
            "area": _AREA_ID[kind],
            "is_live": f"(i >= {points_of_each - LIVE})",
            "operation": "CASE WHEN i % 1000 = 7 AND v > 0 THEN 'swap' ELSE 'sync' END",
            "volume": _VOLUME_ID[kind],
            "created": f"({FIRST_NS} + i * {HOUR_NS})",
            "gone": f"({FIRST_NS} + (i + {PERSISTS_HOURS}) * {HOUR_NS})",
            "is_gone": f"NOT ({is_kept} OR i >= {first_left})",
            "keep": f"({is_kept})",
            "class": _LIFETIME_CLASS,
            "false": "(1 = 0)",
            "true": "(1 = 1)",
        }
        for insert in _INSERTS:
            connection.execute(sa.text(insert.format(**words)))
    if kind == "postgresql":  # as its autovacuum does meanwhile
        with catalogue.transaction() as connection:
            connection.execute(sa.text("ANALYZE"))
    left = sum(1 for i in range(points_of_each) if i % kept_every == 0 or i >= first_left)
    middle_ns = FIRST_NS + points_of_each // 2 * HOUR_NS + 1
    return Years(volumes, points_of_each * VOLUMES, left, middle_ns)
