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
from collections.abc import Callable, Collection

from dmsnap.host.hook import VARIABLE_PREFIX
from dmsnap.host.mountinfo import PROC, lines_of
from dmsnap.host.process import called, command_of
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

    def is_hook(pid: int) -> bool:
        started_with = _environment(pid)
        return (
            started_with.get(STARTED_BY) == str(command)
            and volume in started_with.get(f"{VARIABLE_PREFIX}VOLUMES", "").split()
            and started_with.get(f"{VARIABLE_PREFIX}PHASE") in phases
            and _session(pid) != os.getsid(0)
            and _was_started_by_us(pid)
        )

    _kill_hooks(is_hook, time.monotonic() + wait_seconds)


def wait_for_lvm(command: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Wait for what a killed command had LVM do; one that hangs with its disks is only told.

    To kill it would leave a volume group that others share as it is just then.
    """
    named = (int(entry.name) for entry in called("lvm", proc=PROC))
    _wait([pid for pid in named if _was_started_by(pid, command)], time.monotonic() + wait_seconds)


def _kill_hooks(is_hook: Callable[[int], bool], ends: float) -> None:
    """Again while there are new ones: a hook may just be starting something.

    All that is in a session goes where its leader is a hook, as each is that we start. What else
    carries the marks may be in the session of somebody's shell.
    """
    seen: set[int] = set()
    sessions: set[int] = set()

    def is_meant(pid: int) -> bool:
        return _session(pid) in sessions or is_hook(pid)

    while True:
        hooks = {pid for pid in _processes() if is_hook(pid)}
        sessions.update(pid for pid in hooks if _session(pid) == pid)
        found = (hooks | _members(sessions)) - seen
        if not found:
            return
        for pid in found:
            _kill(pid, is_meant)
        _wait(found, ends)
        seen |= found


def _members(sessions: Collection[int]) -> set[int]:
    return {pid for pid in _processes() if _session(pid) in sessions}


def _kill(pid: int, is_meant: Callable[[int], bool]) -> None:
    """Unless the number is another's by now."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if is_meant(pid):
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


def _was_started_by_us(pid: int) -> bool:
    """Whether our user has started a process, and not only owns it: of a program that is set-uid
    root, such as passwd(1), the environment is that of whoever runs it, and so is the name, which
    its status has first.
    """
    try:
        lines = lines_of(PROC / str(pid) / "status")
    except OSError:
        return False
    real = next((line.split()[1:2] for line in lines if line.startswith("Uid:")), None)
    return real == [str(os.geteuid())]


def _was_started_by(pid: int, command: int) -> bool:
    """Whether a command started a process, or what it started."""
    return _environment(pid).get(STARTED_BY) == str(command) and _was_started_by_us(pid)
