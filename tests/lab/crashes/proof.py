"""What a computer has to show after a crash, whatever became of the operation."""

from harness.computer import Computer

from crashes.booting import recover
from crashes.judgement import Facts
from crashes.subject import MOUNT_POINT, NAME, PROTECT, Scenario, filled_in

FRONT = f"/dev/mapper/{NAME}"
WRITE_SECONDS = 300
RECORDED = """
import sqlite3
catalogue = sqlite3.connect("file:/var/lib/dmsnap/catalogue.db?mode=ro", uri=True)
print(*catalogue.execute("SELECT recovery FROM volume WHERE removed_ns IS NULL").fetchone())
"""


def prove(made: Computer, scenario: Scenario, facts: Facts) -> None:
    """The volume is whole and can be written to, and the next sync equals it."""
    assert facts["suspended"] == []
    assert facts["unfinished"] == []
    if scenario.unplugged:
        prove_without(made, scenario, facts)
        return
    assert not [each for each in facts["contents"] if each.get("e2fsck", 0)]  # type: ignore[attr-defined]
    if not facts["volumes"] and not facts["note"]:
        return  # nothing is left, or there yet, that could be mounted
    prove_in_use(made, scenario, facts)


def prove_without(made: Computer, scenario: Scenario, facts: Facts) -> None:
    """A disk is gone: the volume goes on by the other one, with what was kept in it."""
    state = dict(facts["volumes"]).get(NAME)  # type: ignore[call-overload]
    if state is None:
        prove_taken_down(made, scenario)
        return
    if "recovery" in scenario.unplugged:
        prove_given_up(made, scenario, state)
        return
    if state == "protected" and scenario.recovery == "recovery":
        made.dmsnap("swap", NAME)
        state = "trial"
    require_use(made)
    if state == "trial":
        made.dmsnap("swap", "commit", NAME)
    if state != "protected":
        made.dmsnap("attach", NAME, "--recovery", made.device("third"))
    prove_synced(made, scenario)


def prove_given_up(made: Computer, scenario: Scenario, state: str) -> None:
    """The trial's replica is gone, and not for good: without it the volume goes back to its
    primary, and once it is there again it is brought up to date.
    """
    if state == "trial":
        made.dmsnap("swap", "revert", NAME)
    require_use(made)
    made.reboot()
    recover(made, scenario)
    require_use(made)
    require_left(made, scenario)
    if scenario.obstructed:
        # Half of it is merged: it is copied in full before it is a point again.
        made.dmsnap("unprotect", NAME)
        made.dmsnap(*filled_in(made, PROTECT), "--overwrite")
    prove_synced(made, scenario)


def prove_taken_down(made: Computer, scenario: Scenario) -> None:
    """Nothing of the volume is known any more: once its disks are there again its own is mounted,
    as it was left, and protected anew.
    """
    made.reboot()
    recover(made, scenario)
    require_left(made, scenario)
    made.dmsnap(*filled_in(made, PROTECT))
    require_use(made)
    prove_synced(made, scenario)


def require_left(made: Computer, scenario: Scenario) -> None:
    """What is mounted is what was there when the trial began: of that nothing is in it."""
    *_, left, _trial = [entry for entry in scenario.before if isinstance(entry, str)]
    note = made.shell(f"cat {MOUNT_POINT}/note; sha256sum --quiet -c /var/kept.sum").strip()
    assert note == left, note


def require_use(made: Computer) -> None:
    """The front is mounted, and can be written to."""
    source = made.run("findmnt", "-no", "SOURCE", "-M", MOUNT_POINT).strip()
    assert source == FRONT, source
    made.shell(
        f"sha256sum --quiet -c /var/kept.sum; echo x >{MOUNT_POINT}/probe; sync -f {MOUNT_POINT}",
        timeout=WRITE_SECONDS,
    )


def prove_synced(made: Computer, scenario: Scenario) -> None:
    """The recovery volume can be brought up to date, and is then what the volume is."""
    made.dmsnap("sync", NAME, "--audit", "full")
    made.shell(f"umount {MOUNT_POINT}; e2fsck -fn {FRONT}")
    prove_equal(made, scenario, FRONT)


def prove_in_use(made: Computer, scenario: Scenario, facts: Facts) -> None:
    """It is mounted as it should be, with what was kept in it; it goes back where it can, and is
    synced.
    """
    made.shell(
        f"sha256sum --quiet -c /var/kept.sum; echo x >{MOUNT_POINT}/probe; sync -f {MOUNT_POINT}; "
        f"rm {MOUNT_POINT}/probe",
        timeout=WRITE_SECONDS,
    )
    state = dict(facts["volumes"]).get(NAME)  # type: ignore[call-overload]
    mounted = FRONT if state else made.run("findmnt", "-sno", "SOURCE", MOUNT_POINT)
    mounted = mounted.strip()
    source = made.run("findmnt", "-no", "SOURCE", "-M", MOUNT_POINT).strip()
    assert source == mounted, source
    # Of what was recovered by a label alone nothing may be left to go back to, or to sync.
    has_way_back = all(backing for backing, _recovery in facts["places"])  # type: ignore[attr-defined]
    if state == "trial" and has_way_back:
        made.dmsnap("swap", "revert", NAME)
        state = "protected"
    if state == "promoted" and facts["way_back"]:
        made.dmsnap("failback", NAME)
        state = "protected"
    # Who claims the recovery volume is asked for again where that was what the operation was for.
    claiming = [word for word in scenario.words if word == "--force"]
    if state == "protected":
        made.dmsnap("sync", NAME, "--audit", "full", *claiming)
    if scenario.units:
        made.run("systemctl", "stop", *scenario.units)
    made.shell(f"umount {MOUNT_POINT}; e2fsck -fn {mounted}")
    if state == "protected":
        prove_equal(made, scenario, mounted)


def prove_equal(made: Computer, scenario: Scenario, front: str) -> None:
    """Another sync, as the unmount wrote to the file system; the check only read."""
    made.dmsnap("sync", NAME)
    recorded = made.python(RECORDED).strip()
    recovery = recorded if recorded.startswith("/dev/") else made.device(scenario.recovery)
    size_bytes = made.run("blockdev", "--getsize64", front).strip()
    # What a LUN's target wrote went past what is cached of its disk.
    made.run("blockdev", "--flushbufs", recovery)
    made.run("cmp", "-n", size_bytes, front, recovery)
