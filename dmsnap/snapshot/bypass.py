"""A front that leads past dm-era: its users go on, and nobody sees what they write.

Where dm-era cannot write its metadata it fails writes to blocks that it has not marked yet, and
refuses to be resumed (drivers/md/dm-era-target.c, process_deferred_bios and era_preresume). Once
that has happened its metadata in memory and on the disk may differ: a buffer whose write failed
counts as clean, and is read from the disk again, as it was before (drivers/md/dm-bufio.c,
dm_bufio_release). So no mark of it is trusted any more, also when its disk is well again.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dmsnap._native.window import Instead, WindowAction, WindowStep
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, StackChangedError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era, Linear, Table, single
from dmsnap.snapshot import stack
from dmsnap.snapshot.exchange import exchange

# What dm-era's metadata answer when they cannot be read or written: an I/O error, another block
# than was asked for, a wrong checksum, no block left (drivers/md/persistent-data).
METADATA_ERRORS = (errno.EIO, errno.ENOTBLK, errno.EILSEQ, errno.ENOSPC)


def table(volume: Volume) -> Table:
    """The front straight over the origin."""
    return single(volume.size_bytes, Linear(stack.require(stack.origin(volume)).devno, 0))


def is_past(volume: Volume, found: Table) -> bool:
    """Whether that is the table of a front straight over the origin, which is there, too."""
    below = dm.info(uuid=stack.origin(volume).uuid)
    return below is not None and found == single(volume.size_bytes, Linear(below.devno, 0))


def leads_past(volume: Volume) -> bool:
    """Whether the front is there, and has no dm-era in it."""
    front = dm.info(uuid=stack.front(volume).uuid)
    return front is not None and front.live_table and is_past(volume, dm.table(front.name))


def has_era(volume: Volume) -> bool:
    """Whether the front is there with dm-era over the origin, as it should be."""
    front, below = dm.info(uuid=stack.front(volume).uuid), dm.info(uuid=stack.origin(volume).uuid)
    if front is None or below is None or not front.live_table:
        return False
    targets = [line.target for line in dm.table(front.name)]
    return any(isinstance(each, Era) and each.origin == below.devno for each in targets)


def sentence(volume: Volume) -> str:
    """What is said of a front that leads past dm-era."""
    return (
        f"/dev/mapper/{stack.front(volume).name} leads past dm-era, whose metadata could not be "
        f"read or written: it is used as before, and what is written to it is not tracked"
    )


def lost(volume: Volume) -> StackChangedError:
    """The error for it, with what to do."""
    return StackChangedError(
        sentence(volume),
        hint=f"when its disk is well again, dmsnap assemble {volume.name} gives dm-era new "
        f"metadata; the sync after that compares in full",
        volume=volume.name,
    )


def pass_by(volume: Volume, deadline_ms: int) -> None:
    """Load the front without dm-era, under its users.

    What is dirty is written out afterwards: dm-era would fail it.
    """
    exchange(stack.require(stack.front(volume)), table(volume), deadline_ms, freeze=False)
    stack.turn_discards_off(volume)


def resuming(volume: Volume) -> WindowStep:
    """The window's last step of a front, which does not stay suspended if dm-era refuses."""
    instead = Instead(volume.size_bytes, stack.require(stack.origin(volume)).devno)
    return WindowStep(stack.front(volume).uuid, WindowAction.RESUME, instead=instead)


@contextmanager
def going_on(volumes: Sequence[Volume], deadline_ms: int) -> Iterator[None]:
    """Where dm-era fails in the window within, the fronts lead past it, and the error says so."""
    try:
        yield
    except DmsnapError as error:
        passed = [volume for volume in volumes if _let_go_on(volume)]
        if not passed and error.fields.get("errnum") in METADATA_ERRORS:
            # Resumed without it, or at the second attempt: what was to be written is lost then.
            passed = list(volumes)
            for volume in passed:
                if not leads_past(volume):
                    pass_by(volume, deadline_ms)
        if passed:
            raise lost(passed[0]) from error
        raise


def _let_go_on(volume: Volume) -> bool:
    """Resume a front that a window could not; whether it leads past dm-era since."""
    info = dm.info(uuid=stack.front(volume).uuid)
    if info is None or not info.suspended or not dm.resume_past_era(info.name):
        return False
    stack.turn_discards_off(volume)
    return True
