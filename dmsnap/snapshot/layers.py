"""The layers under an LV that is mounted: its own dm device is the front until the next boot.

::

    VG-LV                   front    era over origin           LVM's name and UUID
    dmsnap-NAME-origin-1    origin   snapshot-origin over base
    dmsnap-NAME-base-ID     base     LVM's table of the LV

The LV keeps its number, so that who has it mounted does not notice. LVM, which does not know of
it, loads its own table again when it changes or refreshes the LV: then writes pass the layers by.
That cannot be kept from happening, only from being overlooked: what a point or a sync has read is
worth something when the layers were there afterwards, since nobody but us puts them there.
"""

from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import BusyError, StackChangedError, WrongStateError
from dmsnap.host import lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import failing
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Linear, Table, single
from dmsnap.host.sysfs import SYSFS
from dmsnap.snapshot import bypass, stack
from dmsnap.snapshot.exchange import exchange
from dmsnap.units import format_size

LVM_PREFIX = "LVM-"
# Targets that keep nothing: two devices with one table of them are the same device twice.
COPIED = ("linear", "striped")


def are_in_place(volume: Volume) -> bool:
    """Whether what is written to the LV goes through dm-era and our origin."""
    info = dm.info(uuid=stack.front(volume).uuid)
    return info is not None and info.live_table and _is_ours(volume, dm.table(info.name))


def _is_ours(volume: Volume, table: Table) -> bool:
    below = dm.info(uuid=stack.origin(volume).uuid)
    targets = [line.target for line in table]
    return below is not None and any(
        isinstance(target, Era) and target.origin == below.devno for target in targets
    )


def below(volume: Volume) -> list[Path]:
    """What the front lies on: of a live volume the disks of its LV, past the front.

    The LV's own name leads to the front, and who hangs in that is among what its next suspend waits
    for. Who is left behind at a disk has nothing open that is to be removed.
    """
    base = stack.find(stack.base(volume)) if stack.live_front(volume) else None
    if base is None:
        return [lun.node(volume.backing)]
    return [dm.path_by_devno(devno) for devno in dm.deps(base.name)]


def dropped(volume: Volume) -> str | None:
    """Why writes to a live volume are not seen any more; None while they are, or when none is."""
    live = stack.live_front(volume)
    if live is None or are_in_place(volume):
        return None
    info = dm.info(uuid=live.uuid)
    if info is None:
        return f"{live.name}, under which the layers of {volume.name} were, is not active any more"
    if info.live_table and failing.is_failed(info.name):
        return None  # by a swap that found the LV hanging
    return bypass.sentence(volume) if bypass.leads_past(volume) else stack.passed_by(info.name)


def require(volume: Volume) -> None:
    """Raise :class:`StackChangedError` when the layers of a live volume are not there."""
    sentence = dropped(volume)
    if sentence:
        raise StackChangedError(
            sentence, hint=f"dmsnap sync {volume.name} puts them back, and compares in full"
        )


def require_own_table(info: DmInfo, size_bytes: int) -> Table:
    """LVM's table of an LV, when a copy of it is the same device: else it is refused."""
    table = dm.table(info.name)
    kinds = {line.target.type_name for line in table}
    others = kinds.difference(COPIED)
    if others or not table:
        of = ", ".join(sorted(others)) or "nothing"
        raise WrongStateError(
            f"{info.name} is no plain logical volume: its table is of {of}",
            hint="linear and striped ones can be protected while they are mounted; protect it "
            "without --live",
        )
    below = [SYSFS.dm_name(devno) for devno in dm.deps(info.name)
             if (SYSFS.dm_uuid(devno) or "").startswith(LVM_PREFIX)]  # fmt: skip
    if below:
        raise WrongStateError(
            f"{info.name} lies on {below[0]}, which is LVM's, too: it is being moved, or its "
            f"volume group lies on a logical volume"
        )
    length_bytes = sum(line.length_bytes for line in table)
    if length_bytes != size_bytes:
        raise WrongStateError(
            f"{info.name} has {format_size(length_bytes)} now, and had {format_size(size_bytes)} "
            f"when it was protected",
            hint="dmsnap resize follows one that was made larger; else protect it anew",
        )
    return table


def build_base(volume: Volume, deadline_ms: int) -> None:
    """Have LVM's table, as it is now, below the origin. Nothing else has a device with it yet."""
    front = stack.require(stack.front(volume))
    if failing.is_failed(front.name):  # the base has it
        stack.require(stack.base(volume))
        return
    table = require_own_table(front, volume.size_bytes)
    stack.settle(stack.base(volume), table, deadline_ms)


def held_table(volume: Volume) -> Table:
    """The base over the LV itself, which holds it: for when that is no front any more."""
    lv = BlockDevice.probe(lun.node(volume.backing))
    return single(volume.size_bytes, Linear(lv.devno, 0))


def put(volume: Volume, metadata: BlockDevice, deadline_ms: int) -> None:
    """Load the front's table into the LV's own dm device, under its users. Base, origin and the
    metadata's era array are there.
    """
    front = stack.require(stack.front(volume))
    _clear(volume, front)
    below = dm.table(stack.require(stack.base(volume)).name)
    ours = failing.is_failed(front.name) or bypass.leads_past(volume)
    if dm.table(front.name) != below and not ours:
        raise StackChangedError(f"LVM is changing the table of {front.name}", device=front.name)
    exchange(front, stack.front_table(volume, metadata), deadline_ms)


def take_out(volume: Volume, deadline_ms: int, *, settled: bool = True) -> None:
    """Load LVM's table into the LV's own dm device, unless LVM has done that already.

    Not ``settled``, udev is not waited for: it looks at the LV, which may hang.
    """
    front = dm.info(uuid=stack.front(volume).uuid)
    if front is None:
        return
    _clear(volume, front)
    ours = failing.is_failed(front.name) or bypass.leads_past(volume)
    if are_in_place(volume) or ours:
        table = dm.table(stack.require(stack.base(volume)).name)
        exchange(front, table, deadline_ms, settled=settled)


def tidy(volume: Volume) -> None:
    """Clear up after a command that was killed while it exchanged the table.

    A table that it loaded would go live with the next resume, which may be that of a point. Its
    watchdog has resumed the LV; where that died, too, it is done here.
    """
    front = dm.info(uuid=stack.front(volume).uuid)
    if front is None:
        return
    left = _is_left_over(volume, front)
    if left:
        dm.clear(front.name)
    if front.suspended and (left or _is_ours(volume, dm.table(front.name))):
        dm.resume_past_era(front.name)


def _is_left_over(volume: Volume, front: DmInfo) -> bool:
    """Whether an inactive table is one that we load: the layers', or LVM's as the base has it.

    Should LVM have loaded the latter just now, its resume goes on with what is live.
    """
    if not front.inactive_table:
        return False
    loaded, base = dm.table(front.name, inactive=True), dm.info(uuid=stack.base(volume).uuid)
    if _is_ours(volume, loaded) or bypass.is_past(volume, loaded):
        return True
    return base is not None and loaded == dm.table(base.name)


def _clear(volume: Volume, front: DmInfo) -> None:
    """Drop what a killed command loaded; another table is LVM's business, which is at work."""
    if not front.inactive_table:
        return
    if not _is_left_over(volume, front):
        raise BusyError(f"LVM is about to change the table of {front.name}", device=front.name)
    dm.clear(front.name)
