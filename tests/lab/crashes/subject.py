"""The computer that is crashed: a volume with content, and what operations find prepared."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.arguments import Init
from harness.computer import Computer

MIB = 1 << 20
NAME = "data"
STORE = "/store"
MOUNT_POINT = "/data"
MACHINE_ID = "3f" * 16  # a host without one claims no recovery volume

# Only `prune` goes by it.
POLICY = f"""
[policy.few]
primary = {{ minimum = 1 }}
history = {{ minimum = 1 }}
[subclient.all]
volumes = ["{NAME}"]
policy = "few"
"""

DISKS = {
    "data": 32 * MIB,
    "recovery": 64 * MIB,
    "store": 256 * MIB,
    "other": 32 * MIB,
    "third": 64 * MIB,
}
# What disks have from the boot of the crash on, where they are made larger.
LARGER = {"data": 48 * MIB, "recovery": 96 * MIB, "other": 48 * MIB}

PROTECT = ("protect", "DISK-data", "--name", NAME, "--recovery", "DISK-recovery", "--store", STORE)

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Script:
    """What is done by the shell."""

    text: str


Entry = Words | str | Script


@dataclass(frozen=True)
class Scenario:
    """An operation, and what comes before it: in the boot before, and in that of the crash.

    A text among it is written to the volume. POINT-n is the n-th last point, SNAPSHOT-n snapshot,
    DISK-name a device. What ``at_boot`` does is part of every boot, and what ``at_last`` does comes
    at its end; what ``shows`` prints is, as all else, as before the operation or as after it. What
    is ``unplugged`` is so from the boot of the crash on.

    ``changed``, and what is ``enlarged``, comes behind ``before``, and where it ``mends_label`` the
    operation finds the label in another place than its own, or another host's. ``only`` names the
    steps at which the plug is pulled, where other scenarios have the others; ``undone`` is what
    the command has done in any case, where the operation is what it begins behind that. Live points
    that it ``drops`` any boot drops, too: recorded as lost, or deleted, is the same then.
    ``recovery`` is the disk that the recovery volume is on, ``units`` what uses the volume. Where
    it is ``obstructed`` there is a job before it that no boot brings to its end: it gives that up.
    """

    name: str
    operation: str
    words: Words
    before: Sequence[Entry] = ()
    after_boot: Sequence[Entry] = ()
    protected: bool = True
    assembled: bool = True
    enlarged: Sequence[str] = ()
    at_boot: Sequence[Script] = ()
    shows: Script | None = None
    at_last: Sequence[Script] = ()
    unplugged: Sequence[str] = ()
    changed: Sequence[Script] = ()
    mends_label: bool = False
    only: Sequence[str] = ()
    undone: Sequence[Entry] = ()
    drops: bool = False
    recovery: str = "recovery"
    init: Init = "minimal"
    units: Sequence[str] = ()
    obstructed: bool = False


def prepare(computer: Computer, scenario: Scenario) -> None:
    """From empty disks to the moment before the operation, and what changes then."""
    computer.boot()
    device, store = computer.device("data"), computer.device("store")
    computer.shell(f"""
        echo {MACHINE_ID} >/etc/machine-id
        mkfs.ext4 -q {store}; mkfs.ext4 -q {device}
        mkdir -p {STORE} {MOUNT_POINT}
        echo "{store} {STORE} ext4 noatime 0 0" >>/etc/fstab
        echo "{device} {MOUNT_POINT} ext4 noatime,nodev 0 0" >>/etc/fstab
        mount {STORE}; mount {MOUNT_POINT}
        head -c 4M /dev/urandom >{MOUNT_POINT}/kept
        sha256sum {MOUNT_POINT}/kept >/var/kept.sum
        mkdir -p /etc/dmsnap; printf '%s' '{POLICY}' >/etc/dmsnap/policy.toml
    """)
    write(computer, "first")
    if scenario.protected:
        computer.dmsnap(*filled_in(computer, PROTECT))
    do(computer, scenario.before)
    computer.power_off()


def change(computer: Computer, scenario: Scenario) -> None:
    """What happens to the computer, and to its disks, between that and the operation."""
    if scenario.changed:
        computer.boot()
        do(computer, scenario.changed)
        computer.power_off()
    for name in scenario.enlarged:
        os.truncate(computer.disks[name], LARGER[name])


def do(computer: Computer, entries: Sequence[Entry]) -> None:
    """Write texts, run scripts and commands."""
    for entry in entries:
        if isinstance(entry, str):
            write(computer, entry)
        elif isinstance(entry, Script):
            computer.shell(fill_devices(entry.text, computer))
        else:
            computer.dmsnap(*filled_in(computer, entry))


def write(computer: Computer, text: str) -> None:
    """Change the volume: a note that tells one state from another, and a megabyte besides.

    No two blocks of that are equal, and it is the same whenever the text is: so is what a point
    shows that is taken anew with every boot.
    """
    computer.shell(f"""
        echo {text} >{MOUNT_POINT}/note
        seq -f '{text} %08.0f' 99999 | head -c 1M >{MOUNT_POINT}/bulk
        sync -f {MOUNT_POINT}
    """)


def filled_in(computer: Computer, words: Words) -> list[str]:
    """The command, its points and devices named."""
    points = []
    if any(word.startswith("POINT-") for word in words):
        points = [point["id"] for point in computer.dmsnap("point", "list", NAME)]
    if any(word.startswith("SNAPSHOT-") for word in words):
        points = [snapshot["name"] for snapshot in computer.dmsnap("snapshot", "list")]
    return [fill(word, points, computer) for word in words]


def fill_devices(text: str, computer: Computer) -> str:
    """A script with the devices that it names."""
    return re.sub(r"DISK-(\w+)", lambda found: computer.device(found[1]), text)


def fill(word: str, points: Sequence[str], computer: Computer) -> str:
    """One word of a command."""
    if word.startswith(("POINT-", "SNAPSHOT-")):
        return points[-int(word.partition("-")[2])]
    if word.startswith("DISK-"):
        return computer.device(word.removeprefix("DISK-"))
    return word
