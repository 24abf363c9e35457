"""Choosing a recovery volume from those that a pool has to offer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dmsnap.errors import NotFoundError, TooSmallError

Below = Callable[[int], int]


class Choice(StrEnum):
    """How a pool's volumes are chosen where none is named."""

    BEST_FIT = "best-fit"  # the smallest whose capacity suffices
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class OfferedVolume:
    """A volume that nobody uses; ``name`` is a path, or the name of a LUN."""

    name: str
    capacity_bytes: int


def named(pool: str, offered: Sequence[OfferedVolume], name: str, needed: int) -> OfferedVolume:
    """The volume of that name; ``NotFoundError``, or ``TooSmallError`` under ``needed`` bytes."""
    found = next((volume for volume in offered if volume.name == name), None)
    if found is None:
        others = ", ".join(sorted(volume.name for volume in offered))
        raise NotFoundError(
            f"the pool {pool} does not offer {name}",
            hint=f"it offers {others}" if others else "all of its volumes are in use",
        )
    _require(found, pool, needed)
    return found


def choose(
    pool: str, offered: Sequence[OfferedVolume], choice: Choice, needed: int, below: Below
) -> OfferedVolume:
    """A volume with at least ``needed`` bytes; of equals the first by name.

    ``below(n)`` gives a number in [0, n): ``secrets.randbelow``. Raises ``NotFoundError`` for an
    empty pool, ``TooSmallError`` with the largest where none suffices.
    """
    if not offered:
        raise NotFoundError(f"the pool {pool} offers nothing: all of its volumes are in use")
    by_size = sorted(offered, key=lambda volume: (volume.capacity_bytes, volume.name))
    _require(by_size[-1], pool, needed)
    fitting = [volume for volume in by_size if volume.capacity_bytes >= needed]
    return fitting[below(len(fitting))] if choice is Choice.RANDOM else fitting[0]


def _require(volume: OfferedVolume, pool: str, needed: int) -> None:
    if volume.capacity_bytes < needed:
        purpose = f"the recovery volume from the pool {pool}"
        raise TooSmallError(volume.name, volume.capacity_bytes, needed, purpose)
