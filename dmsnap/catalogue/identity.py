"""By what a volume is known beside its path: what applications and tools may name it by."""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from dmsnap.catalogue import schema
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Identifier, IdentifierKind
from dmsnap.catalogue.store import Catalogue


def record(
    catalogue: Catalogue, volume_id: UUID, found: Collection[tuple[IdentifierKind, str]]
) -> None:
    """Record what was seen now. What was seen earlier stays: applications may still look for it."""
    table, seen_ns = schema.identifier, now_ns()
    with catalogue.transaction() as connection:
        for kind, value in found:
            row = {"volume_id": str(volume_id), "kind": kind, "value": value}
            connection.execute(table.delete().filter_by(**row))
            connection.execute(table.insert().values(**row, seen_ns=seen_ns))


def identifiers(catalogue: Catalogue, volume_id: UUID) -> list[Identifier]:
    """Everything by which a volume was ever known, by kind."""
    table = schema.identifier.c
    query = (
        sa.select(table.kind, table.value, table.seen_ns)
        .where(table.volume_id == str(volume_id))
        .order_by(table.kind, table.value)
    )
    with catalogue.transaction() as connection:
        return [
            Identifier(IdentifierKind(kind), value, seen_ns)
            for kind, value, seen_ns in connection.execute(query)
        ]
