"""What a provider's contract is tried on: an origin of its own kind, and what others do to it."""

import mmap
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import MIB, Lab, administrator, run

PAGE = 4096
SIZE = 32 * MIB


class Origin:
    """An origin of one provider; a new provider brings one more of these.

    ``lost_when_full``: a store that is full loses its snapshot. Otherwise the snapshot stays what
    it is, and no more are taken.
    """

    provider: str
    lost_when_full: bool

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.name = ""
        self.device = Path()

    def foreign(self) -> tuple[str, Path]:
        """A snapshot that somebody else has taken: its name, and the device to look at it."""
        raise NotImplementedError

    def names_foreign(self) -> bool:
        """Whether what others take has a name that this provider could mistake for one of its."""
        return True

    def close(self) -> None:
        """Take down what the lab does not know of."""


class CowOrigin(Origin):
    """A protected volume."""

    provider = "cow"
    lost_when_full = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.backing = lab.disk(SIZE)
        self.name = lab.protect(self.backing, lab.disk(2 * SIZE))
        self.device = Path(f"/dev/mapper/{self.name}")
        self.theirs = False

    def foreign(self) -> tuple[str, Path]:
        table = f"0 {SIZE // 512} snapshot {self.backing} {self.lab.disk(SIZE)} P 8"
        run("dmsetup", "create", "t-theirs", "--table", table)
        run("dmsetup", "mknodes")
        self.theirs = True
        return "t-theirs", Path("/dev/mapper/t-theirs")

    def names_foreign(self) -> bool:
        return False

    def close(self) -> None:
        if self.theirs:
            run("dmsetup", "remove", "t-theirs")


class LvmOrigin(Origin):
    """A logical volume."""

    provider = "lvm"
    lost_when_full = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        run("modprobe", "dm-snapshot")
        self.group = lab.group(lab.disk(192 * MIB))
        administrator("lvcreate", "-qq", "-y", "-L", f"{SIZE}b", "-n", "data", self.group)
        self.name = f"{self.group}/data"
        self.device = Path("/dev", self.name)

    def foreign(self) -> tuple[str, Path]:
        administrator("lvcreate", "-qq", "-y", "-s", "-L", f"{SIZE}b", "-n", "theirs", self.name)
        return f"{self.group}/theirs", Path("/dev", self.group, "theirs")


class ThinOrigin(Origin):
    """A thin volume, in a pool that has room for a quarter more."""

    provider = "thin"
    lost_when_full = False

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        run("modprobe", "dm-thin-pool")
        self.group = lab.group(lab.disk(192 * MIB))
        pool = f"{self.group}/pool"
        administrator("lvcreate", "-qq", "-y", "-L", "96M", "--errorwhenfull", "y", "-T", pool)
        administrator("lvcreate", "-qq", "-y", "-V", f"{SIZE}b", "-n", "data", "-T", pool)
        self.name = f"{self.group}/data"
        self.device = Path("/dev", self.name)

    def foreign(self) -> tuple[str, Path]:
        administrator("lvcreate", "-qq", "-y", "-s", "-kn", "-n", "theirs", self.name)
        return f"{self.group}/theirs", Path("/dev", self.group, "theirs")


ORIGINS: dict[str, Callable[[Lab], Origin]] = {
    "cow": CowOrigin,
    "lvm": LvmOrigin,
    "thin": ThinOrigin,
}


@contextmanager
def direct(path: str | Path, flags: int) -> Iterator[tuple[int, mmap.mmap]]:
    """A descriptor past the page cache, and a buffer as aligned as it wants it."""
    descriptor = os.open(path, flags | os.O_DIRECT | os.O_DSYNC)
    buffer = mmap.mmap(-1, MIB)
    try:
        yield descriptor, buffer
    finally:
        buffer.close()
        os.close(descriptor)


def scribble(path: Path, count: int, seed: int) -> None:
    """Random bytes in random places: pages alone, and many in one write."""
    dice = random.Random(seed)
    with direct(path, os.O_WRONLY) as (descriptor, buffer):
        for _ in range(count):
            length = dice.choice((1, 1, 2, 5, 31, 256)) * PAGE
            buffer[:length] = dice.randbytes(length)
            offset = dice.randrange((SIZE - length) // PAGE) * PAGE
            with memoryview(buffer) as view:
                os.pwrite(descriptor, view[:length], offset)


def fill(path: Path, seed: int) -> None:
    """Every byte of the origin anew."""
    dice = random.Random(seed)
    with direct(path, os.O_WRONLY) as (descriptor, buffer):
        for offset in range(0, SIZE, MIB):
            buffer[:] = dice.randbytes(MIB)
            with memoryview(buffer) as view:
                os.pwrite(descriptor, view, offset)


def pages(path: Path) -> list[bytes]:
    """All pages of a device, as they are on it."""
    found = []
    with direct(path, os.O_RDONLY) as (descriptor, buffer):
        for offset in range(0, SIZE, MIB):
            with memoryview(buffer) as view:
                assert os.preadv(descriptor, [view], offset) == MIB
            found += [buffer[at : at + PAGE] for at in range(0, MIB, PAGE)]
    return found
