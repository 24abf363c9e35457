"""Whatever fails under a sync, the replica is a point, or its label leads back to one."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, configured, dmsnap, forked, refused, sha256, world
from faulty_disk import FaultyDisk, faulty_disk
from patience import until
from raw_volume import (
    KIB,
    SECTOR,
    Protected,
    check_tidy,
    fill,
    protected,
    write_direct,
)

from dmsnap._native import copy
from dmsnap._native.label import HistoryFlag
from dmsnap.catalogue.model import Volume
from dmsnap.cli.main import main
from dmsnap.errors import ExitCode
from dmsnap.recovery import apply, replica
from dmsnap.service.session import Session

SIZE = 12 * MIB
RECOVERY_SIZE = 32 * MIB


def recorded(name: str) -> Volume:
    with Session.open() as session:
        return session.catalogue.volume(name)


def dirty(volume: Protected, seed: int, count: int = 24) -> None:
    """Change some runs of sectors."""
    choices = random.Random(seed)
    for _ in range(count):
        length = choices.choice((SECTOR, 4 * KIB, 40 * KIB, 200 * KIB))
        offset = choices.randrange((volume.size_bytes - length) // SECTOR) * SECTOR
        write_direct(volume.front, os.urandom(length), offset)


def on_faulty_disk(lab: Lab, disk: FaultyDisk) -> Protected:
    primary = lab.disk(SIZE)
    fill(Path(primary), SIZE)
    return Protected(lab.protect(primary, disk.path), primary, disk.path, SIZE)


def before_first_call(
    monkeypatch: pytest.MonkeyPatch, function: str, action: Callable[[], object]
) -> None:
    """Run ``action`` right before a step of ``recovery.apply`` begins, once."""
    original = getattr(apply, function)

    def hooked(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(apply, function, original)
        action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(apply, function, hooked)


def after_first_call(
    monkeypatch: pytest.MonkeyPatch, function: str, action: Callable[[], object]
) -> None:
    """Run ``action`` when a step of ``recovery.apply`` ended, well or not, once."""
    original = getattr(apply, function)

    def hooked(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(apply, function, original)
        try:
            return original(*arguments, **keywords)
        finally:
            action()

    monkeypatch.setattr(apply, function, hooked)


# COW stores that overflow


@pytest.mark.parametrize("step", ["write_undo", "mark_applying", "write_new", "mark_consistent"])
def test_a_cow_store_that_overflows(lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """More is written to the volume than the point's store takes, before and in every step."""
    volume = protected(lab, 40 * MIB, history_bytes=48 * MIB, filled=False)
    write_direct(volume.front, os.urandom(4 * MIB), 8 * MIB)
    before, content = volume.label(), volume.replica_sha256()

    def overflow() -> None:
        data = os.urandom(MIB)
        for offset in range(0, 18 * MIB, MIB):
            write_direct(volume.front, data, offset)

    # The last of the steps comes after the last look at the snapshot: all was read by then.
    too_late = step == "mark_consistent"
    before_first_call(monkeypatch, step, overflow)
    result = volume.sync("--cow-percent", 1, expected=0 if too_late else ExitCode.POINT_INVALID)
    if not too_late:
        assert "COW store could not take" in result["error"]
        after = volume.label()
        assert (after["state"], after["point_uuid"]) == ("consistent", before["point_uuid"])
        assert after["history"] == before["history"]
        assert volume.replica_sha256() == content
    check_tidy(volume, lab)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    volume.check_equal()


# disks that fail


def test_a_disk_that_fails_before_the_replica_is_touched(lab: Lab) -> None:
    """The undo store, reading the replica, the label: the replica stays what it was."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        label_offset, _ = disk.label_range
        history = (SIZE, label_offset - SIZE)
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 1)
        for place, fault in (
            (history, "error_writes"),
            ((MIB, 8 * MIB), "error"),
            (disk.label_range, "error_writes"),
        ):
            disk.load((place, fault))
            failed = volume.sync(expected=ExitCode.OS)
            assert disk.path in failed["error"]
            disk.load()
            assert volume.label() == before
            assert volume.replica_sha256() == content
            check_tidy(volume, lab)
        assert volume.sync()["tracker"] == "era"
        volume.check_equal()


def test_a_disk_that_fails_while_the_replica_is_written(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails the way back, too: the label says so, and the next sync goes back first."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 2)
        failing = ((SIZE // 2, SIZE // 2), "error_writes")
        before_first_call(monkeypatch, "write_new", partial(disk.load, failing))
        failed = volume.sync(expected=ExitCode.FAILURE)
        assert "undoing it failed" in failed["error"]
        # Torn, and nobody may take it for a point.
        torn = volume.label()
        assert (torn["state"], torn["point_uuid"]) == ("applying", before["point_uuid"])
        (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
        assert status["replica"]["point"] is None
        for point in dmsnap("point", "list", volume.name):
            assert point["places"] == []
        disk.load()
        with replica.opened(recorded(volume.name)) as current:
            current.roll_back()
        assert volume.replica_sha256() == content
        assert volume.label()["point_uuid"] == before["point_uuid"]
        # As it was torn, once more, and now left to the next sync.
        before_first_call(monkeypatch, "write_new", partial(disk.load, failing))
        volume.sync(expected=ExitCode.FAILURE)
        disk.load()
        assert volume.label()["state"] == "applying"
        volume.sync()
        new = volume.check_equal()
        dmsnap("swap", volume.name, "--to", before["point_uuid"], "--trial")
        assert sha256(volume.front) == content
        dmsnap("swap", "revert", volume.name)
        assert sha256(volume.front) == new
        check_tidy(volume, lab)


def test_a_disk_that_fails_for_a_moment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole again when the sync goes back: at its former point, at once."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 3)
        failing = ((SIZE // 2, SIZE // 2), "error_writes")
        before_first_call(monkeypatch, "write_new", partial(disk.load, failing))
        after_first_call(monkeypatch, "write_new", disk.load)
        volume.sync(expected=ExitCode.OS)
        after = volume.label()
        assert (after["state"], after["point_uuid"]) == ("consistent", before["point_uuid"])
        assert volume.replica_sha256() == content
        check_tidy(volume, lab)
        volume.sync()
        volume.check_equal()


@contextmanager
def volume_on_faulty_disk(lab: Lab) -> Iterator[tuple[Protected, FaultyDisk]]:
    """A volume whose primary can be made to fail."""
    with faulty_disk(lab, SIZE) as disk:
        fill(disk.device, SIZE)
        recovery = lab.disk(RECOVERY_SIZE)
        try:
            yield Protected(lab.protect(disk.path, recovery), disk.path, recovery, SIZE), disk
        finally:
            disk.load()
            lab.take_down()


def failure_of(disk: FaultyDisk, how: str) -> Callable[[], None]:
    """Half of the disk gives errors, or is not there any more, or all of it is gone."""
    if how == "shrinks":
        return partial(disk.shrink, SIZE // 2)
    if how == "gives errors":
        return partial(disk.load, ((SIZE // 2, SIZE // 2), "error"))
    return partial(disk.load, ((0, disk.size_bytes), "error"))


FAILURES = pytest.mark.parametrize("how", ["gives errors", "shrinks", "vanishes"])


@FAILURES
def test_a_primary_that_fails_while_it_is_compared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The replica stays what it was, and tracking what it saw."""
    with volume_on_faulty_disk(lab) as (volume, disk):
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 6)
        before_first_call(monkeypatch, "write_undo", failure_of(disk, how))
        assert "reading" in volume.sync(expected=ExitCode.OS)["error"]
        disk.load()
        assert volume.label() == before
        assert volume.replica_sha256() == content
        check_tidy(volume, lab)
        assert volume.sync()["tracker"] == "era"
        volume.check_equal()


@FAILURES
def test_a_recovery_volume_that_fails_while_it_is_written(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The next sync goes back first, when it is whole again."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        before = volume.label()
        dirty(volume, 7)
        before_first_call(monkeypatch, "write_new", failure_of(disk, how))
        volume.sync(expected=ExitCode.FAILURE)
        disk.load()
        torn = volume.label()
        assert (torn["state"], torn["point_uuid"]) == ("applying", before["point_uuid"])
        volume.sync()
        volume.check_equal()
        check_tidy(volume, lab)


def test_a_label_that_cannot_be_written_at_the_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All data is there, and nothing says so: it is not a point."""
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        dirty(volume, 4)
        failing = (disk.label_range, "error_writes")
        before_first_call(monkeypatch, "mark_consistent", partial(disk.load, failing))
        volume.sync(expected=ExitCode.FAILURE)
        assert volume.label()["state"] == "applying"
        disk.load()
        volume.sync()
        volume.check_equal()
        check_tidy(volume, lab)


def test_a_disk_that_forgets_writes_fails_the_audit(lab: Lab) -> None:
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 5)
        disk.load(((0, SIZE), "drop_writes"))
        volume.sync("--audit", "full", expected=ExitCode.AUDIT_FAILED)
        disk.load()
        assert volume.label()["point_uuid"] == before["point_uuid"]
        assert volume.replica_sha256() == content
        assert volume.sync("--audit", "full")["tracker"] == "compare"
        volume.check_equal()


# a process that is killed


def in_child(*argv: str) -> int:
    """Start a command in a forked process, which is much faster than a new Python."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
        try:
            main(argv)
        finally:
            os._exit(0)
    return child


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_sync_that_is_killed_anywhere(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random moments, and in the middle of the apply.

    The replica is the old point or the new one, or goes back to the old.
    """
    volume = protected(lab, SIZE, history_bytes=48 * MIB)
    choices = random.Random(6)
    old = volume.check_equal()
    started = time.monotonic()
    child = in_child("sync", volume.name)
    os.waitpid(child, 0)
    longest = time.monotonic() - started
    states: list[str] = []
    for number in range(4):
        dirty(volume, 100 + number, 40)
        with monkeypatch.context() as patched:
            if number == 0:
                before_first_call(patched, "write_new", kill_this_process)
            elif number == 1:
                after_first_call(patched, "write_new", kill_this_process)
            child = in_child("sync", volume.name)
        if number > 1:
            time.sleep(choices.uniform(0.1, 1.1) * longest)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_until_resumed(volume)
        new = sha256(volume.front)
        states.append(volume.label()["state"])
        if states[-1] == "consistent":
            assert volume.replica_sha256() in (old, new)
        else:
            assert states[-1] == "applying"
            if number == 1:
                check_swapped(volume, lab, old)
            elif number % 3:
                with replica.opened(recorded(volume.name)) as current:
                    current.roll_back()
                assert volume.replica_sha256() == old
        volume.sync()
        old = volume.check_equal()
        assert old == new
        check_tidy(volume, lab)
    assert states[1] == "applying"


def check_swapped(volume: Protected, lab: Lab, old: str) -> None:
    """Over a replica between two points: what is asked for, or refused, changes nothing of it; what
    is done shows the point of before, also when it is done again.
    """
    swap = ("swap", volume.name)
    torn = world(lab, volume.recovery).contents
    assert "roll back" in dmsnap(*swap, "--dry-run")["steps"][0]
    before = world(lab, volume.recovery)
    assert before.contents == torn
    with configured("unmount_wait_seconds = 0.1"), volume.front.open("rb"):
        assert f"pid {os.getpid()}" in refused(ExitCode.BUSY, *swap)
    refused(ExitCode.NOT_FOUND, *swap, "--to", "0123456789")
    assert world(lab, volume.recovery) == before
    assert forked(*swap, at=(0, "done"), send=(signal.SIGKILL,)).code == -signal.SIGKILL
    dmsnap(*swap)
    assert sha256(volume.front) == old
    dmsnap("swap", "revert", volume.name)
    assert volume.replica_sha256() == old


def test_a_sync_that_is_killed_when_all_was_written(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica holds the new point: the next sync goes on from it by the era."""
    volume = protected(lab, SIZE)
    dirty(volume, 10)
    after_first_call(monkeypatch, "mark_consistent", kill_this_process)
    child = in_child("sync", volume.name)
    os.waitpid(child, 0)
    monkeypatch.undo()
    volume.check_equal()
    write_direct(volume.front, os.urandom(4 * KIB), MIB)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["bytes_dirty"]) == ("era", volume.block_bytes)
    check_tidy(volume, lab)


@pytest.mark.parametrize(
    ("owner", "function"), [(Session, "distrust"), (copy, "roll_back")], ids=["told", "undone"]
)
def test_a_sync_that_is_killed_when_its_audit_has_failed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str
) -> None:
    """What is not what it should be is no point from then on, and the job not done: killed before
    the audit's failure is recorded, or while the replica goes back.
    """
    with faulty_disk(lab, RECOVERY_SIZE) as disk:
        volume = on_faulty_disk(lab, disk)
        before, content = volume.label(), volume.replica_sha256()
        dirty(volume, 5)
        disk.load(((0, SIZE), "drop_writes"))
        with monkeypatch.context() as patched:
            patched.setattr(owner, function, lambda *_, **__: kill_this_process())
            os.waitpid(in_child("sync", volume.name, "--audit", "full"), 0)
        disk.load()
        assert volume.label()["state"] == "applying"
        dmsnap("job", "resume", "--all", expected=None)
        (job,) = [job for job in dmsnap("job", "list") if job["operation"] == "sync"]
        assert (job["state"], job["at"]) == ("undone", "audit")
        assert volume.label()["point_uuid"] == before["point_uuid"]
        assert volume.replica_sha256() == content
        assert volume.sync("--audit", "full")["tracker"] == "compare"
        volume.check_equal()
        check_tidy(volume, lab)


def wait_until_resumed(volume: Protected) -> None:
    """The watchdog does it when its master died inside the window."""
    minor = os.minor(volume.front.stat().st_rdev)
    suspended = Path(f"/sys/block/dm-{minor}/dm/suspended")
    until(lambda: suspended.read_text() != "1\n", "somebody resumes the front")


# a history that is full


def test_a_history_that_is_full(lab: Lab) -> None:
    """The oldest points go, those that stay can be recovered, and one that is kept refuses."""
    volume = protected(lab, SIZE, history_bytes=8 * MIB)
    contents = {volume.label()["point_uuid"]: volume.check_equal()}
    for number in range(5):
        write_direct(volume.front, os.urandom(2 * MIB), (number % 4) * 2 * MIB)
        point = volume.sync()["point"]
        contents[point] = volume.check_equal()
    kept = [entry["point_uuid"] for entry in volume.label()["history"]]
    assert kept == list(contents)[-len(kept) - 1 : -1][::-1]
    assert 2 <= len(kept) < 5
    listed = {point["id"] for point in dmsnap("point", "list", volume.name)}
    assert listed == {*kept, point}
    oldest = kept[-1]
    dmsnap("swap", volume.name, "--to", oldest, "--trial")
    assert sha256(volume.front) == contents[oldest]
    dmsnap("swap", "revert", volume.name)

    # More than the whole history can undo: nothing changes, not even the oldest point goes.
    before = volume.label()
    write_direct(volume.front, os.urandom(11 * MIB), 0)
    volume.sync(expected=ExitCode.NO_SPACE)
    assert volume.label() == before
    assert volume.replica_sha256() == contents[point]
    check_tidy(volume, lab)


def test_a_kept_point_is_not_dropped_to_make_room(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=4 * MIB)
    with replica.opened(recorded(volume.name)) as current:
        current.write_label(replace(current.label, flags=HistoryFlag.KEEP))
    for offset in (0, 3 * MIB):
        write_direct(volume.front, os.urandom(3 * MIB), offset)
        before, content = volume.label(), volume.replica_sha256()
        volume.sync(expected=ExitCode.NO_SPACE if offset else ExitCode.OK)
    assert volume.label() == before
    assert volume.replica_sha256() == content
    assert before["history"][-1]["point_uuid"] in [
        point["id"] for point in dmsnap("point", "list", volume.name)
    ]
