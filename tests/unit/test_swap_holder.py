"""Which holders of a volume a swap ends, and when: copies, and nobody else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import JobState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, LockedError
from dmsnap.host import ending
from dmsnap.host.locks import has_lock
from dmsnap.service import operations, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.session import Session
from dmsnap.service.swaps import holder, primary
from dmsnap.snapshot import stack

HOLD = """
import signal, sys
from pathlib import Path
from dmsnap.host.locks import volume_lock
def term(*_):
    raise SystemExit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else term)
with volume_lock(Path(sys.argv[1]), "srv", 0, command="dmsnap sync srv"):
    print("locked", flush=True)
    sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[bytes]"]
Swap = Callable[..., Volume]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A volume without devices, whose holding is its lock alone."""

    @contextmanager
    def held(session: Session, name: str, _wanted: Wanted) -> Iterator[Volume]:
        with session.locked([name]):
            yield session.catalogue.volume(name)

    monkeypatch.setattr(reaper, "held", held)
    monkeypatch.setattr(stack, "find", lambda _device: None)
    settings = Configuration(run_directory=tmp_path, lock_wait_seconds=0.2, kill_wait_seconds=0.5)
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        volume = replace(a_volume(), recovery=None, state=VolumeState.PROTECTED)
        catalogue.add_volume(volume)
        yield Session(settings, catalogue)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Another process that holds the volume."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str) -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-c", HOLD, str(tmp_path / "locks"), *words]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        return child

    yield run
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def swap(session: Session) -> Swap:
    def run(*, kill: bool = False, fail_primary: bool = False) -> Volume:
        with holder.held(
            session, "srv", Wanted.RECOVERY, kill=kill, fail_primary=fail_primary
        ) as volume:
            return volume

    return run


def begin(session: Session, operation: str, pid: int) -> int:
    """The job of a process."""
    volume = session.catalogue.volume("srv")
    return jobs.begin(
        session.catalogue, operation, [volume.id], arguments={}, pid=pid, steps=["apply"]
    )


def answers(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> None:
    """What the primary does each time that it is asked; the last answer counts from then on."""
    left = list(answers)
    monkeypatch.setattr(primary, "is_read", lambda *_: left.pop(0) if len(left) > 1 else left[0])


def test_nobody_is_asked_where_nobody_holds_it(swap: Swap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary, "is_read", lambda *_: pytest.fail("the primary was asked"))
    assert swap(kill=True).name == "srv"


@pytest.mark.parametrize("operation", sorted(holder.COPIES))
def test_a_copy_whose_primary_hangs_is_ended(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    child = start()
    begin(session, operation, child.pid)
    answers(monkeypatch, False)
    assert swap().name == "srv"
    assert child.wait(60) == 3  # by itself


def test_one_that_does_not_end_is_killed(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start("deaf")
    begin(session, "sync", child.pid)
    answers(monkeypatch, False)
    swap()
    assert child.wait(60) == -signal.SIGKILL


def test_a_copy_that_gets_on_is_ended_by_kill_alone(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start()
    begin(session, "sync", child.pid)
    answers(monkeypatch, True)
    with pytest.raises(LockedError) as raised:
        swap(fail_primary=True)
    assert "dmsnap swap srv --kill" in (raised.value.hint or "")
    assert child.poll() is None
    monkeypatch.setattr(primary, "is_read", lambda *_: pytest.fail("the primary was asked"))
    swap(kill=True)
    assert child.wait(60) == 3


def test_one_that_begins_to_hang_while_it_is_waited_for(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start()
    begin(session, "sync", child.pid)
    answers(monkeypatch, True, False)
    swap()
    assert child.wait(60) == 3


OTHERS = sorted({*operations.OPERATIONS, "spare", "made up"} - holder.COPIES)


@pytest.mark.parametrize("operation", OTHERS)
def test_whoever_does_other_work_is_never_ended(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    child = start()
    begin(session, operation, child.pid)
    answers(monkeypatch, False)
    with pytest.raises(LockedError) as raised:
        swap(kill=True, fail_primary=True)
    assert "--kill" not in (raised.value.hint or "")
    assert child.poll() is None


def test_a_hook_of_the_copy_does_not_end_it(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start()
    begin(session, "sync", child.pid)
    answers(monkeypatch, False)
    monkeypatch.setattr(ending, "ancestors", lambda _pid: {child.pid, 1})
    with pytest.raises(LockedError):
        swap(kill=True)
    assert child.poll() is None


def test_what_it_does_now_counts(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync of that process is not concluded, and it is on to something else."""
    child = start()
    begin(session, "sync", child.pid)
    begin(session, "prune", child.pid)
    answers(monkeypatch, False)
    with pytest.raises(LockedError):
        swap(kill=True)
    assert child.poll() is None


def test_a_sync_that_was_cut_off_before_is_another_process(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same number; who holds the volume has not begun its own job yet."""
    child = start()
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "now_ns", lambda: now_ns() - 3600 * 10**9)
        begin(session, "sync", child.pid)
    answers(monkeypatch, False)
    with pytest.raises(LockedError):
        swap(kill=True)
    assert child.poll() is None


def test_what_the_lock_file_says_of_another_process_is_not_believed(
    session: Session, start: Start, swap: Swap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of one that is gone is there until who holds the lock now has written."""
    child, bystander = start(), subprocess.Popen(["sleep", "60"])
    try:
        path = tmp_path / "locks" / "srv.lock"
        path.write_text(path.read_text().replace(str(child.pid), str(bystander.pid)))
        begin(session, "sync", bystander.pid)
        answers(monkeypatch, False)
        with pytest.raises(LockedError):
            swap(kill=True)
        assert (child.poll(), bystander.poll()) == (None, None)
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("state", [VolumeState.TRIAL, VolumeState.PROMOTED, VolumeState.BUILDING])
def test_for_a_swap_that_cannot_be_nobody_is_ended(
    session: Session,
    start: Start,
    swap: Swap,
    monkeypatch: pytest.MonkeyPatch,
    state: VolumeState,
) -> None:
    volume = session.catalogue.volume("srv")
    session.catalogue.update_volume(replace(volume, state=state))
    child = start()
    begin(session, "point create", child.pid)
    answers(monkeypatch, False)
    with pytest.raises(LockedError):
        swap(kill=True)
    assert child.poll() is None


def test_one_that_waits_in_the_kernel_is_told_of(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start()
    begin(session, "sync", child.pid)
    answers(monkeypatch, False)
    monkeypatch.setattr(ending, "_send", lambda *_: None)
    monkeypatch.setattr(holder, "_END_SECONDS", 0.1)
    begun = time.monotonic()
    with pytest.raises(DeadlineError, match=f"process {child.pid} was killed") as raised:
        swap()
    assert time.monotonic() - begun < 30
    assert "have the kernel give up /dev/vg/srv" in (raised.value.hint or "")


def test_a_job_that_ends_meanwhile_keeps_its_process(
    session: Session, start: Start, swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy's run goes on with its next volume."""
    child = start()
    job_id = begin(session, "sync", child.pid)

    def is_read(*_: object) -> bool:
        jobs.end(session.catalogue, job_id, JobState.DONE, "")
        return False

    monkeypatch.setattr(primary, "is_read", is_read)
    with pytest.raises(LockedError):
        swap()
    assert child.poll() is None


def test_who_has_the_lock_the_kernel_says(session: Session, start: Start, tmp_path: Path) -> None:
    child = start()
    locks = tmp_path / "locks"
    assert has_lock(locks, "srv", child.pid)
    assert not has_lock(locks, "other", child.pid)
    with (locks / "srv.lock").open():  # open, and not locked
        assert not has_lock(locks, "srv", os.getpid())
    child.kill()
    child.wait()
    assert not has_lock(locks, "srv", child.pid)
    assert session.holder("srv") is None
