"""Programs that a command had started, and that outlived it when it was killed.

They run in sessions of their own, and know nothing of the lock that their command held. To have
them inherit that was the alternative: a hook that leaves something running, or a program that hangs
with its device, would keep everybody from the volume for good.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Collection

from dmsnap.host.hook import VARIABLE_PREFIX
from dmsnap.host.mountinfo import PROC
from dmsnap.host.process import command_of
from dmsnap.host.run import STARTED_BY

log = logging.getLogger(__name__)

WAIT_SECONDS = 10.0


def end_hooks(
    command: int, volume: str, phases: Collection[str], *, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Kill the hooks of some phases that a killed command had started, and what they had started.

    As at their deadline. ``command`` was its process id, and ``volume`` is one that it worked on,
    whose lock the caller has: a hook of a command that lives is for others. What does not end in
    ``wait_seconds`` is told. Root.
    """
    found = [
        pid
        for pid, started_with in _started_by(command)
        if volume in started_with.get(f"{VARIABLE_PREFIX}VOLUMES", "").split()
        and started_with.get(f"{VARIABLE_PREFIX}PHASE") in phases
    ]
    ends = time.monotonic() + wait_seconds
    _kill_sessions({_session(pid) for pid in found} - {None, os.getsid(0)}, ends)


def wait_for_lvm(command: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Wait for what a killed command had LVM do; one that hangs with its disks is only told.

    To kill it would leave a volume group that others share as it is just then.
    """
    found = [pid for pid, _ in _started_by(command) if command_of(pid) == "lvm"]
    _wait(found, time.monotonic() + wait_seconds)


def _kill_sessions(sessions: Collection[int | None], ends: float) -> None:
    """Again while there are new ones in them: a hook may just be starting something."""
    seen: set[int] = set()
    while sessions and (found := _members(sessions) - seen):
        for pid in found:
            _kill(pid, sessions)
        _wait(found, ends)
        seen |= found


def _members(sessions: Collection[int | None]) -> set[int]:
    return {pid for pid in _processes() if _session(pid) in sessions}


def _kill(pid: int, sessions: Collection[int | None]) -> None:
    """Unless the number is another's by now."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _session(pid) in sessions:
            log.warning("%s (pid %d) of a command that was killed is ended", command_of(pid), pid)
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


def _wait(pids: Collection[int], ends: float) -> None:
    for pid in pids:
        if not _has_ended(pid, ends):
            log.warning("%s (pid %d) of a command that was killed goes on", command_of(pid), pid)


def _has_ended(pid: int, ends: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        left_seconds = max(0.0, ends - time.monotonic())
        return bool(select.select([process], [], [], left_seconds)[0])
    finally:
        os.close(process)


def _processes() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _environment(pid: int) -> dict[str, str]:
    """What a process of ours was started with; nothing for one that is gone.

    Anybody can start something with the same, and in a session that is not his.
    """
    try:
        path = PROC / str(pid)
        if path.stat().st_uid != os.geteuid():
            return {}
        text = (path / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def _started_by(command: int) -> list[tuple[int, dict[str, str]]]:
    """Processes that a command started, or what it started, and what with."""
    every = [(pid, _environment(pid)) for pid in _processes()]
    return [(pid, found) for pid, found in every if found.get(STARTED_BY) == str(command)]
