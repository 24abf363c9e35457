"""What went back to a pool, with the mark by which it is known whether anybody used it since."""

from dataclasses import asdict, dataclass

from dmsnap.catalogue.store import Catalogue


@dataclass(frozen=True, slots=True)
class Released:
    """A device that ``volume`` left; ``mark`` as ``recovery.remains`` makes it.

    ``led_to`` is which device it was, None: not known (as in ``Volume``).
    """

    device: str
    volume: str
    size_bytes: int
    mark: str
    released_ns: int
    led_to: str | None = None


def record(catalogue: Catalogue, released: Released) -> None:
    """Record ``released`` in place of what was recorded of that device."""
    with catalogue.statements() as statements:
        statements.execute("DELETE FROM released WHERE device = :device", device=released.device)
        statements.insert("released", [asdict(released)])


def find(catalogue: Catalogue, device: str) -> Released | None:
    """What is recorded of a device, by the name that it was recorded with."""
    query = "SELECT * FROM released WHERE device = :device"
    with catalogue.statements() as statements:
        found = statements.rows(query, device=device)
    return Released(**found[0]) if found else None
