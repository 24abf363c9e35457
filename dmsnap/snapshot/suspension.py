"""What must hold before a front is suspended, and which of several comes first.

dm-era writes to its metadata in both: it files the writeset of the era that ends
(drivers/md/dm-era-target.c, era_postsuspend), and makes a new one (era_preresume). What cannot do
the one hangs, and what cannot do the other stays suspended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dmsnap.errors import NoSpaceError, StackChangedError, WrongStateError
from dmsnap.host import blockdev
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Table
from dmsnap.host.sysfs import SYSFS
from dmsnap.units import format_size

METADATA_BLOCK_BYTES = 4096
# A block of a bit array holds 509 words, behind a header of 24 bytes.
WRITESET_BITS = 509 * 64
# The least of an index block's entries that its btree leaves filled.
INDEX_ENTRIES = 126
# One for the resume, one for the metadata snapshot that a sync takes next, or for the next resume
# where this one was late; and the blocks that both rewrite on their way.
WRITESETS = 2
REWRITTEN_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Front:
    """A front's device, and all that its suspend and its resume may wait for, at any depth."""

    name: str
    devno: int
    below: frozenset[int]


def front(info: DmInfo, stores: Iterable[int] = ()) -> Front:
    """A front as it is now; ``stores`` are devices that a point of it is about to use.

    :class:`WrongStateError` where it lies on itself, by way of another volume: it would wait for
    itself for good.
    """
    below = blockdev.all_below([*SYSFS.slaves(info.devno), *stores])
    if info.devno in below:
        raise WrongStateError(
            f"{info.name} cannot be suspended: what it lies on, or its store, lies on "
            f"/dev/mapper/{info.name} again, for which it would wait",
            hint="give one of the volumes that lie on each other a store elsewhere: dmsnap "
            "unprotect, then dmsnap protect with --store",
            device=info.name,
        )
    return Front(info.name, info.devno, frozenset(below))


def order(fronts: Sequence[Front]) -> list[int]:
    """The places of ``fronts`` in the order in which they are suspended; resumed the other way.

    One that lies on another, with its backing device or its store, comes before that one: nothing
    that it waits for is suspended then. :class:`StackChangedError` for a circle: :func:`front`
    refuses who is in one.
    """
    left, ordered = list(range(len(fronts))), list[int]()
    while left:
        free = [place for place in left if not _bears_another(fronts, place, left)]
        if not free:
            names = ", ".join(fronts[place].name for place in left)
            raise StackChangedError(f"none of {names} can be suspended before the others")
        ordered += free
        left = [place for place in left if place not in free]
    return ordered


def _bears_another(fronts: Sequence[Front], place: int, others: Iterable[int]) -> bool:
    return any(fronts[place].devno in fronts[other].below for other in others)


def resumable_era(info: DmInfo) -> int:
    """The era of a front that can go on after a suspend. Root.

    :class:`NoSpaceError` where its metadata have no room for that: the resume would fail, whoever
    tried it, and the front stay suspended; :class:`WrongStateError` as :func:`front` does. Never
    called inside a window: a suspended era device does not answer.
    """
    front(info)
    status = dm.era_status(info.name)
    left, needed = status.total - status.used, needed_blocks(nr_blocks(dm.table(info.name)))
    if left < needed:
        raise NoSpaceError(
            f"{info.name} cannot be suspended: its era metadata have "
            f"{format_size(left * METADATA_BLOCK_BYTES)} left, and to be resumed it may take "
            f"{format_size(needed * METADATA_BLOCK_BYTES)}",
            hint="dmsnap swap --trial and dmsnap swap revert of the volume begin new ones",
            device=info.name,
        )
    return status.current_era


def nr_blocks(table: Table) -> int:
    """How many blocks the era target of a table counts."""
    return sum(
        -(-line.length_bytes // line.target.block_bytes)
        for line in table
        if isinstance(line.target, Era)
    )


def needed_blocks(nr_blocks: int) -> int:
    """Metadata blocks that must be free before a device of ``nr_blocks`` is suspended."""
    leaves = -(-nr_blocks // WRITESET_BITS)
    return WRITESETS * (leaves + leaves // INDEX_ENTRIES * 2 + 1) + REWRITTEN_BLOCKS
