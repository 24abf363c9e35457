"""A disk that is slow, and a machine that is busy, are told from a disk that hangs."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dmsnap.host import asker, reach
from dmsnap.host.sysfs import Sysfs

DEVICE = Path("/dev/sda1")
PATIENCE = 2.0
SLOW_SECONDS = 2 * PATIENCE
LONG_SECONDS = 60.0
MOMENT_SECONDS = 0.1


class Disk:
    """What sysfs says of it; who reads it takes as long as he is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "sys" / "block" / "sda"
        links = root / "sys" / "dev" / "block"
        for directory in (self.directory / "dm", links, root / "bin"):
            directory.mkdir(parents=True)
        (links / "8:1").symlink_to("../../block/sda")
        self.says(completed=7)

    def says(self, *, completed: int, in_flight: int = 0, suspended: int = 0) -> None:
        for name, text in (
            ("stat", f"{completed} 0 0 0 0 0 0 0 0 0 0"),
            ("inflight", f"{in_flight} 0"),
            ("dm/suspended", str(suspended)),
        ):
            new = self.directory / "new"
            new.write_text(text)
            new.rename(self.directory / name)  # whole, whoever reads it just now

    def is_not_counted(self) -> None:
        (self.directory / "queue").mkdir()
        (self.directory / "queue" / "iostats").write_text("0\n")

    def is_read_in(self, seconds: float) -> None:
        """By dd(1)."""
        program = self.root / "bin" / "dd"
        program.write_text(f"#!/bin/sh\nexec /bin/sleep {seconds}\n")
        program.chmod(0o755)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(tmp_path)
    monkeypatch.setattr("dmsnap.host.run.SEARCH_PATH", (str(tmp_path / "bin"),))
    monkeypatch.setattr(reach, "SYSFS", Sysfs(tmp_path / "sys"))
    monkeypatch.setattr(reach, "_devno", lambda _: os.makedev(8, 1), raising=False)
    monkeypatch.setattr(reach, "_asker", lambda _: asker.name_for(os.makedev(8, 1)))
    monkeypatch.setattr(asker, "waiting", lambda _seconds: set())
    yield found
    with suppress(ChildProcessError):  # who was left behind was killed
        while True:
            os.waitpid(-1, 0)


@pytest.fixture
def serving(disk: Disk) -> Iterator[None]:
    """It completes what others ask of it all the time."""
    ends = threading.Event()

    def serve() -> None:
        completed = 7
        while not ends.wait(MOMENT_SECONDS):
            completed += 1
            disk.says(completed=completed, in_flight=1)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    ends.set()
    thread.join()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has a thread that asks take so long."""
    return lambda seconds: monkeypatch.setattr(reach, "_read", lambda _: time.sleep(seconds))


def all_sleep(monkeypatch: pytest.MonkeyPatch, *, sleeping: bool) -> None:
    names = {asker.name_for(os.makedev(8, 1))} if sleeping else set()
    monkeypatch.setattr(asker, "is_waiting", lambda *_: sleeping, raising=False)
    monkeypatch.setattr(asker, "sleeping", lambda _pid: names, raising=False)


@pytest.mark.usefixtures("serving")
def test_one_that_completes_what_others_ask_is_waited_for(
    disk: Disk, slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_sleep(monkeypatch, sleeping=True)
    disk.is_read_in(SLOW_SECONDS)
    assert reach.reads(DEVICE, PATIENCE)
    slow(SLOW_SECONDS)
    assert reach.silent([DEVICE], PATIENCE) == []


def test_one_that_nobody_has_come_to_ask_yet_does_not_hang(
    disk: Disk, slow: Callable[[float], None]
) -> None:
    """Who was to do so has not had the processor, or was read from a slow disk himself."""
    disk.is_read_in(SLOW_SECONDS)
    assert reach.reads(DEVICE, PATIENCE)
    slow(SLOW_SECONDS)
    assert reach.silent([DEVICE], PATIENCE) == []


@pytest.mark.parametrize("sign", ["in_flight", "suspended", "asked"])
def test_one_that_completes_nothing_hangs(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """Where it has something under way, holds it back, or queues it, as for a path that is gone."""
    if sign == "asked":
        all_sleep(monkeypatch, sleeping=True)
    else:
        disk.says(completed=7, **{sign: 1})
    disk.is_read_in(LONG_SECONDS)
    begun = time.monotonic()
    assert not reach.reads(DEVICE, PATIENCE, LONG_SECONDS)
    assert time.monotonic() - begun < LONG_SECONDS / 2


def test_who_sleeps_at_one_that_completes_nothing_is_left_there(
    slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    assert disk.directory.is_dir()
    slow(LONG_SECONDS)
    all_sleep(monkeypatch, sleeping=True)
    begun = time.monotonic()
    assert reach.silent([DEVICE], PATIENCE) == [DEVICE]
    assert time.monotonic() - begun < LONG_SECONDS / 2


def test_one_that_nobody_counts_may_get_on(
    disk: Disk, slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counters stand still whatever it does."""
    disk.is_not_counted()
    all_sleep(monkeypatch, sleeping=True)
    disk.is_read_in(SLOW_SECONDS)
    assert reach.reads(DEVICE, PATIENCE)
    slow(SLOW_SECONDS)
    assert reach.silent([DEVICE], PATIENCE) == []
    disk.is_read_in(LONG_SECONDS)
    assert not reach.reads(DEVICE, MOMENT_SECONDS, LONG_SECONDS)
    disk.says(completed=7, suspended=1)
    begun = time.monotonic()
    assert not reach.reads(DEVICE, PATIENCE, LONG_SECONDS)
    assert time.monotonic() - begun < 2 * PATIENCE


def test_what_is_written_out_to_one_that_nobody_counts_is_waited_for(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    program = disk.root / "bin" / "sync"
    program.write_text("#!/bin/sh\nexec /bin/sleep 2\n")
    program.chmod(0o755)
    assert not reach.flushes(Path("/srv"), os.makedev(8, 1), 0.5)
    disk.is_not_counted()
    assert reach.flushes(Path("/srv"), os.makedev(8, 1), 0.5)
    assert "echo 1 > /sys/block/sda/queue/iostats" in caplog.text


def test_nobody_is_waited_for_without_an_end(disk: Disk, slow: Callable[[float], None]) -> None:
    """Who opens it may hang as well, and drivers need not count what they have under way."""
    disk.is_read_in(LONG_SECONDS)
    assert not reach.reads(DEVICE, MOMENT_SECONDS, LONG_SECONDS)
    slow(LONG_SECONDS)
    assert reach.silent([DEVICE], MOMENT_SECONDS) == [DEVICE]


@pytest.mark.usefixtures("serving")
def test_one_that_is_only_looked_at_is_not_waited_for_without_an_end(disk: Disk) -> None:
    """Though it gets on: the one block that is read may be the one that it cannot give."""
    disk.is_read_in(LONG_SECONDS)
    assert not reach.reads(DEVICE, 2 * MOMENT_SECONDS)
