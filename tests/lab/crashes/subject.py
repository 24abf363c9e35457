"""The computer that is crashed: a volume with content, and what operations find prepared."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

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
    DISK-name a device. What ``at_boot`` does is part of every boot; what ``shows`` prints is, as
    all else, as before the operation or as after it. What is ``unplugged`` is so from the boot of
    the crash on.
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
    unplugged: Sequence[str] = ()


def prepare(computer: Computer, scenario: Scenario) -> None:
    """From empty disks to the moment before the operation."""
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


PROTECT = ("protect", "DISK-data", "--name", NAME, "--recovery", "DISK-recovery", "--store", STORE)
SYNCED: tuple[Entry, ...] = ("second", ("sync", NAME), "third")
TRIED = (*SYNCED, ("swap", NAME), "trial")
TRIED_EARLIER = (*SYNCED, ("swap", NAME, "--to", "POINT-2"), "trial")
LIVE = (*SYNCED, ("point", "create", NAME), "fourth")
TRIED_LIVE = (*LIVE, ("swap", NAME, "--to", "POINT-1"), "trial")
COMMITTED = (*TRIED, ("swap", "commit", NAME), "promoted")
HYDRATE = ("hydrate", NAME, "--onto", "DISK-other")
TO = ("--portal", "127.0.0.1", "--initiator", "iqn.2026-01.org.example.lab:nobody")
# The catalogue is gone, and the volume's own device; fstab names the front that is to come.
FORGOTTEN = (
    *SYNCED,
    ("unprotect", NAME),
    Script(f"""
        rm -r /var/lib/dmsnap; umount {MOUNT_POINT}; mkfs.ext4 -q -F DISK-data
        sed -i "s|^DISK-data |/dev/mapper/{NAME} |" /etc/fstab
    """),
)
FROM_LABEL = ("swap", "--from-label", "DISK-recovery", "--store", STORE)
# The volume is a logical volume of the other disk, in use all the time.
LOGICAL = Script(f"""
    export DM_DISABLE_UDEV=1
    vgcreate -qq --yes vg DISK-other; lvcreate -qq --yes -L 24M -n lv vg
    mkfs.ext4 -q /dev/mapper/vg-lv; mkdir /former; mount --move {MOUNT_POINT} /former
    sed -i "s|^DISK-data |/dev/mapper/vg-lv |" /etc/fstab; mount {MOUNT_POINT}
    cp -t {MOUNT_POINT} /former/kept /former/note /former/bulk; umount /former
""")
PROTECT_LIVE = ("protect", "/dev/mapper/vg-lv", "--live", *PROTECT[2:])
GROUPED = Script("""
    export DM_DISABLE_UDEV=1
    vgcreate -qq --yes vg DISK-recovery; lvcreate -qq --yes -L 16M -n lv vg
    head -c 16M /dev/urandom >/dev/mapper/vg-lv
""")
ACTIVATED = Script("modprobe -a dm-snapshot; DM_DISABLE_UDEV=1 vgchange -qq -ay vg")
# The logical volume and its snapshot have the same content.
SNAPPED = Script("""
    for name in lv $(lvs --noheadings -o lv_name vg | grep dmsnap-snapshot); do
        sha256sum <"/dev/mapper/vg-${name//-/--}"
    done
""")
# A copy cannot be seen, or it is whole.
COPIED = Script(f"""
    if [ -z "$(blkid -p -o value -s TYPE DISK-other || true)" ]; then echo nothing
    elif cmp DISK-other /dev/mapper/dmsnap-{NAME}-point-*; then echo whole; fi
""")
EXPORT = ("export", "POINT-2", *TO)
EXPORT_DEVICE = ("export", "DISK-other", *TO)

# Nobody waits for a disk that is gone.
IMPATIENT = Script("echo 'boot_wait_seconds = 1' >/etc/dmsnap/dmsnap.toml")

SCENARIOS = (
    Scenario("protect", "protect", PROTECT, protected=False),
    Scenario("protect again", "protect", PROTECT, (*SYNCED, ("unprotect", NAME), "fourth")),
    Scenario(
        "protect --live",
        "protect",
        PROTECT_LIVE,
        (LOGICAL,),
        protected=False,
        at_boot=(ACTIVATED,),
    ),
    Scenario("unprotect", "unprotect", ("unprotect", NAME), SYNCED),
    Scenario(
        "unprotect, from-label",
        "unprotect",
        ("unprotect", NAME),
        (*FORGOTTEN, FROM_LABEL, "trial"),
    ),
    Scenario("unprotect --forget", "unprotect", ("unprotect", NAME, "--forget"), SYNCED),
    Scenario("assemble", "assemble", ("assemble", NAME), SYNCED, assembled=False),
    Scenario("point create", "point create", ("point", "create", NAME), SYNCED),
    Scenario(
        "point delete, live",
        "point delete",
        ("point", "delete", "POINT-1"),
        SYNCED,
        (("point", "create", NAME),),
    ),
    Scenario("point delete, history", "point delete", ("point", "delete", "POINT-2"), SYNCED),
    Scenario(
        "point delete, middle",
        "point delete",
        ("point", "delete", "POINT-2"),
        (*SYNCED, ("sync", NAME), "fourth"),
    ),
    Scenario("point keep", "point keep", ("point", "keep", "POINT-2"), SYNCED),
    Scenario(
        "point set",
        "point set",
        ("point", "set", "POINT-2", "--keep", "--expires", "2200-01-01", "--comment", "a test"),
        SYNCED,
    ),
    Scenario(
        "point copy",
        "point copy",
        ("point", "copy", "POINT-1", "--onto", "DISK-other"),
        SYNCED,
        (("point", "create", NAME),),
        shows=COPIED,
    ),
    Scenario(
        "snapshot create",
        "snapshot create",
        ("snapshot", "create", "vg/lv"),
        (GROUPED,),
        protected=False,
        at_boot=(ACTIVATED,),
        shows=SNAPPED,
    ),
    Scenario(
        "snapshot delete",
        "snapshot delete",
        ("snapshot", "delete", "SNAPSHOT-1"),
        (GROUPED, ("snapshot", "create", "vg/lv")),
        protected=False,
        at_boot=(ACTIVATED,),
        shows=SNAPPED,
    ),
    Scenario(
        "prune",
        "prune",
        ("prune", NAME),
        (*SYNCED, ("sync", NAME), "fourth", ("point", "keep", "POINT-3")),
    ),
    Scenario("point mount", "point mount", ("point", "mount", "POINT-2"), SYNCED),
    Scenario(
        "point umount",
        "point umount",
        ("point", "umount", "POINT-2"),
        SYNCED,
        (("point", "mount", "POINT-2"),),
    ),
    Scenario("sync", "sync", ("sync", NAME), SYNCED, (("sync", NAME), "fourth")),
    Scenario("sync, compared", "sync", ("sync", NAME, "--audit", "full"), SYNCED),
    Scenario(
        "sync --from",
        "sync",
        ("sync", NAME, "--from", "POINT-1"),
        SYNCED,
        (("point", "create", NAME), "fourth"),
    ),
    Scenario("verify", "verify", ("verify", NAME, "--full"), SYNCED, (("sync", NAME),)),
    Scenario("swap", "swap", ("swap", NAME), SYNCED),
    Scenario("swap, earlier point", "swap", ("swap", NAME, "--to", "POINT-2"), SYNCED),
    Scenario("swap, no primary", "swap", ("swap", NAME), (*SYNCED, IMPATIENT), unplugged=("data",)),
    Scenario("swap --from-label", "swap from-label", FROM_LABEL, FORGOTTEN),
    Scenario("swap extend", "swap extend", ("swap", "extend", NAME), TRIED),
    Scenario("swap revert", "swap revert", ("swap", "revert", NAME), TRIED),
    Scenario("swap commit", "swap commit", ("swap", "commit", NAME), TRIED),
    Scenario("swap commit, earlier", "swap commit", ("swap", "commit", NAME), TRIED_EARLIER),
    Scenario("swap commit, live", "swap commit", ("swap", "commit", NAME), TRIED_LIVE),
    Scenario("hydrate", "hydrate", HYDRATE, SYNCED),
    Scenario("hydrate, promoted", "hydrate", HYDRATE, COMMITTED, enlarged=("other",)),
    Scenario("resize", "resize", ("resize", NAME), SYNCED, enlarged=("data",)),
    Scenario(
        "resize, both disks", "resize", ("resize", NAME), SYNCED, enlarged=("data", "recovery")
    ),
    Scenario(
        "resize, promoted", "resize", ("resize", NAME), COMMITTED, enlarged=("data", "recovery")
    ),
    Scenario(
        "resize --give-up-former",
        "resize",
        ("resize", NAME, "--give-up-former"),
        COMMITTED,
        enlarged=("recovery",),
    ),
    Scenario("failback", "failback", ("failback", NAME), COMMITTED),
    Scenario("attach", "attach", ("attach", NAME, "--recovery", "DISK-third"), COMMITTED),
    Scenario("export", "export", EXPORT, SYNCED),
    Scenario("export, a device", "export", EXPORT_DEVICE, protected=False),
    Scenario(
        "unexport, a device",
        "unexport",
        ("unexport", "DISK-other"),
        after_boot=(EXPORT_DEVICE,),
        protected=False,
    ),
    Scenario("export restore", "export restore", ("export", "restore"), (*SYNCED, EXPORT)),
    Scenario("unexport", "unexport", ("unexport", "POINT-2"), SYNCED, (EXPORT,)),
    Scenario(
        "lun swap", "lun swap", ("lun", "swap", "POINT-2", "--to", "DISK-other"), SYNCED, (EXPORT,)
    ),
)
