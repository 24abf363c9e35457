"""What a computer has to show after a crash, whatever became of the operation."""

from harness.computer import Computer

from crashes.judgement import Facts
from crashes.subject import MOUNT_POINT, NAME, Scenario

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
        prove_recoverable(made, facts)
        return
    assert not [each for each in facts["contents"] if each.get("e2fsck", 0)]  # type: ignore[attr-defined]
    if not facts["volumes"] and not facts["note"]:
        return  # nothing is left, or there yet, that could be mounted
    prove_in_use(made, scenario, facts)


def prove_recoverable(made: Computer, facts: Facts) -> None:
    """There is no primary: the volume is in trial, or the next swap has it so; and it is kept."""
    if dict(facts["volumes"])[NAME] != "trial":  # type: ignore[call-overload]
        made.dmsnap("swap", NAME)
    source = made.run("findmnt", "-no", "SOURCE", "-M", MOUNT_POINT).strip()
    assert source == f"/dev/mapper/{NAME}", source
    made.shell(
        f"sha256sum --quiet -c /var/kept.sum; echo x >{MOUNT_POINT}/probe; sync -f {MOUNT_POINT}",
        timeout=WRITE_SECONDS,
    )
    made.dmsnap("swap", "commit", NAME)
    made.shell(f"umount {MOUNT_POINT}; e2fsck -fn {source}")


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
    mounted = f"/dev/mapper/{NAME}" if state else made.run("findmnt", "-sno", "SOURCE", MOUNT_POINT)
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
