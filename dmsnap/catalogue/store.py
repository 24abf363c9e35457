"""The catalogue: one short transaction per change."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from dmsnap.catalogue import database, lifetime, places, rows, version
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.database import Connections, Database, Place
from dmsnap.catalogue.model import Area, AreaRole, Point, Volume
from dmsnap.catalogue.statements import Statements, listed
from dmsnap.errors import NotFoundError
from dmsnap.host.process import login_name

if TYPE_CHECKING:
    import sqlalchemy as sa

# In the words of the index point_live, and after the sign not in those of another.
IS_LIVE = "area_id IS NOT NULL AND +deleted_ns IS NULL"


class Catalogue:
    """Volumes, areas and points. Open it with :meth:`open`; it is a context manager."""

    def __init__(self, where: Database, connections: Connections) -> None:
        self._database = where
        self._connections = connections
        self.changes = 0  # statements that recorded or forgot something, since it was opened

    @classmethod
    def open(cls, place: Place) -> Self:
        """Open the catalogue at a place, made where there is none, brought up where it is old."""
        where = database.at(place)
        catalogue = cls(where, where.open())
        try:
            # By others it is locked for a moment only while it is not as it is to be.
            if not (where.is_made() and catalogue._is_current()):
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

    def server(self) -> str | None:
        """Where its server answers: an IP address, or a socket's directory; None: it is a file."""
        with self._sentences():
            return self._database.server(self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connections.close()

    def _bring_up(self) -> None:
        if self._is_current():
            return
        from dmsnap.catalogue import migration

        with (
            self._sentences(),
            self._database.change(self._connections.engine) as connection,
        ):
            migration.bring_up(connection, self.name)

    def _is_current(self) -> bool:
        """Whether it has the tables that this dmsnap knows: one query, which fails on any other."""
        with self.statements() as statements:
            try:
                return bool(statements.value(version.FIND) == version.VERSION)
            except self._database.absent:
                # A reason that is another one comes up again in what follows.
                return False

    @contextmanager
    def statements(self) -> Iterator[Statements]:
        """One short transaction, committed at the end; for this package alone."""
        with self._sentences(), self._connections.transaction() as statements:
            try:
                yield statements
            finally:
                self.changes += statements.changes

    @contextmanager
    def transaction(self) -> Iterator["sa.Connection"]:
        """The same for SQLAlchemy's expressions, whose import takes longer than most commands.

        For what is put together from many parts, and is not asked while a volume is recovered.
        """
        from sqlalchemy import event

        with self._sentences(), self._connections.engine.begin() as connection:
            event.listen(connection, "after_cursor_execute", self._count_change)
            yield connection

    def _count_change(self, *arguments: Any) -> None:
        _, cursor, _, _, context, _ = arguments
        changes = context.isinsert or context.isupdate or context.isdelete
        self.changes += changes and cursor.rowcount != 0

    def take_numbers(self, statements: Statements, table: str) -> None:
        """Rows were inserted with numbers of their own: the next one gets a higher one."""
        self._database.take_numbers(statements, table)

    def require_sound(self) -> None:
        """Look at every page; :class:`CorruptError` when what is recorded is worth nothing."""
        with self.statements() as statements:
            self._database.require_sound(statements)

    def loose_rows(self) -> list[str]:
        """A sentence for each row that names another one that is not there."""
        with self.statements() as statements:
            return self._database.loose_rows(statements)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # SQLAlchemy's has the driver's in it.
            cause = getattr(error, "orig", error)
            if not isinstance(cause, self._database.errors):
                raise
            failure = self._database.failure(cause)
            failure.fields.setdefault("catalogue", self.name)
            raise failure from error

    # volumes

    def volumes(self) -> list[Volume]:
        """All volumes that are protected now, by name."""
        with self.statements() as statements:
            found = statements.rows("SELECT * FROM volume WHERE removed_ns IS NULL")
        # Not by the database: each has an order of its own for letters.
        return sorted(map(rows.volume, found), key=lambda volume: volume.name)

    def find_volume(self, name: str) -> Volume | None:
        """The volume called ``name``, if there is one."""
        # What cannot be printed is no volume's name, and not for every database.
        return self._volume("name = :name", name=name) if name.isprintable() else None

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
        with self.statements() as statements:
            (name,) = statements.values("SELECT name FROM volume WHERE id = :id", id=volume_id)
        return str(name)

    def volume_by_id(self, volume_id: UUID) -> Volume:
        """The volume with this id, else :class:`NotFoundError`."""
        volume = self._volume("id = :id", id=volume_id)
        if volume is None:
            raise NotFoundError(f"there is no protected volume with the id {volume_id}")
        return volume

    def _volume(self, which: str, **values: object) -> Volume | None:
        query = f"SELECT * FROM volume WHERE removed_ns IS NULL AND {which}"  # noqa: S608
        with self.statements() as statements:
            found = statements.rows(query, **values)
        return rows.volume(found[0]) if found else None

    def add_volume(self, volume: Volume) -> None:
        """Record a new volume, or one that was unprotected and comes back with its identity."""
        with self.statements() as statements:
            _record_volume(statements, volume, "id = :id AND removed_ns IS NOT NULL")

    def add_whole(
        self,
        volume: Volume,
        areas: Sequence[Area],
        points: Sequence[Point],
        also: Callable[[Statements], None] = lambda _: None,
    ) -> None:
        """Record a volume and all that belongs to it: everything, or, killed meanwhile, nothing.

        What was recorded of it before goes, but for the points that were deleted. ``also`` is done
        in the same transaction, as the last.
        """
        these, ids = listed("point", [point.id for point in points])
        anew = f"(volume_id = :volume AND deleted_ns IS NULL) OR id IN {these}"
        with self.statements() as statements:
            places.forget(statements, f"SELECT id FROM point WHERE {anew}", volume=volume.id, **ids)  # noqa: S608
            statements.execute(f"DELETE FROM point WHERE {anew}", volume=volume.id, **ids)  # noqa: S608
            statements.execute("DELETE FROM area WHERE volume_id = :volume", volume=volume.id)
            _record_volume(statements, volume, "id = :id")
            statements.insert("area", map(rows.columns, areas))
            _add_points(statements, points)
            also(statements)

    def update_volume(
        self, volume: Volume, areas: Sequence[Area] = (), *, new_points: Sequence[Point] = ()
    ) -> None:
        """Record ``volume`` and pieces of its store as they are now, and new points: all of it, or,
        killed meanwhile, nothing.
        """
        with self.statements() as statements:
            statements.update("volume", rows.columns(volume))
            for area in areas:
                statements.update("area", rows.columns(area))
            _add_points(statements, new_points)

    def remove_volume(self, volume_id: UUID) -> None:
        """Mark a volume as unprotected; its history stays."""
        with self.statements() as statements:
            statements.update("volume", {"id": volume_id, "removed_ns": now_ns()})

    # areas

    def areas(self, volume_id: UUID, role: AreaRole | None = None) -> list[Area]:
        """The pieces of the store that a volume uses, of one role or of all."""
        of_role = "" if role is None else " AND role = :role"
        query = f"SELECT * FROM area WHERE volume_id = :volume{of_role}"  # noqa: S608
        with self.statements() as statements:
            found = statements.rows(
                f"{query} ORDER BY generation, role, id", volume=volume_id, role=role
            )
        return [rows.area(row) for row in found]

    def add_area(self, area: Area) -> None:
        """Record a piece of the store, before it is made."""
        with self.statements() as statements:
            statements.insert("area", [rows.columns(area)])

    def update_area(self, area: Area) -> None:
        """Record ``area`` as it is now."""
        with self.statements() as statements:
            statements.update("area", rows.columns(area))

    def remove_area(self, area_id: UUID) -> None:
        """Forget a piece of the store, after it was given back."""
        with self.statements() as statements:
            statements.execute("DELETE FROM area WHERE id = :id", id=area_id)

    # points

    def points(self, volume_id: UUID | None = None) -> list[Point]:
        """Points that were not deleted, oldest first; of one volume or of all."""
        of_volume = "" if volume_id is None else " AND volume_id = :volume"
        return self._points(f"deleted_ns IS NULL{of_volume}", volume=volume_id)

    def live_points(self, volume_id: UUID) -> list[Point]:
        """The points of a volume that are live on its primary, oldest first."""
        return self._points(f"volume_id = :volume AND {IS_LIVE}", volume=volume_id)

    def temporary_points(self, volume_id: UUID) -> list[Point]:
        """The points that a command took for itself and has not removed, oldest first."""
        which = "volume_id = :volume AND deleted_ns IS NULL AND temporary"
        return self._points(which, volume=volume_id)

    def points_beginning(self, first_digits: str) -> list[Point]:
        """Points that were not deleted and whose ids begin so, in hexadecimal, oldest first."""
        first, beyond = rows.ids_beginning(first_digits)
        which = "id >= :first AND id < :beyond AND deleted_ns IS NULL"
        return self._points(which, first=first, beyond=beyond)

    def _points(self, which: str, **values: object) -> list[Point]:
        query = f"SELECT * FROM point WHERE {which} ORDER BY created_ns"  # noqa: S608
        with self.statements() as statements:
            return [rows.point(row) for row in statements.rows(query, **values)]

    def marked_points(self, volume_id: UUID) -> list[Point]:
        """The points of a volume to be kept, or with a time of their own, oldest first."""
        which = "volume_id = :volume AND deleted_ns IS NULL AND (keep OR expires_ns IS NOT NULL)"
        return self._points(which, volume=volume_id)

    def find_point(self, point_id: UUID) -> Point | None:
        """The point with this id, unless it was deleted."""
        query = "SELECT * FROM point WHERE id = :id AND deleted_ns IS NULL"
        with self.statements() as statements:
            found = statements.rows(query, id=point_id)
        return rows.point(found[0]) if found else None

    def add_point(self, point: Point) -> None:
        """Record a point."""
        self.add_points([point])

    def add_points(self, points: Sequence[Point]) -> None:
        """Record the points of one moment: all of them, or, killed meanwhile, none."""
        with self.statements() as statements:
            _add_points(statements, points)

    def update_point(self, point: Point) -> None:
        """Record ``point`` as it is now."""
        with self.statements() as statements:
            statements.update("point", rows.columns(point))
            if point.area_id is None:
                places.close_live(statements, point.id)

    def delete_point(self, point_id: UUID, reason: str) -> None:
        """Mark a point as deleted, for a reason and by this process's user; the record stays."""
        self.delete_points([point_id], reason)

    def delete_points(self, point_ids: Collection[UUID], reason: str) -> None:
        """Mark points as deleted: all of them, or, killed meanwhile, none."""
        now = now_ns()
        deleted = {"deleted_ns": now, "deleted_reason": reason, "deleted_by": login_name()}
        with self.statements() as statements:
            found = statements.among("point", "id", list(point_ids))
            present = [row for row in found if row["deleted_ns"] is None]
            for row in present:
                lived = lifetime.class_of(row["created_ns"], now)
                gone = {"id": row["id"], "lifetime_class": lived, "area_id": None}
                statements.update("point", gone | deleted)
            if present:
                places.close_all(statements, [row["id"] for row in present])

    def record_replica(self, volume: Volume, held: Sequence[UUID]) -> None:
        """Record what a recovery volume holds: the replica's point, then its history's."""
        with self.statements() as statements:
            places.exchange(statements, volume.id, volume.recovery or "", held)


def _record_volume(statements: Statements, volume: Volume, former: str) -> None:
    columns = rows.columns(volume) | {"removed_ns": None}
    if not statements.update("volume", columns, former):
        statements.insert("volume", [columns])


def _add_points(statements: Statements, points: Sequence[Point]) -> None:
    statements.insert("point", map(rows.columns, points))
    if points:
        places.open_live(statements, points)
