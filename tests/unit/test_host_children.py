"""Children that are left behind at a disk that hangs: not even SIGKILL ends them at once."""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dmsnap.host.children import ended
from dmsnap.host.locks import volume_lock

LONG_SECONDS = 60.0
BUSY_SECONDS = 10.0  # a busy machine's child may not have begun when it is left


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """SIGKILL does nothing yet, as to who waits for a disk; the children that were left."""
    killed: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda pid, _signal: killed.append(pid))
        yield killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def hang(seen: Path | None = None) -> None:
    """As at a disk that does not answer; what is open then is written to ``seen`` before."""
    if seen is not None:
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # that of the listing
                found.append(f"{link.name} {link.readlink()}")
        seen.with_suffix(".new").write_text("\n".join([str(Path.cwd()), *sorted(found)]))
        seen.with_suffix(".new").rename(seen)
    time.sleep(LONG_SECONDS)


def test_who_is_left_behind_holds_no_lock(tmp_path: Path, left: list[int]) -> None:
    """flock(2) is let go of when the last descriptor is closed that the lock was taken by."""
    with volume_lock(tmp_path, "data", 0):
        assert ended([hang], 0.1) == set()
    assert left
    with volume_lock(tmp_path, "data", BUSY_SECONDS):
        pass


def test_who_is_left_behind_keeps_nobody_who_reads_our_output(left: list[int]) -> None:
    reading, writing = os.pipe()
    stdout = os.dup(1)
    os.dup2(writing, 1)
    os.close(writing)
    try:
        assert ended([hang], 0.1) == set()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert left
    assert select.select([reading], [], [], BUSY_SECONDS)[0], "who reads would wait for the child"
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_who_is_left_behind_has_nothing_open(
    tmp_path: Path, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor its working directory in a volume that somebody wants to unmount."""
    monkeypatch.chdir(tmp_path)
    seen = tmp_path / "seen"
    descriptors = [os.open("/dev/zero", os.O_RDONLY) for _ in range(20)]
    try:
        assert ended([partial(hang, seen)], 0.1) == set()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    begun = time.monotonic()
    while not seen.exists() and time.monotonic() < begun + BUSY_SECONDS:
        time.sleep(0.01)
    directory, *found = seen.read_text().splitlines()
    assert directory == "/"
    assert found[:3] == ["0 /dev/null", "1 /dev/null", "2 /dev/null"]
    assert len(found) == 4
    assert " pipe:" in found[3]
    assert left
