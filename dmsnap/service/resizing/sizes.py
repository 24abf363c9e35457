"""Volumes whose device has another size than was recorded: made larger or smaller by others."""

from dataclasses import dataclass

from dmsnap.catalogue.model import SETTLED, Volume, VolumeState
from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.host import lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.snapshot import stack
from dmsnap.units import format_size


@dataclass(frozen=True, slots=True)
class Resized:
    """A device that has ``size_bytes`` by now, where its volume has ``recorded_bytes``."""

    volume: str
    device: str
    recorded_bytes: int
    size_bytes: int

    @property
    def shrunk(self) -> bool:
        return self.size_bytes < self.recorded_bytes

    @property
    def sentence(self) -> str:
        """What happened, and what to do about it."""
        change = f"{format_size(self.recorded_bytes)} to {format_size(self.size_bytes)}"
        if self.shrunk:
            return (
                f"{self.device} was made smaller, from {change}: what lay behind its end is lost; "
                f"give it back its size, or unprotect {self.volume} and protect it again"
            )
        return (
            f"{self.device} was made larger, from {change}: dmsnap resize {self.volume} follows it"
        )


def bytes_of(device: str) -> int | None:
    """What a recorded device has now; None when it is gone.

    One of no size is a loop device that was detached, or a LUN that was unmapped.
    """
    try:
        return BlockDevice.probe(lun.node(device)).size_bytes or None
    except DmsnapError:
        return None


def of_volume(volume: Volume) -> Resized | None:
    """How the size of a volume's device differs from what is known of it; None when it does not,
    or that cannot be told.

    While the front lies over the recovery volume, that has its own size, and the other may be dead.
    """
    size_bytes = bytes_of(volume.backing)
    if volume.state not in SETTLED or size_bytes is None:
        return None
    recorded_bytes = recorded(volume, size_bytes)
    if size_bytes == recorded_bytes:
        return None
    return Resized(volume.name, volume.backing, recorded_bytes, size_bytes)


def recorded(volume: Volume, size_bytes: int) -> int:
    """What the volume's device had before it has ``size_bytes``.

    A device that was larger from the beginning may lose what is not the volume's. One that was
    promoted may not: behind the volume's end lies its label.
    """
    known = volume.device_bytes
    if size_bytes < volume.size_bytes:
        return volume.size_bytes
    if volume.state is VolumeState.PROMOTED:
        return known if known is not None else size_bytes
    return max(volume.size_bytes, min(size_bytes, known or 0))


def to_record(volume: Volume, size_bytes: int) -> int | None:
    """What is recorded of the size of a volume's device: nothing where it is the volume's own."""
    return None if size_bytes == volume.size_bytes else size_bytes


def require_not_shrunk(volume: Volume) -> None:
    """Raise :class:`WrongStateError` when the device has become smaller than the volume."""
    found = of_volume(volume)
    if found is not None and found.shrunk:
        raise WrongStateError(found.sentence, device=found.device, size_bytes=found.size_bytes)


def is_behind(volume: Volume) -> bool:
    """Whether the front is smaller than the volume: a resize did not come to its end."""
    info = stack.find(stack.front(volume))
    if info is None or not info.live_table:
        return False
    return sum(line.length_bytes for line in dm.table(info.name)) < volume.size_bytes
