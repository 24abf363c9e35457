"""Every command as users call it: the shapes of results, dry runs, sequences, foreign changes."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from conftest import (
    MIB,
    Lab,
    catalogue_rows,
    configured,
    content_of,
    dm_devices,
    dmsnap,
    forked,
    refused,
    run,
    sha256,
    step_at,
    world,
)

from dmsnap.cli.grammar import Noun
from dmsnap.cli.main import main
from dmsnap.cli.parser import ROOT
from dmsnap.errors import ExitCode
from dmsnap.host.lio import target

SIZE = 64 * MIB
RECOVERY_SIZE = 128 * MIB
DRY_SIZE = 16 * MIB
TO = ("--portal", "127.0.0.1:3271", "--initiator", "iqn.2026-01.org.example.lab:initiator")
LIO = Path("/sys/kernel/config/target")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

SYNC_MEMBERS = {
    "volume", "point", "tracker", "reason", "bytes_dirty", "bytes_compared", "bytes_written",
    "window_seconds", "seconds", "audit",
}  # fmt: skip


def mounted_volume(lab: Lab) -> tuple[str, str, str, Path]:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime,nodev")
    (mount_point / "file").write_text("one")
    return lab.protect(primary, recovery), primary, recovery, mount_point


def raw_volume(lab: Lab) -> tuple[str, str, str]:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dd", "if=/dev/urandom", f"of={primary}", "bs=1M", "count=8", "oflag=direct")
    return lab.protect(primary, recovery), primary, recovery


def write(name: str, megabytes: int = 1, seek: int = 0) -> None:
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", f"count={megabytes}",
        f"seek={seek}", "oflag=direct")  # fmt: skip


# shapes


def require_extents(document: dict[str, Any], limit: int) -> None:
    """Merged, ascending, inside the volume."""
    end = -1
    for offset, length in document["extents"]:
        assert offset > end
        assert length > 0
        end = offset + length
    assert end <= limit


def test_json_shapes(lab: Lab) -> None:
    name, _, recovery = raw_volume(lab)
    write(name, 3, seek=5)
    synced = dmsnap("sync", name, "--audit", "sample")
    assert set(synced) >= SYNC_MEMBERS
    assert UUID(synced["point"])
    assert synced["bytes_dirty"] >= synced["bytes_written"] == 3 * MIB
    assert synced["bytes_compared"] == synced["bytes_dirty"]
    assert synced["audit"]["kind"] == "sample"
    assert 0 < synced["window_seconds"] < synced["seconds"]

    write(name, 2, seek=1)
    metadata = store_file(lab, "era-metadata")
    era = dmsnap("inspect", "era", f"/dev/mapper/{name}", "--since", "0")
    assert list(era)[:5] == ["block_size", "nr_blocks", "current_era", "metadata_snapshot", "since"]
    assert (era["block_size"], era["nr_blocks"]) == (65536, SIZE // 65536)
    require_extents(era, SIZE)
    covered = [range(offset, offset + length) for offset, length in era["extents"]]
    assert any(MIB in extent and 3 * MIB - 1 in extent for extent in covered)
    # The same by the metadata's device, and a later era holds less.
    device = run("losetup", "-n", "-O", "NAME", "-j", metadata).strip()
    assert dmsnap("inspect", "era", device, "--since", "0")["extents"] == era["extents"]
    future = dmsnap("inspect", "era", device, "--since", str(era["current_era"] + 100))
    assert future["extents"] == []

    (point,) = dmsnap("point", "create", name, "--keep")
    assert point["keep"] is True
    assert point["volume"] == name
    assert point["created"].endswith("+00:00") or point["created"].endswith("Z")
    write(name, 1, seek=20)
    store = dmsnap("inspect", "store", store_file(lab, "cow"))
    assert set(store) == {"chunk_size", "valid", "exceptions", "extents"}
    assert (store["chunk_size"], store["valid"]) == (4096, True)
    assert store["exceptions"] == MIB // 4096
    assert store["extents"] == [[20 * MIB, MIB]]

    label = dmsnap("inspect", "label", recovery)
    assert (label["name"], label["state"], label["size_bytes"]) == (name, "consistent", SIZE)
    assert label["point_uuid"] == synced["point"]
    assert len(label["history"]) == 1
    began_ns = time.time_ns()
    (status,) = dmsnap("status", name)
    ages = [(now_ns - label["point_time_ns"]) / 1e9 for now_ns in (began_ns, time.time_ns())]
    assert status["replica"]["point"] == synced["point"]
    assert ages[0] <= status["replica"]["age_seconds"] <= ages[1]
    assert status["problems"] == []
    # As the kernel has it, in sectors.
    (device,) = (row for row in dm_devices() if "-point-" in row)
    used, total = run("dmsetup", "status", device).split()[3].split("/")
    (shown,) = status["live_points"]
    assert (shown["used_bytes"], shown["total_bytes"]) == (int(used) * 512, int(total) * 512)
    assert MIB < shown["used_bytes"] < 2 * MIB
    assert dmsnap("point", "show", point["id"][:8])["id"] == point["id"]
    plan = dmsnap("sync", name, "--dry-run")
    assert plan["operation"] == "sync"
    assert all(isinstance(step, str) for step in plan["steps"])
    checks = dmsnap_any("doctor")
    assert isinstance(checks["ok"], bool)


def dmsnap_any(*words: str) -> Any:
    completed = subprocess.run(["dmsnap", *words, "--json"], capture_output=True, check=False)
    return json.loads(completed.stdout)


def store_file(lab: Lab, role: str) -> str:
    (path,) = (lab.directory / "store").glob(f"*-{role}-*.img")
    return str(path)


def test_text_for_people(lab: Lab) -> None:
    """Without --json, as processes: nothing on stderr, nothing of Python's."""
    name, _, recovery = raw_volume(lab)
    for words in (
        ["status"], ["sync", name, "--audit", "full"], ["point", "create", name],
        ["point", "list"], ["inspect", "label", recovery], ["sync", name, "--dry-run"],
    ):  # fmt: skip
        completed = subprocess.run(["dmsnap", *words], capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed
        assert completed.stderr == ""
        assert completed.stdout.strip()
        assert not re.search(r"None|<[A-Za-z]+ object|UUID\(", completed.stdout)
    failed = subprocess.run(
        ["dmsnap", "sync", "nobody"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == ExitCode.NOT_FOUND
    first, *hints = failed.stderr.splitlines()
    assert first == "dmsnap: there is no protected volume named 'nobody'"
    assert all(line.startswith("hint: ") for line in hints)


# dry runs


def changing(noun: Noun = ROOT, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands that change devices, as they are written; of a noun alone its name."""
    for entry in noun.entries():
        if isinstance(entry, Noun):
            yield from changing(entry, (*words, entry.name))
        elif entry.changes_devices:
            yield " ".join((*words, entry.name))
    if noun.plain is not None and noun.plain.changes_devices:
        yield " ".join(words)


CHANGING = set(changing())
FEW = """
[policy.few]
make = "both"
primary = {{ minimum = 1 }}
history = {{ minimum = 1 }}
[subclient.one]
volumes = ["{name}"]
policy = "few"
"""


class DryRuns:
    """Commands that are tried dry, what each said, and a world that stays as it is."""

    def __init__(self, lab: Lab, *devices: str) -> None:
        self.lab = lab
        self.devices = devices
        self.tried: set[str] = set()

    def look(self) -> tuple[object, ...]:
        lio = sorted(str(path) for path in LIO.glob("*/*/*"))
        return world(self.lab), jobs(), lio, sorted(Path("/etc/systemd/system").glob("dmsnap*"))

    def written(self) -> list[str]:
        """How many sectors the kernel has written to each device (Documentation/block/stat)."""
        run("sync")
        names = [Path(device).name for device in self.devices]
        return [Path(f"/sys/block/{name}/stat").read_text().split()[6] for name in names]

    def of(self, *commands: Sequence[object]) -> list[Any]:
        """Try each, in the state that there is now; what it would do."""
        before, written = self.look(), self.written()
        results = []
        for words in commands:
            results.append(dmsnap(*words, "--dry-run"))
            assert self.look() == before, words
            two, one = " ".join(map(str, words[:2])), str(words[0])
            self.tried.add(two if two in CHANGING else one)
        assert self.written() == written, commands
        return results


def test_dry_runs_change_nothing(lab: Lab) -> None:
    """Of every command that has one, in the states in which it may be run."""
    primary, recovery = lab.disk(DRY_SIZE), lab.disk(DRY_SIZE + 24 * MIB)
    other, third = lab.disk(DRY_SIZE), lab.disk(DRY_SIZE + 24 * MIB)
    mount_point = lab.mounted(primary)
    name = lab.name()
    protect = ["protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store()]
    dry = DryRuns(lab, primary, recovery, other, third)

    assert all(plan["steps"] for plan in dry.of(protect))
    dmsnap(*protect)
    dmsnap("sync", name)
    (live,) = dmsnap("point", "create", name)
    oldest = dmsnap("point", "list", name)[0]["id"]
    with configured(FEW.format(name=name)):
        dry.of(("prune", name), ("run", "few"), ("config", "apply"))
    plans = dry.of(
        ("sync", name), ("verify", name), ("point", "create", name), ("snapshot", "create", name),
        ("point", "delete", live["id"]), ("snapshot", "delete", live["id"]),
        ("point", "delete", oldest), ("point", "mount", live["id"]), ("point", "mount", oldest),
        ("point", "keep", live["id"]), ("point", "set", live["id"], "--comment", "for this"),
        ("point", "copy", live["id"], "--onto", other), ("swap", name, "--trial"),
        ("swap", name, "--to", oldest), ("hydrate", name, "--onto", other, "--drop-points"),
        ("export", other, *TO), ("unprotect", name), ("unprotect", name, "--forget"),
    )  # fmt: skip
    assert all(plan["steps"] for plan in plans)
    ((backup,), *_) = dry.of(
        ("catalogue", "backup", name), ("catalogue", "rebuild"), ("assemble", name),
        ("resize", name),
    )  # fmt: skip
    assert (backup["device"], backup["written_ns"], backup["error"]) == (recovery, None, None)
    assert backup["packed_bytes"] > 0
    dmsnap("point", "mount", oldest)
    dry.of(("point", "umount", oldest))
    dmsnap("point", "umount", oldest)
    dry_runs_of_jobs(dry, name, mount_point)
    dry_runs_of_exports(dry, other, third)

    with configured(f"cow_limit_bytes = {16 * MIB}"):
        dmsnap("swap", name, "--trial")
    plans = dry.of(
        ("swap", "revert", name), ("swap", "extend", name),
        ("swap", "commit", name, "--drop-points"),
    )  # fmt: skip
    assert all(plan["steps"] for plan in plans)
    dmsnap("swap", "commit", name, "--drop-points")
    plans = dry.of(("failback", name), ("attach", name, "--recovery", third))
    assert all(plan["steps"] for plan in plans)
    assert os.path.ismount(mount_point)
    assert dry.tried == CHANGING


def dry_runs_of_jobs(dry: DryRuns, name: str, mount_point: Path) -> None:
    """What was cut off is as it was; begun anew it would be what it was to be."""
    (mount_point / "file").write_text("changed")
    at = step_at("apply", "sync", name)
    killed = forked("sync", name, at=(at, "done"), send=(signal.SIGKILL,))
    assert killed.code == -signal.SIGKILL
    number = dmsnap("job", "list")[0]["id"]
    resumed, every, aborted = dry.of(
        ("job", "resume", number), ("job", "resume", "--all"), ("job", "abort", number)
    )
    (clearing,) = every["steps"]
    assert clearing.startswith(f"clear what is left of job {number}, sync of {name}, which")
    assert (aborted["steps"], resumed["steps"][:1]) == ([clearing], [clearing])
    assert dmsnap("job", "show", number)["state"] == "cut off"
    assert dmsnap("job", "resume", "--all")[0]["job"]["state"] == "done"
    assert dry.of(("job", "resume", "--all"))[0]["steps"] == []
    ended = forked("sync", name, at=(0, "done"), send=(signal.SIGTERM,))
    assert ended.code == 128 + signal.SIGTERM
    (again,) = dry.of(("job", "resume", dmsnap("job", "list")[0]["id"]))
    assert again["steps"] == ["begin sync anew"]  # what that is, only sync itself can say


def dry_runs_of_exports(dry: DryRuns, disk: str, to: str) -> None:
    """Of one that is there, and of one that is to be published again."""
    exported = dmsnap("export", disk, *TO)
    try:
        (nothing,) = dry.of(("export", "restore"))
        assert [(each["would"], each["error"]) for each in nothing] == [([], None)]
        dry.of(("unexport", disk), ("lun", "swap", disk, "--to", to))
        target.remove_target(exported["target"])
        ((missing,),) = dry.of(("export", "restore"))
        assert any(exported["target"] in step for step in missing["would"])
    finally:
        dmsnap("unexport", disk)


def jobs() -> list[tuple[Any, ...]]:
    return catalogue_rows("select id, operation, state, outcome from job")


# protect and unprotect


def test_protected_again_with_the_same_recovery_volume(lab: Lab) -> None:
    """The history goes on, and what was written meanwhile is found by comparing."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    (mount_point / "file").write_text("two")
    dmsnap("sync", name)
    before = dmsnap("inspect", "label", recovery)
    points = [point["id"] for point in dmsnap("point", "list", name)]
    dmsnap("unprotect", name)
    assert f"{primary} {mount_point}" in Path("/proc/mounts").read_text()
    assert list((lab.directory / "store").iterdir()) == []
    (mount_point / "file").write_text("three")

    words = ("protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store())
    again = dmsnap(*words)
    assert again["bytes_written"] < SIZE // 4
    label = dmsnap("inspect", "label", recovery)
    assert label["volume_uuid"] == before["volume_uuid"]
    assert len(label["history"]) == len(before["history"]) + 1
    assert set(points) <= {point["id"] for point in dmsnap("point", "list", name)}
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    for point, content in zip(points, ("one", "two"), strict=True):
        dmsnap("swap", name, "--to", point)
        assert (mount_point / "file").read_text() == content
        dmsnap("swap", "revert", name)
    assert (mount_point / "file").read_text() == "three"

    dmsnap("unprotect", name, "--forget")
    refused(ExitCode.CORRUPT, "inspect", "label", recovery)
    assert dmsnap("status") == []
    assert dmsnap("point", "list") == []


def test_forgotten_recovery_volume_is_foreign_data_afterwards(lab: Lab) -> None:
    """Without its label, a replica of a file system is somebody's file system."""
    name, primary, recovery, _ = mounted_volume(lab)
    dmsnap("unprotect", name, "--forget")
    store = lab.store()
    words = ("protect", primary, "--name", name, "--recovery", recovery, "--store", store)
    refused(ExitCode.FOREIGN_DEVICE, *words)
    dmsnap(*words, "--overwrite")


def test_mount_options_and_several_mounts(lab: Lab) -> None:
    """The same device mounted twice, with options of each place: both come back, in order."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    lab.mounted(primary, options="noatime,nosuid,errors=remount-ro")
    second = lab.directory / "second place"
    second.mkdir()
    run("mount", "-o", "nodev,noexec", primary, second)
    lab.mounts.append(second)

    def shown() -> list[str]:
        rows = run("findmnt", "-rn", "-o", "TARGET,VFS-OPTIONS,FS-OPTIONS").splitlines()
        return [row for row in rows if str(lab.directory) in row]

    before = shown()
    assert len(before) == 2
    name = lab.protect(primary, recovery)
    assert shown() == before
    for words in (("swap", name), ("swap", "revert", name), ("unprotect", name)):
        dmsnap(*words)
        assert shown() == before, words


# points


def test_deleting_points(lab: Lab) -> None:
    name, _, recovery = raw_volume(lab)
    replicas = [dmsnap("inspect", "label", recovery)["point_uuid"]]
    for seek in (1, 9, 17):
        write(name, 2, seek)
        replicas.append(dmsnap("sync", name)["point"])
    (live,) = dmsnap("point", "create", name)
    before = world(lab, recovery)
    assert "holds now" in refused(ExitCode.WRONG_STATE, "point", "delete", replicas[-1])
    refused(ExitCode.NOT_FOUND, "point", "delete", "0" * 8)
    refused(ExitCode.NOT_FOUND, "point", "delete", live["id"][:3])
    assert world(lab, recovery) == before
    dmsnap("point", "delete", live["id"])
    assert len(dm_devices()) == 2
    for point in replicas[:2]:
        dmsnap("point", "delete", point)
    assert [point["id"] for point in dmsnap("point", "list", name)] == replicas[2:]
    dmsnap("swap", name, "--to", replicas[2])
    refused(ExitCode.WRONG_STATE, "point", "delete", replicas[2])
    dmsnap("swap", "revert", name)
    write(name)
    dmsnap("sync", name, "--audit", "full")


def test_point_mounted_in_a_directory(lab: Lab) -> None:
    name, _, _, mount_point = mounted_volume(lab)
    (live,) = dmsnap("point", "create", name)
    made, given = lab.directory / "made" / "here", lab.directory / "given"
    given.mkdir()
    for at in (made, given):
        mounted = dmsnap("point", "mount", live["id"], at)
        assert mounted["mount_point"] == str(at)
        assert (at / "file").read_text() == "one"
        refused(ExitCode.BUSY, "point", "mount", live["id"])
        assert (
            not os.access(at, os.W_OK)
            or subprocess.run(["touch", at / "x"], capture_output=True, check=False).returncode
        )
        dmsnap("point", "umount", live["id"])
        refused(ExitCode.NOT_FOUND, "point", "umount", live["id"])
    assert given.is_dir()
    occupied = lab.directory / "occupied"
    occupied.write_text("a file")
    before = world(lab)
    code = dmsnap_code("point", "mount", live["id"], str(occupied))
    assert code not in (0, ExitCode.FAILURE)
    assert world(lab) == before
    # A mount that is busy is not torn away.
    at = Path(dmsnap("point", "mount", live["id"])["mount_point"])
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text("unmount_wait_seconds = 0.3\n")
    try:
        with (at / "file").open():
            assert f"pid {os.getpid()}" in refused(ExitCode.BUSY, "point", "umount", live["id"])
    finally:
        path.unlink()
    assert (at / "file").read_text() == "one"
    dmsnap("point", "umount", live["id"])
    assert list(Path("/run/dmsnap/points").glob("*")) == []
    assert os.path.ismount(mount_point)


def dmsnap_code(*words: str) -> int:
    """The exit code of a command that may fail."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main([*words, "--json"])


def test_a_volume_that_somebody_unmounted_stays_unmounted(lab: Lab) -> None:
    """No command mounts what none had unmounted; what a killed one left is cleared all the same."""
    name, _, _, mount_point = mounted_volume(lab)
    run("umount", mount_point)
    dmsnap("sync", name)
    (point,) = dmsnap("point", "create", name)
    dmsnap("point", "delete", point["id"])
    assert not os.path.ismount(mount_point)
    dmsnap("unprotect", name)
    assert not os.path.ismount(mount_point)


def test_sync_while_a_point_is_mounted(lab: Lab) -> None:
    """A live point is on the primary: no matter. The replica must not change under its users."""
    name, _, recovery, mount_point = mounted_volume(lab)
    (live,) = dmsnap("point", "create", name)
    at = Path(dmsnap("point", "mount", live["id"])["mount_point"])
    (mount_point / "file").write_text("two")
    dmsnap("sync", name)
    assert (at / "file").read_text() == "one"
    dmsnap("point", "umount", live["id"])

    historic = dmsnap("point", "list", name)[0]["id"]
    newest = dmsnap("inspect", "label", recovery)["point_uuid"]
    for point, content in ((historic, "one"), (newest, "two")):
        at = Path(dmsnap("point", "mount", point)["mount_point"])
        (mount_point / "file").write_text("three")
        before = world(lab, recovery)
        sentence = refused(ExitCode.BUSY, "sync", name)
        assert sentence
        assert world(lab, recovery) == before
        assert (at / "file").read_text() == content
        dmsnap("point", "umount", point)
    dmsnap("sync", name, "--audit", "full")
    for point in (historic, newest):
        dmsnap("point", "mount", point)
    refused(ExitCode.BUSY, "unprotect", name)
    for point in (historic, newest):
        dmsnap("point", "umount", point)
    assert len([row for row in dm_devices() if "browse" in row or "history" in row]) == 0


def test_volume_that_cannot_be_mounted(lab: Lab) -> None:
    _, _, recovery = raw_volume(lab)
    point = dmsnap("inspect", "label", recovery)["point_uuid"]
    before = world(lab)
    assert "no file system" in refused(ExitCode.WRONG_STATE, "point", "mount", point)
    assert world(lab) == before


# foreign changes


def require_unhealthy(name: str, *words: str) -> None:
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    text = " ".join(status["problems"])
    assert all(word in text for word in words), text


def test_stack_removed_by_somebody(lab: Lab) -> None:
    """As after a reboot: seen everywhere, built again by assemble, and never trusted."""
    name, primary, recovery, mount_point = mounted_volume(lab)
    dmsnap("sync", name)
    (live,) = dmsnap("point", "create", name)
    run("umount", mount_point)
    for row in sorted(dm_devices(), key=lambda row: ("point" not in row, row != name)):
        run("dmsetup", "remove", row)
    require_unhealthy(name, "missing")
    devices = sha256(primary), content_of(recovery)
    for words in (("sync", name), ("point", "create", name)):
        refused(ExitCode.STACK_CHANGED, *words)
        assert (sha256(primary), content_of(recovery)) == devices
        assert dm_devices() == []
    # Written past dmsnap, which nobody saw.
    run("mount", primary, mount_point)
    (mount_point / "file").write_text("unseen")
    run("umount", mount_point)
    dmsnap("assemble", name)
    assert (mount_point / "file").read_text() == "unseen"
    shown = dmsnap("point", "show", live["id"])
    assert shown["places"] == []
    assert shown["invalid_reason"]
    refused(ExitCode.POINT_INVALID, "point", "mount", live["id"])
    result = dmsnap("sync", name, "--audit", "full")
    assert result["tracker"] == "compare"
    assert result["reason"]
    # A point that lives nowhere is recorded as gone by the next sync.
    gone = dmsnap("point", "show", live["id"])
    assert gone["deletion"]["deleted_reason"] == shown["invalid_reason"]
    assert live["id"] not in [point["id"] for point in dmsnap("point", "list", name)]
    dmsnap("status", name)


def test_table_replaced_by_somebody(lab: Lab) -> None:
    """lvchange --refresh does that: the front goes on, and nothing is tracked any more."""
    name, primary, recovery = raw_volume(lab)
    table = run("dmsetup", "table", name).strip()
    run("dmsetup", "load", name, "--table", f"0 {SIZE // 512} linear {primary} 0")
    run("dmsetup", "resume", name)
    require_unhealthy(name, "another table")
    before = world(lab, primary, recovery)
    for words in (("sync", name), ("point", "create", name)):
        refused(ExitCode.STACK_CHANGED, *words)
        assert world(lab, primary, recovery) == before
    write(name)
    assert table
    dmsnap("unprotect", name)
    assert dm_devices() == []


def test_front_suspended_by_somebody(lab: Lab) -> None:
    """It is said at once: nobody waits for a device that does not answer."""
    name, _, _ = raw_volume(lab)
    run("dmsetup", "suspend", name)
    try:
        require_unhealthy(name, "suspended")
        refused(ExitCode.STACK_CHANGED, "sync", name)
        refused(ExitCode.STACK_CHANGED, "point", "create", name)
    finally:
        run("dmsetup", "resume", name)
    dmsnap("sync", name)
    dmsnap("status", name)


def test_recovery_device_gone(lab: Lab) -> None:
    name, primary, recovery = raw_volume(lab)
    image = run("losetup", "-n", "-O", "BACK-FILE", recovery).strip()
    run("losetup", "-d", recovery)
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert status["replica"] is None
    before = sha256(primary)
    for words in (("sync", name), ("swap", name)):
        assert dmsnap_code(*words) not in (0, ExitCode.FAILURE)
    write(name)
    run("losetup", recovery, image)
    dmsnap("sync", name, "--audit", "full")
    assert sha256(primary) != before


def test_catalogue_that_is_damaged(lab: Lab) -> None:
    """One sentence; what needs no catalogue still works."""
    name, _, recovery = raw_volume(lab)
    path = Path("/var/lib/dmsnap/catalogue.db")
    saved = {file: file.read_bytes() for file in path.parent.glob("catalogue.db*")}
    for file in saved:
        file.unlink()
    path.write_bytes(b"no database, but long enough to look like one " * 100)
    try:
        refused(ExitCode.CORRUPT, "status")
        dmsnap("inspect", "label", recovery)
    finally:
        path.unlink()
        for file, content in saved.items():
            file.write_bytes(content)
    dmsnap("status", name)


# inspect without root


def test_inspect_as_nobody(lab: Lab) -> None:
    """Images and devices that may be read, with no catalogue and no privileges."""
    name, _, recovery = raw_volume(lab)
    write(name, 2)
    dmsnap("sync", name)
    (live,) = dmsnap("point", "create", name)
    write(name, 1, seek=4)
    expected = {
        "label": dmsnap("inspect", "label", recovery),
        "store": dmsnap("inspect", "store", store_file(lab, "cow")),
    }
    images = lab.directory / "images"
    images.mkdir(mode=0o755)
    shutil.copy(store_file(lab, "cow"), images / "store")
    shutil.copy(store_file(lab, "era-metadata"), images / "era")
    run("cp", "--sparse=always", recovery, images / "label")
    dmsnap("point", "delete", live["id"])
    for path in images.iterdir():
        path.chmod(0o644)
    for parent in (lab.directory, Path("/scratch")):
        parent.chmod(0o755)

    def nobody(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NOBODY, "dmsnap", "inspect", *words, "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for kind in ("label", "store"):
        completed = nobody(kind, str(images / kind))
        assert completed.returncode == 0, completed
        assert json.loads(completed.stdout) == expected[kind]
    completed = nobody("era", str(images / "era"), "--since", "0")
    assert completed.returncode == 0, completed
    require_extents(json.loads(completed.stdout), SIZE)

    mode = Path(recovery).stat().st_mode
    Path(recovery).chmod(0o644)
    try:
        completed = nobody("label", recovery)
        assert json.loads(completed.stdout) == dmsnap("inspect", "label", recovery)
    finally:
        Path(recovery).chmod(mode & 0o777)
    completed = nobody("label", recovery)
    assert completed.returncode == ExitCode.NOT_PERMITTED, completed
