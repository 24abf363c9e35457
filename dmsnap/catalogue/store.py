"""The catalogue: one short transaction per change."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import database, lifetime, migration, places, rows, schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.database import Database, Place
from dmsnap.catalogue.model import Area, AreaRole, Point, Volume
from dmsnap.errors import NotFoundError
from dmsnap.host.process import login_name


class Catalogue:
    """Volumes, areas and points. Open it with :meth:`open`; it is a context manager."""

    def __init__(self, where: Database, engine: sa.Engine) -> None:
        self._database = where
        self._engine = engine
        self.changes = 0  # statements that recorded or forgot something, since it was opened
        sa.event.listen(engine, "after_cursor_execute", self._count_change)

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

    def _count_change(self, *arguments: Any) -> None:
        _, cursor, _, _, context, _ = arguments
        changes = context.isinsert or context.isupdate or context.isdelete
        self.changes += changes and cursor.rowcount != 0

    def take_numbers(self, connection: sa.Connection, table: sa.Table) -> None:
        """Rows were inserted with numbers of their own: the next one gets a higher one."""
        self._database.take_numbers(connection, table)

    def require_sound(self) -> None:
        """Look at every page; :class:`CorruptError` when what is recorded is worth nothing."""
        with self.transaction() as connection:
            self._database.require_sound(connection)

    def loose_rows(self) -> list[str]:
        """A sentence for each row that names another one that is not there."""
        with self.transaction() as connection:
            return self._database.loose_rows(connection)

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

    def name_of(self, volume_id: UUID) -> str:
        """What a volume is called, or was: one that is not protected any more is found, too."""
        query = sa.select(schema.volume.c.name).where(schema.volume.c.id == str(volume_id))
        with self.transaction() as connection:
            return str(connection.execute(query).scalar_one())

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

    def add_whole(
        self,
        volume: Volume,
        areas: Sequence[Area],
        points: Sequence[Point],
        also: Callable[[sa.Connection], None] = lambda _: None,
    ) -> None:
        """Record a volume and all that belongs to it: everything, or, killed meanwhile, nothing.

        What was recorded of it before goes, but for the points that were deleted. ``also`` is done
        in the same transaction, as the last.
        """
        point, volume_id = schema.point.c, str(volume.id)
        anew = sa.or_(
            sa.and_(point.volume_id == volume_id, point.deleted_ns.is_(None)),
            point.id.in_([str(each.id) for each in points]),
        )
        with self.transaction() as connection:
            places.forget(connection, sa.select(point.id).where(anew))
            connection.execute(schema.point.delete().where(anew))
            connection.execute(schema.area.delete().where(schema.area.c.volume_id == volume_id))
            columns = rows.columns(volume)
            former = schema.volume.update().where(schema.volume.c.id == volume_id)
            if not connection.execute(former.values(**columns, removed_ns=None)).rowcount:
                connection.execute(schema.volume.insert().values(**columns))
            for area in areas:
                connection.execute(schema.area.insert().values(**rows.columns(area)))
            _add_points(connection, points)
            also(connection)

    def update_volume(self, volume: Volume, areas: Sequence[Area] = ()) -> None:
        """Record ``volume``, and pieces of its store with it, as they are now."""
        id_of = schema.volume.c.id
        with self.transaction() as connection:
            connection.execute(
                schema.volume.update().where(id_of == str(volume.id)).values(**rows.columns(volume))
            )
            for area in areas:
                connection.execute(_update_of(area))

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
        self._execute(_update_of(area))

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

    def oldest_points(self, volume_id: UUID, count: int) -> list[Point]:
        """The first points that a volume can do without, oldest first: none that is to be kept."""
        point = schema.point.c
        query = (
            sa.select(schema.point)
            .where(point.volume_id == str(volume_id), point.deleted_ns.is_(None), ~point.keep)
            .order_by(point.created_ns)
            .limit(count)
        )
        with self.transaction() as connection:
            return [rows.point(dict(row)) for row in connection.execute(query).mappings()]

    def find_point(self, point_id: UUID) -> Point | None:
        """The point with this id, unless it was deleted."""
        point = schema.point.c
        query = sa.select(schema.point).where(point.id == str(point_id), point.deleted_ns.is_(None))
        with self.transaction() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else rows.point(dict(row))

    def add_point(self, point: Point) -> None:
        """Record a point."""
        self.add_points([point])

    def add_points(self, points: Sequence[Point]) -> None:
        """Record the points of one moment: all of them, or, killed meanwhile, none."""
        with self.transaction() as connection:
            _add_points(connection, points)

    def update_point(self, point: Point) -> None:
        """Record ``point`` as it is now."""
        with self.transaction() as connection:
            connection.execute(
                schema.point.update()
                .where(schema.point.c.id == str(point.id))
                .values(**rows.columns(point))
            )
            if point.area_id is None:
                places.close_live(connection, point.id)

    def delete_point(self, point_id: UUID, reason: str) -> None:
        """Mark a point as deleted, for a reason and by this process's user; the record stays."""
        point, deleted_ns = schema.point.c, now_ns()
        present = sa.and_(point.id == str(point_id), point.deleted_ns.is_(None))
        with self.transaction() as connection:
            created_ns = connection.scalar(sa.select(point.created_ns).where(present))
            if created_ns is None:
                return
            deletion = {
                "deleted_ns": deleted_ns,
                "deleted_reason": reason,
                "deleted_by": login_name(),
                "lifetime_class": lifetime.class_of(created_ns, deleted_ns),
                "area_id": None,
            }
            connection.execute(schema.point.update().where(present).values(deletion))
            places.close_all(connection, point_id)

    def record_replica(self, volume: Volume, held: Sequence[UUID]) -> None:
        """Record what a recovery volume holds: the replica's point, then its history's."""
        with self.transaction() as connection:
            places.exchange(connection, volume.id, volume.recovery or "", held)

    def _execute(self, statement: sa.Executable) -> None:
        with self.transaction() as connection:
            connection.execute(statement)


def _update_of(area: Area) -> sa.Executable:
    values = rows.columns(area)
    return schema.area.update().where(schema.area.c.id == str(area.id)).values(**values)


def _add_points(connection: sa.Connection, points: Sequence[Point]) -> None:
    if points:
        connection.execute(schema.point.insert(), [rows.columns(point) for point in points])
        places.open_live(connection, points)
