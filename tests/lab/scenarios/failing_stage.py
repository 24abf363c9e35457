"""Disks that fail at one stage of a command, and what must hold of every command then."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, dmsnap, refused, sha256, suspended, world
from faulty_disk import FaultyDisk, faulty_disk
from lost_state import lose_stack
from raw_volume import KIB, Range, fill, write_direct

from dmsnap.errors import ExitCode

SIZE = 12 * MIB
RECOVERY_SIZE = 32 * MIB
BAD: Range = (6 * MIB, MIB)  # in the midst of what is copied


def before_first_call(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], object]
) -> None:
    """Run ``action`` right before a function is called for the first time."""
    original = getattr(owner, name)

    def hooked(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, hooked)


@dataclass
class Bed:
    """A raw volume on a disk that fails when it is told to, and so do all others it may lie on."""

    lab: Lab
    primary: FaultyDisk
    recovery: FaultyDisk
    third: FaultyDisk
    name: str
    store: str
    seed: int = 0
    # What else words of a command stand for: points.
    known: dict[str, str] = field(default_factory=dict)

    @property
    def front(self) -> Path:
        return Path("/dev/mapper") / self.name

    @property
    def disks(self) -> dict[str, FaultyDisk]:
        return {"primary": self.primary, "recovery": self.recovery, "third": self.third}

    def disk_at(self, path: str) -> FaultyDisk:
        (found,) = [each for each in self.disks.values() if each.device.samefile(path)]
        return found

    def beside(self, path: str) -> FaultyDisk:
        """A disk that may be the recovery volume of what lies on another one."""
        return next(disk for disk in (self.third, self.recovery) if not disk.device.samefile(path))

    def words(self, command: str) -> tuple[str, ...]:
        """A command on this volume, as it is written in tables: with disks for their names."""
        paths = {name.upper(): disk.path for name, disk in self.disks.items()}
        known = paths | {"NAME": self.name, "STORE": self.store} | self.known
        return tuple(known.get(word, word) for word in command.split())

    def dirty(self) -> None:
        """Noise in the part that is going to fail, and before and behind it."""
        for offset in (MIB, BAD[0] + 256 * KIB, 10 * MIB):
            self.write(offset)

    def write(self, offset: int, length: int = 64 * KIB) -> None:
        """Noise to the front."""
        self.seed += 1
        write_direct(self.front, bytes([self.seed]) * length, offset)

    def check_serves(self, offset: int = 11 * MIB) -> None:
        """Nothing is suspended, and the front takes a write and gives it back."""
        assert suspended() == []
        self.write(offset, 4 * KIB)
        with self.front.open("rb") as front:
            front.seek(offset)
            assert front.read(4 * KIB) == bytes([self.seed]) * 4 * KIB

    def heal(self) -> None:
        """All disks are whole again."""
        for disk in self.disks.values():
            disk.load()

    def bring_to(self, state: str) -> None:
        """``bare``, ``protected``, ``trial`` or ``promoted``, and written to at every step."""
        if state == "bare":
            return
        dmsnap(*self.words("protect PRIMARY --name NAME --recovery RECOVERY --store STORE"))
        self.dirty()
        if state == "protected":
            return
        dmsnap("sync", self.name)
        self.dirty()
        dmsnap("swap", self.name)
        self.dirty()
        if state == "promoted":
            dmsnap("swap", "commit", self.name)
            self.dirty()

    def content(self) -> str:
        """What users see, or would, were it protected."""
        return sha256(self.front if self.front.exists() else self.primary.path)

    def replica_content(self, size_bytes: int = SIZE) -> str:
        """What the recovery volume holds, read below all."""
        return sha256(self.recovery.loop, size_bytes)

    def check_whole(self, content: str) -> None:
        """The front shows that, takes writes, and a replica of it is the same: read below all."""
        assert sha256(self.front) == content
        (status,) = dmsnap("status", self.name, expected=None)
        if status["state"] == "promoted":
            free = self.beside(status["device"]).path
            dmsnap("attach", self.name, "--recovery", free, "--overwrite")
        self.check_serves()
        assert dmsnap("sync", self.name, "--audit", "full")["audit"]["bytes_different"] == 0
        (status,) = dmsnap("status", self.name)
        now = sha256(self.front)
        for path in (status["device"], status["replica"]["device"]):
            assert sha256(self.disk_at(path).loop, SIZE) == now

    def check_judged(self, content: str) -> None:
        """The device that serves holds it, as others see it: by its loop device."""
        (status,) = dmsnap("status", self.name, expected=None)
        assert sha256(self.disk_at(status["device"]).loop, SIZE) == content


@contextmanager
def made_bed(lab: Lab) -> Iterator[Bed]:
    """Three disks, of which the first is noise all over."""
    with ExitStack() as disks:
        sizes = (SIZE, RECOVERY_SIZE, RECOVERY_SIZE)
        primary, recovery, third = (disks.enter_context(faulty_disk(lab, size)) for size in sizes)
        fill(primary.device, SIZE)
        made = Bed(lab, primary, recovery, third, lab.name(), lab.store())
        disks.callback(lab.take_down)
        disks.callback(made.heal)
        yield made


def in_the_bad_part(sentence: str) -> bool:
    """Whether a sentence says where on its device it was, and that is where it fails."""
    found = re.search(r"ing (\d+) bytes at (\d+)", sentence)
    if found is None:
        return False
    length, begin = int(found[1]), int(found[2])
    return begin < sum(BAD) and begin + length > BAD[0]


def check_refused(bed: Bed, code: ExitCode, command: str) -> str:
    """The command fails, and leaves all as it was; its sentence. Then all disks are well."""
    content, before = bed.content(), world(bed.lab)
    sentence = refused(code, *bed.words(command))
    assert suspended() == []
    bed.heal()
    assert world(bed.lab) == before
    assert bed.content() == content
    return sentence


def check_merge_refused(bed: Bed) -> None:
    """A commit whose merge the kernel gives up, at every attempt; nothing that is shown changes."""
    content = bed.content()
    for _ in range(2):
        assert "Merge failed" in refused(ExitCode.POINT_INVALID, "swap", "commit", bed.name)
        assert suspended() == []
        assert bed.content() == content
    (status,) = dmsnap("status", bed.name, expected=ExitCode.UNHEALTHY)
    assert status["state"] == "committing"
    bed.heal()
    assert bed.content() == content
    # As a restart of the host does, which has the stores read anew.
    lose_stack(bed.lab)
    dmsnap("assemble", bed.name, "--boot")
    assert bed.content() == content
