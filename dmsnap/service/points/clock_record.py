"""What the clock said before, in a small file: whether ages can be told by it now.

Pruning reads it, and the service and every boot: else of a policy with rare runs on a host that
boots in between nothing would be known but that much time seems to have passed.
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from dmsnap.errors import DmsnapError
from dmsnap.host import kernel, synchronisation
from dmsnap.host.locks import directory_lock
from dmsnap.host.replacement import replace_file
from dmsnap.host.sysfs import SYSFS
from dmsnap.host.system_call import system_call
from dmsnap.policy import chronology
from dmsnap.policy.chronology import Reading

log = logging.getLogger(__name__)

FILE = "clock.json"
# From that every clock has gone back.
UNKNOWN = Reading(2**63 - 1, 0, "")


def trusted_now(directory: Path, *, recording: bool) -> int | None:
    """Nanoseconds since the epoch; None while the clock is in doubt.

    ``directory`` is the state directory. With ``recording`` the clock is read for the next time,
    too, before anything goes by it; without, nothing is changed.
    """
    path = directory / FILE
    with directory_lock(directory) if recording else nullcontext():
        earlier = recorded(path)
        now = reading()
        own_clock, own_ns = SYSFS.has_own_clock(), SYSFS.own_clock_ns()
        if own_ns is not None:
            now = replace(now, lost=chronology.has_lost_time(earlier, now.boot_id, own_ns))
        if recording:
            kept = chronology.worth_keeping(earlier, now, own_clock=own_clock)
            if kept != earlier:
                record(path, kept)
    return chronology.trusted_now(
        earlier, now, own_clock=own_clock, synchronised=synchronisation.is_synchronised()
    )


def note(directory: Path) -> None:
    """Read the clock for the next time. What keeps it from that is said, and keeps nobody else."""
    try:
        trusted_now(directory, recording=True)
    except DmsnapError as error:
        log.warning("what the clock says is not recorded: %s", error)


def reading() -> Reading:
    """Both clocks, now."""
    return Reading(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), kernel.boot_id())


def record(path: Path, readings: Sequence[Reading]) -> None:
    """Put ``readings`` in the place of those that were there."""
    replace_file(path, json.dumps([asdict(each) for each in readings]) + "\n")


def recorded(path: Path) -> list[Reading]:
    """The former readings, oldest first. Where they cannot be told any more, as good as a jump."""
    with system_call(f"read {path}"):
        try:
            text = path.read_text()
        except FileNotFoundError:
            return []
        except UnicodeDecodeError:
            text = ""
    try:
        return [_reading(**each) for each in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return [UNKNOWN]


def _reading(*, wall_ns: int, boottime_ns: int, boot_id: str, lost: bool = False) -> Reading:
    return Reading(int(wall_ns), int(boottime_ns), str(boot_id), bool(lost))
