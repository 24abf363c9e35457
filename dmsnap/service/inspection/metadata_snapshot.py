"""Metadata snapshots of live dm targets, which alone can be read while the target is in use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmsnap.errors import WrongStateError
from dmsnap.host.signals import held_back


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
