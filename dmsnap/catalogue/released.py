"""What went back to a pool, with the mark by which it is known whether anybody used it since."""

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.store import Catalogue


@dataclass(frozen=True, slots=True)
class Released:
    """A device that ``volume`` left; ``mark`` as ``recovery.remains`` makes it."""

    device: str
    volume: str
    size_bytes: int
    mark: str
    released_ns: int


def record(catalogue: Catalogue, released: Released) -> None:
    """Record ``released`` in place of what was recorded of that device."""
    with catalogue.transaction() as connection:
        connection.execute(_of(schema.released.delete(), released.device))
        connection.execute(schema.released.insert().values(**asdict(released)))


def find(catalogue: Catalogue, device: str) -> Released | None:
    """What is recorded of a device, by the name that it was recorded with."""
    query = sa.select(schema.released).where(schema.released.c.device == device)
    with catalogue.transaction() as connection:
        row = connection.execute(query).mappings().first()
    return Released(**row) if row is not None else None


def _of(statement: sa.Delete, device: str) -> sa.Delete:
    return statement.where(schema.released.c.device == device)
