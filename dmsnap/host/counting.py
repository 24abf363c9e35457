"""Counters that the window reads while devices are suspended, opened before it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dmsnap.errors import DmsnapError
from dmsnap.host.sysfs import SYSFS

NOBODY = -1  # a descriptor of no file: what it would count is not known


@contextmanager
def opened(devnos: Sequence[int]) -> Iterator[list[int]]:
    """Descriptors for ``window.run`` of the devices with these numbers. No window is kept from for
    want of a counter.
    """
    with ExitStack() as held:
        yield [_opened(held, devno) for devno in devnos]


def _opened(held: ExitStack, devno: int) -> int:
    try:
        return held.enter_context(SYSFS.counter(devno))
    except DmsnapError:
        return NOBODY
