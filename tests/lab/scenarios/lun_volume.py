"""Volumes whose recovery volume is a LUN of the lab's own target."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lun_target
from conftest import MIB, SCRATCH, Lab, dmsnap, sha256
from lun_target import LunTarget
from raw_volume import fill, write_direct

SIZE = 48 * MIB
LUN_SIZE = 96 * MIB


def image_of(target: LunTarget) -> Path:
    """The file behind LUN 1."""
    return SCRATCH / f"{target.iqn.rpartition(':')[2]}.img"


@contextmanager
def serving(target: LunTarget) -> Iterator[LunTarget]:
    """LUN 1 of the target; sessions and records are gone afterwards, whatever a test left."""
    target.create()
    target.add_lun(1, image_of(target), LUN_SIZE)
    try:
        yield target
    finally:
        lun_target.end_all_sessions()
        target.destroy()
        image_of(target).unlink()


class OnLun:
    """A raw volume and its replica. The judge is the file that the target has behind its LUN."""

    def __init__(self, lab: Lab, target: LunTarget) -> None:
        self.lab, self.target, self.image = lab, target, image_of(target)
        self.primary = lab.disk(SIZE)
        fill(Path(self.primary), SIZE)
        self.name = lab.protect(self.primary, target.url(1))
        self.front = Path("/dev/mapper") / self.name

    def dirty(self) -> None:
        for offset in (0, 5 * MIB, SIZE - 65536):
            write_direct(self.front, os.urandom(65536), offset)

    def sync(self, *options: object, expected: int = 0) -> Any:
        return dmsnap("sync", self.name, *options, expected=expected)

    def point(self) -> str:
        """The point that the replica holds."""
        return str(dmsnap("status", self.name)[0]["replica"]["point"])

    def check_equal(self) -> None:
        assert sha256(self.front) == sha256(self.image, SIZE)

    def unprotect(self) -> None:
        """Nothing of it stays with the initiator."""
        dmsnap("unprotect", self.name, "--forget")
        assert lun_target.sessions() == {}
        assert lun_target.records() == []
