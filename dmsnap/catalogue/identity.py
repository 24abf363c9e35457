"""By what a volume is known beside its path: what applications and tools may name it by."""

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Identifier, IdentifierKind, Volume
from dmsnap.catalogue.store import Catalogue


def record(
    catalogue: Catalogue, volume_id: UUID, found: Collection[tuple[IdentifierKind, str]]
) -> None:
    """Record what was seen now. What was seen earlier stays: applications may still look for it."""
    seen_ns = now_ns()
    with catalogue.statements() as statements:
        for kind, value in found:
            row = {"volume_id": volume_id, "kind": kind, "value": value}
            statements.execute(
                "DELETE FROM identifier"
                " WHERE volume_id = :volume_id AND kind = :kind AND value = :value",
                **row,
            )
            statements.insert("identifier", [row | {"seen_ns": seen_ns}])


def identifiers(catalogue: Catalogue, volume_id: UUID) -> list[Identifier]:
    """Everything by which a volume was ever known, by kind."""
    query = "SELECT * FROM identifier WHERE volume_id = :volume ORDER BY kind, value"
    with catalogue.statements() as statements:
        return [
            Identifier(IdentifierKind(row["kind"]), row["value"], row["seen_ns"])
            for row in statements.rows(query, volume=volume_id)
        ]


def led_to(volume: Volume, path: str) -> str:
    """Which device a recorded path led to; empty where that is not known."""
    return dict(volume.led_to).get(path, "")


def leading(volume: Volume, path: str, device: str) -> Volume:
    """The volume with the device that a path leads to; of paths that it does not have any more,
    nothing is kept.
    """
    had = (volume.backing, volume.recovery, volume.previous_backing, *volume.left_behind)
    known = dict(volume.led_to) | ({path: device} if device else {})
    kept = {name: known[name] for name in sorted(known) if name in had}
    return replace(volume, led_to=tuple(kept.items()))
