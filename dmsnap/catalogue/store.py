"""The catalogue on SQLite: WAL mode, full sync, one short transaction per change."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex, CreateTable

from dmsnap.catalogue import schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import (
    Area,
    AreaRole,
    Hydration,
    LiveFront,
    MountRecord,
    Parting,
    Point,
    Volume,
    VolumeState,
)
from dmsnap.errors import CorruptError, NotFoundError, OperatingSystemError, WrongStateError
from dmsnap.host.locks import directory_lock
from dmsnap.host.system_call import system_call

Row = TypeVar("Row", Volume, Area, Point)

BUSY_TIMEOUT_SECONDS = 10


class Catalogue:
    """Volumes, areas and points. Open it with :meth:`open`; it is a context manager."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self._engine = engine
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the catalogue at ``path``, made when it does not exist (0600, its folder 0700)."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise OperatingSystemError(
                f"the catalogue {path} cannot be opened: {error.strerror}", errnum=error.errno
            ) from error
        # One connection for as long as the catalogue is open: the last to be closed checkpoints the
        # write-ahead log, which is two flushes more for each transaction.
        engine = sa.create_engine(
            f"sqlite:///{path}",
            pool_size=1,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        )
        sa.event.listen(engine, "connect", _configure_connection)
        catalogue = cls(engine, path)
        # SQLite's own waiting does not cover the change to WAL mode.
        with directory_lock(path.parent):
            catalogue._create_schema()
        return catalogue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.dispose()

    def _create_schema(self) -> None:
        with self.transaction() as connection:
            # Each statement says "if not": two first commands may do this at once.
            for table in schema.metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(CreateIndex(index, if_not_exists=True))
            empty = ~sa.exists(sa.select(schema.schema_version.c.version))
            first = sa.select(sa.literal(schema.SCHEMA_VERSION)).where(empty)
            connection.execute(schema.schema_version.insert().from_select(["version"], first))
            version = _upgrade(connection)
            if version != schema.SCHEMA_VERSION:
                raise CorruptError(
                    f"the catalogue {self.path} has schema {version}, "
                    f"this dmsnap knows {schema.SCHEMA_VERSION}"
                )

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One short transaction, committed at the end; for this package alone."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise OperatingSystemError(f"the catalogue {self.path}: {error.orig}") from error
        except sa.exc.IntegrityError as error:
            raise WrongStateError(f"the catalogue {self.path} refuses: {error.orig}") from error
        except sa.exc.DatabaseError as error:
            raise CorruptError(
                f"the catalogue {self.path} is damaged: {error.orig}",
                hint="dmsnap catalogue rebuild makes it anew, from labels and dm tables",
            ) from error

    # volumes

    def volumes(self) -> list[Volume]:
        """All volumes that are protected now, by name."""
        query = (
            sa.select(schema.volume)
            .where(schema.volume.c.removed_ns.is_(None))
            .order_by(schema.volume.c.name)
        )
        with self.transaction() as connection:
            return [_volume(dict(row)) for row in connection.execute(query).mappings()]

    def find_volume(self, name: str) -> Volume | None:
        """The volume called ``name``, if there is one."""
        return next((volume for volume in self.volumes() if volume.name == name), None)

    def volume(self, name: str) -> Volume:
        """The volume called ``name``, else :class:`NotFoundError`."""
        volume = self.find_volume(name)
        if volume is None:
            raise NotFoundError(
                f"there is no protected volume named {name!r}",
                hint="dmsnap status lists the protected volumes",
                name=name,
            )
        return volume

    def volume_by_id(self, volume_id: UUID) -> Volume:
        """The volume with this id, else :class:`NotFoundError`."""
        for volume in self.volumes():
            if volume.id == volume_id:
                return volume
        raise NotFoundError(f"there is no protected volume with the id {volume_id}")

    def add_volume(self, volume: Volume) -> None:
        """Record a new volume, or one that was unprotected and comes back with its identity."""
        columns = _columns(volume)
        former = schema.volume.update().where(
            schema.volume.c.id == str(volume.id), schema.volume.c.removed_ns.is_not(None)
        )
        with self.transaction() as connection:
            if not connection.execute(former.values(**columns, removed_ns=None)).rowcount:
                connection.execute(schema.volume.insert().values(**columns))

    def add_whole(self, volume: Volume, areas: Sequence[Area], points: Sequence[Point]) -> None:
        """Record a volume and all that belongs to it: everything, or, killed meanwhile, nothing."""
        former = schema.volume.delete().where(schema.volume.c.id == str(volume.id))
        rows: list[tuple[sa.Table, list[dict[str, object]]]] = [
            (schema.area, [_columns(area) for area in areas]),
            (schema.point, [_columns(point) for point in points]),
        ]
        with self.transaction() as connection:
            for table, _ in rows:
                connection.execute(table.delete().where(table.c.volume_id == str(volume.id)))
            connection.execute(former)
            connection.execute(schema.volume.insert().values(**_columns(volume)))
            for table, columns in rows:
                for row in columns:
                    connection.execute(table.insert().values(**row))

    def update_volume(self, volume: Volume) -> None:
        """Record ``volume`` as it is now."""
        self._execute(
            schema.volume.update()
            .where(schema.volume.c.id == str(volume.id))
            .values(**_columns(volume))
        )

    def remove_volume(self, volume_id: UUID) -> None:
        """Mark a volume as unprotected; its history stays."""
        self._execute(
            schema.volume.update()
            .where(schema.volume.c.id == str(volume_id))
            .values(removed_ns=now_ns())
        )

    # areas

    def areas(self, volume_id: UUID, role: AreaRole | None = None) -> list[Area]:
        """The pieces of the store that a volume uses, of one role or of all."""
        query = sa.select(schema.area).where(schema.area.c.volume_id == str(volume_id))
        if role is not None:
            query = query.where(schema.area.c.role == role)
        with self.transaction() as connection:
            return [_area(dict(row)) for row in connection.execute(query).mappings()]

    def add_area(self, area: Area) -> None:
        """Record a piece of the store, before it is made."""
        self._execute(schema.area.insert().values(**_columns(area)))

    def update_area(self, area: Area) -> None:
        """Record ``area`` as it is now."""
        self._execute(
            schema.area.update().where(schema.area.c.id == str(area.id)).values(**_columns(area))
        )

    def remove_area(self, area_id: UUID) -> None:
        """Forget a piece of the store, after it was given back."""
        self._execute(schema.area.delete().where(schema.area.c.id == str(area_id)))

    # points

    def points(self, volume_id: UUID | None = None) -> list[Point]:
        """Points that were not deleted, oldest first; of one volume or of all."""
        query = (
            sa.select(schema.point)
            .where(schema.point.c.deleted_ns.is_(None))
            .order_by(schema.point.c.created_ns)
        )
        if volume_id is not None:
            query = query.where(schema.point.c.volume_id == str(volume_id))
        with self.transaction() as connection:
            return [_point(dict(row)) for row in connection.execute(query).mappings()]

    def find_point(self, point_id: UUID) -> Point | None:
        """The point with this id, unless it was deleted."""
        return next((point for point in self.points() if point.id == point_id), None)

    def add_point(self, point: Point) -> None:
        """Record a point."""
        self._execute(schema.point.insert().values(**_columns(point)))

    def add_points(self, points: Sequence[Point]) -> None:
        """Record the points of one moment: all of them, or, killed meanwhile, none."""
        self._execute(schema.point.insert().values([_columns(point) for point in points]))

    def update_point(self, point: Point) -> None:
        """Record ``point`` as it is now."""
        self._execute(
            schema.point.update()
            .where(schema.point.c.id == str(point.id))
            .values(**_columns(point))
        )

    def delete_point(self, point_id: UUID) -> None:
        """Mark a point as deleted; the record stays."""
        self._execute(
            schema.point.update()
            .where(schema.point.c.id == str(point_id))
            .values(deleted_ns=now_ns(), area_id=None)
        )

    def _execute(self, statement: sa.Executable) -> None:
        with self.transaction() as connection:
            connection.execute(statement)


def damage(path: Path) -> str | None:
    """What is wrong with the file of a catalogue; None: nothing, or there is none yet.

    Whether its schema is one that this dmsnap knows is for :meth:`Catalogue.open` to say.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool)
    try:
        with engine.begin() as connection:
            found = str(connection.scalar(sa.text("PRAGMA quick_check(1)")))
    except sa.exc.OperationalError as error:
        raise OperatingSystemError(f"the catalogue {path}: {error.orig}") from error
    except sa.exc.DatabaseError as error:
        return str(error.orig)
    finally:
        engine.dispose()
    return None if found == "ok" else found


def set_aside(path: Path) -> Path:
    """Give a damaged catalogue another name, with what belongs to it; returns that name."""
    aside = path.with_name(f"{path.name}.damaged-{now_ns()}")
    with directory_lock(path.parent), system_call(f"rename {path}"):
        # The log first: beside a new file it must not be taken for its own.
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    return aside


def _upgrade(connection: sa.Connection) -> int | None:
    """Bring an older catalogue to what this dmsnap knows; returns the version it has now."""
    version: int | None = connection.scalar(sa.select(schema.schema_version.c.version))
    while version in schema.UPGRADES:
        for statement in schema.UPGRADES[version]:
            connection.execute(sa.text(statement))
        version += 1
        connection.execute(schema.schema_version.update().values(version=version))
    return version


def _configure_connection(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _columns(value: Row) -> dict[str, object]:
    """The row of a dataclass: ids as text, the rest as it is."""
    columns = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Volume):
        columns["mounts"] = [asdict(mount) for mount in value.mounts]
        columns["parting"] = asdict(value.parting) if value.parting else None
        columns["hydration"] = asdict(value.hydration) if value.hydration else None
        columns["live"] = asdict(value.live) if value.live else None
    return {
        name: str(column) if isinstance(column, UUID) else column
        for name, column in columns.items()
    }


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def _volume(row: Mapping[str, Any]) -> Volume:
    values = {field.name: row[field.name] for field in fields(Volume)}
    mounts = tuple(
        MountRecord(**mount | {"options": tuple(mount["options"])}) for mount in row["mounts"]
    )
    return Volume(
        **values
        | {
            "id": UUID(row["id"]),
            "state": VolumeState(row["state"]),
            "recovery_id": _uuid(row["recovery_id"]),
            "trial_point": _uuid(row["trial_point"]),
            "mounts": mounts,
            "parting": Parting(**row["parting"]) if row["parting"] else None,
            "hydration": Hydration(**row["hydration"]) if row["hydration"] else None,
            "left_behind": tuple(row["left_behind"] or ()),
            "units": tuple(row["units"] or ()),
            "trial_live": bool(row["trial_live"]),
            "live": LiveFront(**row["live"]) if row["live"] else None,
        }
    )


def _area(row: Mapping[str, Any]) -> Area:
    return Area(
        id=UUID(row["id"]),
        volume_id=UUID(row["volume_id"]),
        role=AreaRole(row["role"]),
        generation=row["generation"],
        path=row["path"],
        size_bytes=row["size_bytes"],
        point_id=_uuid(row["point_id"]),
    )


def _point(row: Mapping[str, Any]) -> Point:
    values = {field.name: row[field.name] for field in fields(Point)}
    return Point(
        **values
        | {
            "id": UUID(row["id"]),
            "volume_id": UUID(row["volume_id"]),
            "area_id": _uuid(row["area_id"]),
        }
    )
