"""What a volume's devices count in a window: exact, however much is written before it and after.

The counters of two devices cannot be read at once. While the front is written to, one is ahead of
the other by what is on its way between them, or by what completed between the two reads. Which one
that is depends on the kernel: before "block: count 'ios' and 'sectors' when io is done for
bio-based device" (Linux 6.3, and earlier ones that took it over) a dm device counted a write when
it began, and a front is ahead by what dm-era has yet to mark. What somebody wrote past the front
may be less than either. In a window the front is suspended, and all that it had begun is complete,
and counted, on all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dmsnap._native.window import Counted
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import counting, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.snapshot import stack

NONE = (0, 0, 0)  # of these numbers there is no device


@dataclass(frozen=True, slots=True)
class OriginCounts:
    """Sectors that a front, and an origin that it lies over, counted at the moment of a window."""

    front: int
    origin: int

    @property
    def excess(self) -> int:
        """What the front counts beyond the origin: less, where somebody wrote to that; more, where
        dm-era failed writes.
        """
        return self.front - self.origin


@dataclass(frozen=True, slots=True)
class WriteCounts(OriginCounts):
    """And the backing device below.

    ``in_flight``: it had begun something, which nobody can have but who uses it directly; what is
    written then may be counted already, and come later. ``switched``: that of the volume then.
    """

    backing: int
    in_flight: bool = False
    switched: str = ""

    @property
    def surplus(self) -> int:
        """What the backing device counts beyond the origin: somebody wrote to it directly."""
        return self.backing - self.origin


def devices(volume: Volume) -> tuple[int, int, int]:
    """The numbers of the front, the origin and the backing device."""
    front, origin = stack.require(stack.front(volume)), stack.require(stack.origin(volume))
    return front.devno, origin.devno, backing(volume)


def below_front(volume: Volume) -> tuple[int, int]:
    """The numbers of the backing device and the origin."""
    return backing(volume), stack.require(stack.origin(volume)).devno


def backing(volume: Volume) -> int:
    """While an LV itself is the front, what lies below is the base that stands for it."""
    if stack.live_front(volume) is not None:
        return stack.backing(volume).devno
    return BlockDevice.probe(lun.node(volume.backing)).devno


def uncounted(volume: Volume) -> DmsnapError | None:
    """Of which of the devices the counters stand still; None: of none. What they say is no number
    of what was written then, and never believed.
    """
    try:
        counting.require(devices(volume))
    except counting.UncountedError as error:
        return error
    return None


def switched(volume: Volume) -> str:
    """When counting was last switched, of the backing device and of the origin: where that is
    another text than before, either may have stood still in between, whatever it says now.
    """
    return " ".join(str(counting.last_set(each)) for each in below_front(volume))


@contextmanager
def counters(volumes: Sequence[Volume]) -> Iterator[list[int]]:
    """Descriptors for a window's ``counters``; :func:`of` takes what was counted apart."""
    numbers = [devno for each in volumes for devno in _counted(each)]
    with counting.opened(numbers) as descriptors:
        yield descriptors


def _counted(volume: Volume) -> tuple[int, ...]:
    """No window is kept from for want of them."""
    try:
        return devices(volume)
    except DmsnapError:
        return NONE


def of(volumes: Sequence[Volume], counted: Sequence[Counted | None]) -> list[WriteCounts | None]:
    """For each volume what was counted, asked right behind the window; None: it is not known."""
    apart = zip(*(iter(counted),) * 3, strict=True)
    return [_of(volume, *three) for volume, three in zip(volumes, apart, strict=True)]


def _of(
    volume: Volume, front: Counted | None, origin: Counted | None, below: Counted | None
) -> WriteCounts | None:
    if front is None or origin is None or below is None:
        return None
    try:
        last_switched = switched(volume)
    except DmsnapError:  # a device went away
        return None
    return WriteCounts(
        front=front.sectors_written,
        origin=origin.sectors_written,
        backing=below.sectors_written,
        in_flight=below.in_flight,
        switched=last_switched,
    )


def of_front(front: int | None, origin: int | None) -> OriginCounts | None:
    """The same of an exchange of the front's table."""
    return None if front is None or origin is None else OriginCounts(front, origin)
