"""The catalogue: one short transaction per change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import database, migration, rows, schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.database import Database, Place
from dmsnap.catalogue.model import Area, AreaRole, Point, Volume
from dmsnap.errors import NotFoundError


class Catalogue:
    """Volumes, areas and points. Open it with :meth:`open`; it is a context manager."""

    def __init__(self, where: Database, engine: sa.Engine) -> None:
        self._database = where
        self._engine = engine

    @classmethod
    def open(cls, place: Place) -> Self:
        """Open the catalogue at a place, made where there is none, brought up where it is old."""
        where = database.at(place)
        catalogue = cls(where, where.open())
        try:
            with where.alone():
                catalogue._bring_up()
        except BaseException:
            catalogue.close()
            raise
        return catalogue

    @property
    def name(self) -> str:
        """As sentences name it."""
        return self._database.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def _bring_up(self) -> None:
        with self.transaction() as connection:
            current = migration.is_current(connection)
        if not current:
            with self._sentences(), self._database.change(self._engine) as connection:
                migration.bring_up(connection, self.name)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One short transaction, committed at the end; for this package alone."""
        with self._sentences(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self._database.failure(error) from error

    # volumes

    def volumes(self) -> list[Volume]:
        """All volumes that are protected now, by name."""
        query = sa.select(schema.volume).where(schema.volume.c.removed_ns.is_(None))
        with self.transaction() as connection:
            found = [rows.volume(dict(row)) for row in connection.execute(query).mappings()]
        # Not by the database: each has an order of its own for letters.
        return sorted(found, key=lambda volume: volume.name)

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
        columns = rows.columns(volume)
        former = schema.volume.update().where(
            schema.volume.c.id == str(volume.id), schema.volume.c.removed_ns.is_not(None)
        )
        with self.transaction() as connection:
            if not connection.execute(former.values(**columns, removed_ns=None)).rowcount:
                connection.execute(schema.volume.insert().values(**columns))

    def add_whole(self, volume: Volume, areas: Sequence[Area], points: Sequence[Point]) -> None:
        """Record a volume and all that belongs to it: everything, or, killed meanwhile, nothing."""
        former = schema.volume.delete().where(schema.volume.c.id == str(volume.id))
        parts: list[tuple[sa.Table, list[dict[str, object]]]] = [
            (schema.area, [rows.columns(area) for area in areas]),
            (schema.point, [rows.columns(point) for point in points]),
        ]
        with self.transaction() as connection:
            for table, _ in parts:
                connection.execute(table.delete().where(table.c.volume_id == str(volume.id)))
            connection.execute(former)
            connection.execute(schema.volume.insert().values(**rows.columns(volume)))
            for table, columns in parts:
                for row in columns:
                    connection.execute(table.insert().values(**row))

    def update_volume(self, volume: Volume) -> None:
        """Record ``volume`` as it is now."""
        self._execute(
            schema.volume.update()
            .where(schema.volume.c.id == str(volume.id))
            .values(**rows.columns(volume))
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
        area = schema.area.c
        query = (
            sa.select(schema.area)
            .where(area.volume_id == str(volume_id))
            .order_by(area.generation, area.role, area.id)
        )
        if role is not None:
            query = query.where(area.role == role)
        with self.transaction() as connection:
            return [rows.area(dict(row)) for row in connection.execute(query).mappings()]

    def add_area(self, area: Area) -> None:
        """Record a piece of the store, before it is made."""
        self._execute(schema.area.insert().values(**rows.columns(area)))

    def update_area(self, area: Area) -> None:
        """Record ``area`` as it is now."""
        self._execute(
            schema.area.update()
            .where(schema.area.c.id == str(area.id))
            .values(**rows.columns(area))
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
            return [rows.point(dict(row)) for row in connection.execute(query).mappings()]

    def find_point(self, point_id: UUID) -> Point | None:
        """The point with this id, unless it was deleted."""
        return next((point for point in self.points() if point.id == point_id), None)

    def add_point(self, point: Point) -> None:
        """Record a point."""
        self._execute(schema.point.insert().values(**rows.columns(point)))

    def add_points(self, points: Sequence[Point]) -> None:
        """Record the points of one moment: all of them, or, killed meanwhile, none."""
        self._execute(schema.point.insert().values([rows.columns(point) for point in points]))

    def update_point(self, point: Point) -> None:
        """Record ``point`` as it is now."""
        self._execute(
            schema.point.update()
            .where(schema.point.c.id == str(point.id))
            .values(**rows.columns(point))
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
