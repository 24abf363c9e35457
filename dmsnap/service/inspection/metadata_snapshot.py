"""Metadata snapshots of live dm targets, which alone can be read while the target is in use."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmsnap.errors import NotPermittedError, WrongStateError
from dmsnap.host.signals import held_back
from dmsnap.host.sysfs import SYSFS


def candidates(devno: int, wanted: str) -> Iterator[str]:
    """The names of the dm devices that ``devno`` is, or that lie directly over it.

    Only root is told what those are: anybody else gets none for a device that nobody uses, and
    ``NotPermittedError``, which says what was ``wanted``, for one that is in use.
    """
    for user in (devno, *SYSFS.holders(devno)):
        name = SYSFS.dm_name(user)
        if name is None or (user == devno and os.geteuid() != 0):
            continue
        if os.geteuid() != 0:
            raise NotPermittedError(
                f"{SYSFS.display_name(devno)} is in use by {SYSFS.display_name(user)}: only root "
                f"can tell whether that is {wanted}",
                hint="run it as root",
            )
        yield name


@contextmanager
def holding(
    name: str,
    held: Callable[[], int | None],
    take: Callable[[], object],
    drop: Callable[[], object],
) -> Iterator[bool]:
    """A metadata snapshot of the device ``name``: True when it was taken here.

    ``held`` tells the block of the one that there is. Raises ``WrongStateError`` at the end when
    it was dropped meanwhile: what was read is worth nothing then.
    """
    taken = held() is None
    block = still_held = None
    try:
        # A signal between the two would leave it: nobody knew any more whose it is.
        with held_back():
            if taken:
                take()
            block = held()
        yield taken
    finally:
        still_held = held()
        if taken and still_held is not None and still_held == block:
            drop()
    if still_held != block:
        raise WrongStateError(
            f"the metadata snapshot of {name} was dropped by somebody else while it was read",
            hint="run the command again",
        )
