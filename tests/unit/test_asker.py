"""Who was left behind at a device is found by his name."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmsnap.host import asker

AGED = 3600.0


@pytest.fixture
def thread(tmp_path: Path) -> Callable[..., None]:
    """Makes one, of a process, in a tree of its own."""

    def make(
        pid: int,
        name: str,
        age_seconds: float = AGED,
        process: str = asker.NAME,
        tid: int = 0,
        state: str = "D",
    ) -> None:
        began = time.clock_gettime(time.CLOCK_BOOTTIME) - age_seconds
        fields = [state, *["0"] * 18, str(int(began * os.sysconf("SC_CLK_TCK")))]
        task = tmp_path / str(pid) / "task" / str(tid or pid + 1)
        task.mkdir(parents=True)
        (tmp_path / str(pid) / "comm").write_text(f"{process}\n")
        (task / "comm").write_text(f"{name}\n")
        (task / "stat").write_text(f"{pid} (any) name) {' '.join(fields)}\n")

    return make


def test_who_waits_for_long_is_found(thread: Callable[..., None], tmp_path: Path) -> None:
    thread(10, "ask-801")
    thread(10, "ask-802", age_seconds=1, tid=12)
    thread(20, "ask-803", process="bash")
    (tmp_path / "30").mkdir()  # has just ended
    (tmp_path / "uptime").write_text("1 1")
    assert asker.waiting(9, proc=tmp_path) == {"ask-801"}


def test_a_thread_that_has_just_ended_hides_no_other(
    thread: Callable[..., None], tmp_path: Path
) -> None:
    for tid in range(11, 19):
        thread(10, f"ask-{tid}", tid=tid)
    for tid in (11, 14, 18):
        (tmp_path / "10" / "task" / str(tid) / "stat").unlink()
    expected = {f"ask-{tid}" for tid in (12, 13, 15, 16, 17)}
    assert asker.waiting(9, proc=tmp_path) == expected


def test_who_sleeps_is_told_from_who_waits_for_a_processor(
    thread: Callable[..., None], tmp_path: Path
) -> None:
    thread(10, "ask-801", tid=11)
    thread(10, "ask-802", tid=12, state="R")
    thread(10, "ask-803", tid=13, state="S")
    assert asker.sleeping(10, proc=tmp_path) == {"ask-801"}
    assert asker.sleeping(20, proc=tmp_path) == set()


@pytest.mark.parametrize("state", ["D", "R"])
def test_a_program_waits_for_the_device_that_is_its_input(state: str, tmp_path: Path) -> None:
    """It sleeps for others, too: before it has opened that, as for what it is read from itself."""
    fds = tmp_path / "7" / "fd"
    fds.mkdir(parents=True)
    (tmp_path / "7" / "stat").write_text(f"7 (dd) {state} 1 7")
    null = Path("/dev/null").stat().st_rdev
    assert not asker.is_waiting(7, null, proc=tmp_path)
    (fds / "0").symlink_to("/dev/null")
    assert asker.is_waiting(7, null, proc=tmp_path) is (state == "D")
    assert not asker.is_waiting(7, null + 1, proc=tmp_path)


def test_what_others_are_called_says_nothing(thread: Callable[..., None], tmp_path: Path) -> None:
    thread(10, "ask-801")
    os.chown(tmp_path / "10", 1, 1)
    assert asker.waiting(9, proc=tmp_path) == set()


def test_a_thread_takes_its_name() -> None:
    names = []

    def asks() -> None:
        asker.take_name(asker.name_for(os.makedev(253, 1048575)))
        names.append(Path("/proc/thread-self/comm").read_text().strip())

    asking = threading.Thread(target=asks)
    asking.start()
    asking.join()
    assert names == [asker.name_for(os.makedev(253, 1048575))]
