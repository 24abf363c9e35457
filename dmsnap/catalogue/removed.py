"""Volumes that were protected once, and were unprotected: what somebody did on purpose."""

from collections.abc import Collection
from dataclasses import dataclass

from dmsnap.catalogue.model import IdentifierKind, VolumeState
from dmsnap.catalogue.store import Catalogue


@dataclass(frozen=True, slots=True)
class Removed:
    """A volume that is not protected any more."""

    name: str
    removed_ns: int


_REMOVED = "SELECT name, removed_ns FROM volume WHERE removed_ns IS NOT NULL AND state <> :building"
_BY_CONTENT = f"{_REMOVED} AND fs_uuid <> '' AND fs_uuid = :fs_uuid"
_BY_DEVICE = (
    f"{_REMOVED} AND id IN (SELECT volume_id FROM identifier WHERE kind = :kind AND value = :value)"  # noqa: S608
)


def last(
    catalogue: Catalogue, fs_uuid: str, known_as: Collection[tuple[IdentifierKind, str]]
) -> Removed | None:
    """The last that was unprotected of those with a file system's UUID, or on a device known so.

    What never was protected, as its first copy came to no end, is none.
    """
    building = VolumeState.BUILDING
    with catalogue.statements() as statements:
        found = statements.rows(_BY_CONTENT, building=building, fs_uuid=fs_uuid)
        for kind, value in known_as:
            found += statements.rows(_BY_DEVICE, building=building, kind=kind, value=value)
    volumes = [Removed(row["name"], row["removed_ns"]) for row in found]
    return max(volumes, key=lambda each: each.removed_ns, default=None)
