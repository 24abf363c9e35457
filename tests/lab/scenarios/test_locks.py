"""Two commands at once: on one volume one after the other, on two side by side."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from conftest import (
    MIB,
    Lab,
    dm_devices,
    dmsnap,
    dmsnap_process,
    locks_held,
    refused,
    run,
    sha256,
    world,
)
from patience import until, waiting_for_lock

from dmsnap.errors import ExitCode
from dmsnap.host.locks import volume_lock
from dmsnap.service.session import Session

SIZE = 32 * MIB
RECOVERY_SIZE = 64 * MIB
LOCKS = Path("/run/dmsnap/locks")


@contextmanager
def lock_wait(seconds: float) -> Iterator[None]:
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"lock_wait_seconds = {seconds}\n")
    try:
        yield
    finally:
        path.unlink()


def patient() -> AbstractContextManager[None]:
    """Several commands on one volume: the last waits for all of them, on whatever machine."""
    return lock_wait(900)


def protected(lab: Lab) -> str:
    return lab.protect(lab.disk(SIZE), lab.disk(RECOVERY_SIZE))


def test_who_holds_the_lock_is_named(lab: Lab) -> None:
    """Every command that changes a volume waits, and then says for whom."""
    name, disk = protected(lab), lab.disk(SIZE)
    (point,) = dmsnap("point", "create", name)
    before = world(lab)
    commands: list[tuple[str, ...]] = [
        ("sync", name), ("verify", name), ("point", "create", name), ("swap", name, "--trial"),
        ("swap", "revert", name), ("swap", "commit", name), ("swap", "extend", name),
        ("failback", name), ("attach", name, "--recovery", disk), ("resize", name),
        ("hydrate", name, "--onto", disk), ("unprotect", name), ("assemble", name),
        *(("point", verb, point["id"]) for verb in ("mount", "umount", "delete", "keep")),
        ("point", "set", point["id"], "--comment", "for this"),
        ("point", "copy", point["id"], "--onto", disk),
        ("export", name, "--portal", "127.0.0.1", "--initiator", "iqn.2026-01.org.example:a"),
    ]  # fmt: skip
    with lock_wait(0.1), volume_lock(LOCKS, name, 0, command="dmsnap held for the test"):
        for words in commands:
            sentence = refused(ExitCode.LOCKED, *words)
            assert f"pid {os.getpid()}" in sentence
            assert "'dmsnap held for the test'" in sentence
            assert name in sentence
        # What only looks waits for nobody.
        dmsnap("status", name)
        dmsnap("point", "list", name)
    assert world(lab) == before


def test_the_second_waits(lab: Lab) -> None:
    name = protected(lab)
    with patient(), volume_lock(LOCKS, name, 0):
        waiting = dmsnap_process("sync", name)
        until(lambda: waiting_for_lock(LOCKS / f"{name}.lock"), "it waits")
        time.sleep(1)
        assert waiting.poll() is None
    _, stderr = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, stderr
    assert locks_held() == []


def test_a_waiting_command_can_be_interrupted(lab: Lab) -> None:
    name = protected(lab)
    before = world(lab)
    for number in (signal.SIGINT, signal.SIGTERM):
        with patient(), volume_lock(LOCKS, name, 0):
            waiting = dmsnap_process("sync", name)
            until(lambda: waiting_for_lock(LOCKS / f"{name}.lock"), "it waits")
            assert waiting.poll() is None
            waiting.send_signal(number)
            # Long before the lock would be given up.
            _, stderr = waiting.communicate(timeout=120)
        assert waiting.returncode in (128 + number, -number), stderr
        assert "Traceback" not in stderr
        # Nothing that it started goes on waiting, and takes the lock when it is free.
        assert locks_held() == []
        assert subprocess.run(["pgrep", "-x", "flock"], check=False).returncode == 1
    assert world(lab) == before


def test_a_killed_holder_holds_nothing(lab: Lab) -> None:
    name = protected(lab)
    words = ["flock", "--no-fork", str(LOCKS / f"{name}.lock"), "sleep", "infinity"]
    with subprocess.Popen(words) as holder:
        try:
            until(locks_held, "the lock is held")
        finally:
            holder.kill()
    with lock_wait(0):
        dmsnap("sync", name)


def test_two_commands_at_once(lab: Lab) -> None:
    """Four processes on one volume: all are through in the end, and nothing is left behind."""
    name = protected(lab)
    words: list[tuple[str, ...]] = [("sync", name), ("point", "create", name)] * 2
    with patient():
        processes = [dmsnap_process(*each) for each in words]
        ends = [process.communicate(timeout=600) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(words), ends
    live = [row for row in dm_devices() if "-point-" in row]
    assert len(live) == 2
    dmsnap("status", name)
    assert dmsnap("inspect", "label", run_recovery(name))["state"] == "consistent"


def run_recovery(name: str) -> str:
    (status,) = dmsnap("status", name)
    return str(status["replica"]["device"])


def test_two_volumes_side_by_side(lab: Lab) -> None:
    """While one volume's lock is held, another's commands do not wait."""
    first, second = protected(lab), protected(lab)
    with lock_wait(0), volume_lock(LOCKS, first, 0):
        dmsnap("sync", second)
        refused(ExitCode.LOCKED, "sync", first)
        refused(ExitCode.LOCKED, "point", "create", second, first)
    processes = [dmsnap_process("sync", name) for name in (first, second)]
    for process in processes:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr


def test_sets_named_in_another_order_do_not_deadlock(lab: Lab) -> None:
    first, second = protected(lab), protected(lab)
    orders = [(first, second), (second, first)] * 2
    with patient():
        processes = [dmsnap_process("point", "create", *order) for order in orders]
        for process in processes:
            _, stderr = process.communicate(timeout=600)
            assert process.returncode == 0, stderr
    assert len([row for row in dm_devices() if "-point-" in row]) == 8
    assert locks_held() == []


def test_protecting_one_name_twice_at_once(lab: Lab) -> None:
    """One of them makes it, the other says why not; and one device is not protected twice."""
    primary, store = lab.disk(SIZE), lab.store()
    name = lab.name()
    recoveries = [lab.disk(RECOVERY_SIZE) for _ in range(2)]
    with patient():
        processes = [
            dmsnap_process(
                "protect", primary, "--name", name, "--recovery", recovery, "--store", store
            )
            for recovery in recoveries
        ]
        ends = [process.communicate(timeout=600)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == [0, ExitCode.ALREADY_PROTECTED], ends
    dmsnap("status", name)


def test_protecting_one_device_under_two_names_at_once(lab: Lab) -> None:
    primary, store = lab.disk(SIZE), lab.store()
    with patient():
        processes = [
            dmsnap_process("protect", primary, "--name", lab.name(), "--recovery",
                           lab.disk(RECOVERY_SIZE), "--store", store)
            for _ in range(2)
        ]  # fmt: skip
        ends = [process.communicate(timeout=600)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0, ends
    assert codes[1] in (ExitCode.ALREADY_PROTECTED, ExitCode.BUSY), ends
    (status,) = dmsnap("status")
    assert status["problems"] == []
    assert len(dm_devices()) == 2


def test_the_catalogue_is_read_while_others_write(lab: Lab) -> None:
    name = protected(lab)
    failures: list[str] = []

    def look() -> None:
        for _ in range(5):
            completed = subprocess.run(
                ["dmsnap", "status", name], capture_output=True, text=True, check=False
            )
            if completed.returncode not in (ExitCode.OK, ExitCode.UNHEALTHY):
                failures.append(completed.stderr)

    looker = threading.Thread(target=look)
    looker.start()
    while looker.is_alive():
        dmsnap("sync", name)
    looker.join()
    assert failures == []
    run("dmsetup", "status")


def test_one_recovery_volume_for_two_volumes_at_once(lab: Lab) -> None:
    """One of them gets it, whole; the other leaves nothing, and nothing of the first is undone."""
    recovery, store = lab.disk(RECOVERY_SIZE), lab.store()
    primaries = [lab.disk(SIZE) for _ in range(2)]
    for primary in primaries:
        run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=16", "oflag=direct")
    with patient():
        processes = [
            dmsnap_process("protect", primary, "--name", lab.name(), "--recovery", recovery,
                           "--store", store)
            for primary in primaries
        ]  # fmt: skip
        ends = [process.communicate(timeout=600)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, ExitCode.ALREADY_PROTECTED], ends
    winner = primaries[codes.index(0)]
    (status,) = dmsnap("status")
    assert status["device"] == winner
    assert sha256(recovery, SIZE) == sha256(winner)
    assert len(dm_devices()) == 2


def test_a_command_that_works_on_a_volume_is_no_fault_of_it(lab: Lab) -> None:
    """While it is at work, devices and label are on their way: status says who it is."""
    name = protected(lab)
    run("dmsetup", "suspend", name)
    try:
        with volume_lock(LOCKS, name, 0, command="dmsnap sync it"):
            (status,) = dmsnap("status", name)
            assert "dmsnap sync it" in status["running"]
            assert status["problems"] == []
        (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
        assert status["running"] is None
        assert any("suspended" in problem for problem in status["problems"])
    finally:
        run("dmsetup", "resume", name)


def test_looking_at_points_records_nothing(lab: Lab) -> None:
    """Listing holds no lock: what it wrote would undo what a command records meanwhile."""
    name = protected(lab)
    (live,) = dmsnap("point", "create", name)
    (device,) = (row for row in dm_devices() if "-point-" in row)
    run("dmsetup", "remove", device)
    with Session.open() as session:
        before = session.catalogue.points()
        (shown,) = [point for point in dmsnap("point", "list", name) if point["id"] == live["id"]]
        assert shown["places"] == []
        assert session.catalogue.points() == before
    # The next command on the volume records it, and does not wait for the point to come back.
    dmsnap("sync", name)
    assert "gone" in dmsnap("point", "show", live["id"])["invalid_reason"]
