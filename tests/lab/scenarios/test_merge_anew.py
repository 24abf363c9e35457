"""A commit whose merge met an I/O error goes on when the disk is well again, under its users.

The judge is a copy of the volume in memory, to which every write goes that the front took.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256 as sha256_of
from typing import Any
from unittest.mock import patch

import pytest
from conftest import (
    MIB,
    Lab,
    dm_devices,
    dmsnap,
    dying,
    forked,
    rarely,
    refused,
    sha256,
    suspended,
)
from failing_stage import before_first_call
from faulty_disk import FaultyDisk, faulty_disk
from lost_state import points_on
from raw_volume import Range, write_direct

from dmsnap.errors import ExitCode
from dmsnap.host import kernel_log
from dmsnap.service.swaps import merging

SIZE = 24 * MIB
RECOVERY_SIZE = 64 * MIB
BAD = (5 * MIB, 9 * MIB)  # of what is merged into
WRITES = 40


@dataclass
class Model:
    """What the front must show."""

    front: str
    content: bytearray
    generator: random.Random = field(default_factory=lambda: random.Random(3))
    longest_seconds: float = 0.0

    def write(self, offset: int, length: int) -> None:
        data = self.generator.randbytes(length)
        begun = time.monotonic()
        write_direct(self.front, data, offset)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)
        self.content[offset : offset + length] = data

    def scribble(self, within: Range, count: int = WRITES) -> None:
        """Whole chunks, parts of them, and more than one."""
        begin, length = within[0] // 512, within[1] // 512
        for _ in range(count):
            sectors = self.generator.choice((1, 3, 8, 8, 20, 64))
            at = begin + self.generator.randrange(length - sectors)
            self.write(at * 512, sectors * 512)

    def check(self) -> None:
        assert sha256(self.front) == sha256_of(self.content).hexdigest()
        assert suspended() == []


@contextmanager
def writing(model: Model, within: Range) -> Iterator[None]:
    """Written to without pause while the block runs."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            model.scribble(within, 1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Bed:
    """A volume in trial; what its commit merges into fails when it is told to."""

    name: str
    disk: FaultyDisk
    model: Model
    kind: str
    monkeypatch: pytest.MonkeyPatch

    @property
    def device(self) -> str:
        """What the volume lies on when the commit came to its end."""
        return self.disk.path

    def fail(self) -> None:
        """When the merge begins: before that, the label is flushed."""
        action = partial(self.disk.load, (BAD, "error_writes"))
        before_first_call(self.monkeypatch, merging, "_exchange", action)

    def commit(self) -> None:
        state = "protected" if self.kind == "live" else "promoted"
        assert dmsnap("swap", "commit", self.name)["state"] == state
        self.model.check()
        assert sha256(self.device, SIZE) == sha256_of(self.model.content).hexdigest()
        assert len(dm_devices()) == 2
        assert [name for name in dm_devices() if "-store" in name] == []


@contextmanager
def bed(lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[Bed]:
    """In trial: at the newest point, at the one before, or at a live one."""
    monkeypatch.setattr(merging, "MERGE_SECONDS", 120.0)
    with faulty_disk(lab, RECOVERY_SIZE if kind != "live" else SIZE) as disk:
        other = lab.disk(SIZE if kind != "live" else RECOVERY_SIZE)
        primary, recovery = (disk.path, other) if kind == "live" else (other, disk.path)
        model = Model(primary, bytearray(SIZE))
        model.write(0, SIZE)
        name = lab.protect(primary, recovery)
        model.front = f"/dev/mapper/{name}"
        before = bytes(model.content)
        words = ["swap", name]
        if kind == "earlier":
            model.scribble((0, SIZE))
            dmsnap("sync", name)
            words += ["--to", points_on(name)[1]]
        if kind == "live":
            (point,) = dmsnap("point", "create", name)
            words += ["--to", point["id"]]
        if kind != "newest":
            model.scribble((0, SIZE))
            model.content[:] = before
        dmsnap(*words)
        model.check()
        model.scribble((0, SIZE))
        model.check()
        try:
            yield Bed(name, disk, model, kind, monkeypatch)
        finally:
            disk.load()
            lab.take_down()


@pytest.mark.parametrize("kind", ["newest", "earlier", "live"])
def test_it_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """While it had failed, and while it goes on, the front is read and written."""
    with bed(lab, monkeypatch, kind) as made:
        made.fail()
        for attempt in range(3):
            sentence = refused(ExitCode.POINT_INVALID, "swap", "commit", made.name)
            assert "Merge failed" in sentence, attempt
            made.model.scribble((16 * MIB, SIZE - 16 * MIB))
            made.model.check()
        error = dmsnap("swap", "commit", made.name, expected=ExitCode.POINT_INVALID)
        assert "restart" not in error["hint"], error
        assert f"dmsnap swap commit {made.name} goes on" in error["hint"]
        (status,) = dmsnap("status", made.name, expected=ExitCode.UNHEALTHY)
        assert error["hint"] in " ".join(status["problems"])
        made.disk.load()
        made.model.scribble((0, SIZE))
        made.model.longest_seconds = 0.0
        with writing(made.model, (0, SIZE)):
            assert dmsnap("swap", "commit", made.name)["state"] != "committing"
        print(f"{kind}: the longest write took {made.model.longest_seconds * 1000:.0f} ms")
        assert made.model.longest_seconds < 5
        made.model.check()
        assert sha256(made.device, SIZE) == sha256_of(made.model.content).hexdigest()
        assert len(dm_devices()) == 2
        dmsnap("status", made.name, expected=None)


def test_any_command_goes_on_with_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with bed(lab, monkeypatch, "newest") as made:
        made.fail()
        refused(ExitCode.POINT_INVALID, "swap", "commit", made.name)
        made.disk.load()
        made.model.scribble((0, SIZE))
        dmsnap("job", "resume", "--all")
        assert dmsnap("status", made.name, expected=None)[0]["state"] == "promoted"
        made.model.check()
        assert sha256(made.device, SIZE) == sha256_of(made.model.content).hexdigest()
        assert len(dm_devices()) == 2


@pytest.mark.parametrize("kind", ["newest", rarely("earlier"), rarely("live")])
@pytest.mark.parametrize(
    ("function", "before"), [("_begin", True), ("_exchange", False), ("_wait_merged", True)]
)
def test_killed_while_it_begins_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str, function: str, before: bool
) -> None:
    """The next command goes on, over the other of the store's two devices; so does a boot."""
    with bed(lab, monkeypatch, kind) as made:
        made.fail()
        refused(ExitCode.POINT_INVALID, "swap", "commit", made.name)
        made.disk.load()
        with patch.object(merging, function, dying(getattr(merging, function), before=before)):
            assert forked("swap", "commit", made.name).code == -9
        made.model.scribble((16 * MIB, SIZE - 16 * MIB))
        made.model.check()
        made.commit()


@pytest.mark.parametrize("said", [None, ["something else"], []])
def test_what_the_kernel_does_not_say_is_not_assumed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    """Its log does not reach back any more, or another merge failed at its store meanwhile."""
    with bed(lab, monkeypatch, "newest") as made:
        made.fail()
        refused(ExitCode.POINT_INVALID, "swap", "commit", made.name)
        made.disk.load()
        lines = None if said is None else [f"{merging.SNAPSHOTS}{line}" for line in said]
        since: Callable[..., Any] = lambda *_: lines  # noqa: E731
        with patch.object(kernel_log, "since", since):
            error = dmsnap("swap", "commit", made.name, expected=ExitCode.POINT_INVALID)
        assert "a restart of this host" in error["hint"]
        made.model.check()
        made.commit()


def test_the_kernels_log_is_read_to_its_end() -> None:
    """What was said before a line is not what was said since."""
    text = f"dmsnap: a scenario {os.urandom(4).hex()}"
    assert kernel_log.since(text) is None
    kernel_log.mark(text)
    assert kernel_log.since(text) == []
    with open("/dev/kmsg", "w") as log:
        log.write("<6>device-mapper: a line of a scenario\n")
    assert kernel_log.since(text) == ["device-mapper: a line of a scenario"]
    kernel_log.mark(text)
    assert kernel_log.since(text) == []
