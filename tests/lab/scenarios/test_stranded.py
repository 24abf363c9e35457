"""Units that are stopped in a window that hangs: what it has suspended is resumed all the same.

By the watchdog, which SendSIGKILL=no of dmsnap's units lets live; and where that was killed, too,
by what dmsnapd begins.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MIB, Lab, dmsnap, run, suspended
from faulty_disk import FaultyDisk, faulty_disk
from patience import requests_under_way, until
from raw_volume import Protected, fill
from test_service import UNIT, eventually, journal, policies, service, shown

pytestmark = pytest.mark.systemd

__all__ = ["policies", "service"]  # fixtures

SIZE = 32 * MIB
PART = (SIZE // 2, MIB)
POLICY = "often"
POINTS = f"dmsnap-policy@{POLICY}.service"
STOP_SECONDS = 2
# So long that nothing but a kill, or this, ends a window: a busy guest is slow to stop a unit.
DEADLINE_SECONDS = 30
DECLARED = f"""
window_deadline_ms = {DEADLINE_SECONDS * 1000}
[policy.{POLICY}]
make = "snapshot"
[subclient.one]
volumes = ["{{name}}"]
policy = "{POLICY}"
"""


@contextmanager
def stopped_within(seconds: int, *, kill: bool = False) -> Iterator[None]:
    """Have the unit of a policy's points take so long to stop; ``kill``: as it is not shipped."""
    path = Path("/run/systemd/system/dmsnap-policy@.service.d/lab.conf")
    path.parent.mkdir(parents=True)
    killing = "SendSIGKILL=yes\nKillMode=control-group\n" if kill else ""
    path.write_text(f"[Service]\nTimeoutStopSec={seconds}\n{killing}")
    run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        path.unlink()
        path.parent.rmdir()
        run("systemctl", "daemon-reload")
        run("systemctl", "reset-failed", POINTS, expected=None)


@contextmanager
def hanging(volume: Protected, disk: FaultyDisk) -> Iterator[None]:
    """A part of the disk answers nobody, and somebody waits for it who came past the front.

    So the front is suspended, as nothing of its own is under way, and its origin cannot be. Who
    asks the disk whether it hangs reads its ends.
    """
    origin = f"dmsnap-{volume.name}-origin-1"
    disk.load((PART, "hold_reads"))
    count = ("bs=4k", "count=1", f"skip={PART[0] // 4096}", "iflag=direct")
    with subprocess.Popen(
        ["dd", f"if=/dev/mapper/{origin}", "of=/dev/null", *count], stderr=subprocess.DEVNULL
    ) as reader:
        try:
            until(lambda: requests_under_way(origin), "dd waits for the disk")
            yield
        finally:
            disk.load()
            reader.wait()


@pytest.fixture
def volume(lab: Lab, disk: FaultyDisk, policies: Callable[[str], None]) -> Protected:
    """A raw volume on that disk, of which a policy takes points."""
    fill(disk.device, SIZE)
    recovery = lab.disk(2 * SIZE)
    volume = Protected(lab.protect(disk.path, recovery), disk.path, recovery, SIZE)
    policies(DECLARED.format(name=volume.name))
    return volume


@pytest.fixture
def disk(lab: Lab) -> Iterator[FaultyDisk]:
    with faulty_disk(lab, SIZE) as made:
        yield made
        lab.take_down()


def processes() -> dict[str, int]:
    """Those of the unit, by what they are."""
    group = Path("/sys/fs/cgroup") / shown("ControlGroup", POINTS).lstrip("/")
    found = {}
    for number in (group / "cgroup.procs").read_text().split():
        name = Path(f"/proc/{number}/comm").read_text().strip()
        found["watchdog" if name.startswith("dmsnap-watch") else "command"] = int(number)
    return found


def begin_points(volume: Protected) -> dict[str, int]:
    """Begin to take points; the processes of the unit when the front is suspended."""
    run("systemctl", "start", "--no-block", POINTS)
    until(lambda: volume.name in suspended(), "the front is suspended")
    found = processes()
    assert set(found) == {"command", "watchdog"}
    return found


def is_there(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def check_usable(volume: Protected) -> None:
    """It takes points and writes, and tracking was not misled."""
    dmsnap("point", "create", volume.name)
    dmsnap("sync", volume.name, "--audit", "full")
    volume.check_equal()


def test_a_unit_that_is_stopped_in_a_window_leaves_the_watchdog(
    volume: Protected, disk: FaultyDisk
) -> None:
    with stopped_within(STOP_SECONDS), hanging(volume, disk):
        found = begin_points(volume)
        run("systemctl", "stop", POINTS)
        assert all(map(is_there, found.values()))
        assert volume.name in suspended()
        assert shown("Result", POINTS) == "timeout"
        assert any("SIGKILL" in line for line in journal(unit=POINTS)), journal(unit=POINTS)
        # By its deadline, and not because the disk answers.
        until(
            lambda: volume.name not in suspended(),
            "the watchdog resumes the front",
            2 * DEADLINE_SECONDS,
        )
        until(lambda: not any(map(is_there, found.values())), "both are at their end")
    check_usable(volume)


def test_a_command_that_is_killed_when_its_unit_was_stopped(
    volume: Protected, disk: FaultyDisk
) -> None:
    """At once, and not only when the deadline passes."""
    with stopped_within(STOP_SECONDS), hanging(volume, disk):
        found = begin_points(volume)
        seen = time.monotonic()
        run("systemctl", "stop", POINTS)
        os.kill(found["command"], signal.SIGKILL)
        until(lambda: volume.name not in suspended(), "the watchdog resumes the front")
        assert time.monotonic() - seen < DEADLINE_SECONDS * 3 / 4
        until(lambda: not is_there(found["watchdog"]), "the watchdog is at its end")
    check_usable(volume)


@pytest.mark.usefixtures("service")
def test_where_the_watchdog_was_killed_the_service_has_the_front_resumed(
    volume: Protected, disk: FaultyDisk
) -> None:
    """The unit as systemd would have it by itself: the front stays suspended, until it looks."""
    run("systemctl", "start", UNIT)
    with stopped_within(STOP_SECONDS, kill=True), hanging(volume, disk):
        found = begin_points(volume)
        run("systemctl", "stop", POINTS)
        until(lambda: not any(map(is_there, found.values())), "both were killed")
        eventually(lambda: volume.name not in suspended(), "the service has the front resumed")
        assert any("left suspended" in line for line in journal()), journal()
    resuming = f"dmsnap-resume@{volume.name}.service"  # the front first, then the job
    eventually(lambda: any("undone" in line for line in journal(unit=resuming)), "it is undone")
    check_usable(volume)
