"""Protecting an LV without unmounting it: the layers go under its own dm device."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    CATALOGUE,
    MIB,
    Lab,
    administrator,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    forked,
    mount_lines,
    rarely,
    refused,
    run,
    sha256,
    suspended,
)
from patience import until
from test_swap_hanging import UNHURRIED

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue

SIZE = 64 * MIB
SECTOR = 512
WRITER = """
import os, sys
path, seed, begun = sys.argv[1], 1, False
with open(path, "r+b", buffering=0) as file:
    while True:
        seed = seed * 1103515245 + 12345 & 0x7FFFFFFF
        os.pwrite(file.fileno(), seed.to_bytes(4, "little") * 1024, seed % 2000 * 4096)
        if seed % 64 == 0:
            os.fsync(file.fileno())
        if not begun:
            begun = print("begun", flush=True) is None
"""


@contextlib.contextmanager
def written_to(mount_point: Path) -> Iterator[None]:
    """Somebody writes to a file of the mounted volume all the time, and gets no error."""
    path = mount_point / "written"
    path.write_bytes(bytes(8 * MIB))
    words = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begun\n"
            yield
            assert writer.poll() is None, "the writer got an error"
        finally:
            writer.kill()


def logical_volume(lab: Lab, size_bytes: int = SIZE) -> tuple[str, str]:
    """An LV on a disk of its own, and the name of its dm device."""
    group = lab.group(lab.disk(size_bytes + 16 * MIB))
    administrator("lvcreate", "-qq", "-y", "-n", "data", "-L", f"{size_bytes}b", group)
    return f"/dev/{group}/data", f"{group}-data"


def table(name: str) -> str:
    return run("dmsetup", "table", name).strip()


def era_of(name: str) -> int:
    """The current era: the second number pair and what follows, of dm-era's status line."""
    return int(run("dmsetup", "status", "--noflush", name).split()[5])


# the mechanism, shown with dmsetup and lvm alone


def test_layers_go_under_a_mounted_lv_and_a_refresh_drops_them(lab: Lab) -> None:
    device, name = logical_volume(lab)
    mount_point = lab.mounted(device)
    (mount_point / "kept").write_bytes(os.urandom(MIB))
    kept = sha256(mount_point / "kept")
    sectors, metadata, cow = SIZE // SECTOR, lab.disk(4 * MIB), lab.disk(32 * MIB)
    former = table(name)
    run("dmsetup", "create", "fact-base", "-u", "DMSNAP-fact-base", "--table", former)
    run("dmsetup", "create", "fact-origin", "-u", "DMSNAP-fact-origin", "--table",
        f"0 {sectors} snapshot-origin /dev/mapper/fact-base")  # fmt: skip
    with written_to(mount_point):
        run("dmsetup", "load", name, "--table",
            f"0 {sectors} era {metadata} /dev/mapper/fact-origin 128")  # fmt: skip
        run("dmsetup", "suspend", name)
        run("dmsetup", "resume", name)
        assert "era" in table(name)
        # dm-era lets no discard through here from the first moment on: snapshot-origin takes none.
        assert attribute(name, "queue/discard_max_bytes") == "0"

        # A point, in the order of the window; the era rolls with it.
        before = era_of(name)
        run("dmsetup", "create", "fact-point", "-u", "DMSNAP-fact-point", "--notable")
        run("dmsetup", "load", "fact-point", "--table",
            f"0 {sectors} snapshot /dev/mapper/fact-base {cow} P 8")  # fmt: skip
        run("dmsetup", "suspend", name)
        run("dmsetup", "suspend", "--nolockfs", "fact-origin")
        run("dmsetup", "resume", "fact-point")
        run("dmsetup", "resume", "fact-origin")
        run("dmsetup", "resume", name)
        assert era_of(name) == before + 1
    (mount_point / "behind the point").write_bytes(os.urandom(4096))
    run("sync", "-f", mount_point)
    point = run("dmsetup", "status", "fact-point")
    assert re.search(r"snapshot \d+/\d+ \d+", point), point
    run("e2fsck", "-fn", "/dev/mapper/fact-point")
    assert sha256("/dev/mapper/fact-point") != sha256("/dev/mapper/fact-base")

    # LVM says that something is amiss, and at a refresh puts its own table back.
    said = subprocess.run(["lvs", device], capture_output=True, text=True, check=True)
    print(f"lvs says: {said.stderr.strip()!r}")
    assert "era" in table(name)
    administrator("lvchange", "--refresh", device)
    assert table(name) == former
    counted = written_sectors("fact-base")
    (mount_point / "past").write_bytes(os.urandom(MIB))
    run("sync", "-f", mount_point)
    assert written_sectors("fact-base") == counted
    assert sha256(mount_point / "kept") == kept
    # The former layers are not held by the LV any more.
    run("dmsetup", "remove", "fact-point")
    run("dmsetup", "remove", "fact-origin")
    run("dmsetup", "remove", "fact-base")


def attribute(name: str, path: str) -> str:
    """What sysfs says of a dm device."""
    number = os.minor(Path(f"/dev/mapper/{name}").stat().st_rdev)
    return Path(f"/sys/block/dm-{number}/{path}").read_text().strip()


def written_sectors(name: str) -> int:
    return int(attribute(name, "stat").split()[6])


# dmsnap


@dataclass
class Bench:
    """A mounted LV, and what it is protected with."""

    lab: Lab
    device: str
    dm_name: str
    recovery: str
    mount_point: Path
    name: str
    store: str
    content: bytes = field(default_factory=lambda: os.urandom(200_000))

    @classmethod
    def made(
        cls,
        lab: Lab,
        disk: str = "",
        *,
        fs_type: str = "ext4",
        own_group: bool = False,
        options: str = "noatime",
    ) -> "Bench":
        """With ``own_group`` the store is the LV's own volume group."""
        size_bytes = {"xfs": 320 * MIB, "btrfs": 128 * MIB}.get(fs_type, SIZE)
        history_bytes = 2 * size_bytes if fs_type == "btrfs" else 32 * MIB
        group = lab.group(disk or lab.disk(size_bytes + 96 * MIB))
        administrator("lvcreate", "-qq", "-y", "-n", "data", "-L", f"{size_bytes}b", group)
        device = f"/dev/{group}/data"
        mount_point = lab.mounted(device, fs_type, options)
        store = group if own_group else lab.store()
        bench = cls(lab, device, f"{group}-data", lab.disk(size_bytes + history_bytes), mount_point,
                    lab.name(), store)  # fmt: skip
        (mount_point / "kept").write_bytes(bench.content)
        run("sync", "-f", mount_point)
        return bench

    @property
    def words(self) -> list[object]:
        return ["protect", self.device, "--name", self.name, "--recovery", self.recovery,
                "--store", self.store, "--live"]  # fmt: skip

    def protect(self) -> Any:
        return dmsnap(*self.words)

    def is_layered(self) -> bool:
        return " era " in table(self.dm_name)

    def write(self, name: str = "changing") -> bytes:
        content = os.urandom(MIB)
        (self.mount_point / name).write_bytes(content)
        run("sync", "-f", self.mount_point)
        return content

    def refresh(self) -> None:
        administrator("lvchange", "--refresh", self.device)
        assert not self.is_layered()

    def sync(self, *options: object) -> Any:
        result = dmsnap("sync", self.name, "--audit", "full", *options)
        assert result["audit"]["bytes_different"] == 0
        return result

    def require_in_use(self, step: str = "") -> None:
        """Mounted from the LV or the front, with what was in it, writable, nothing suspended."""
        assert suspended() == [], step
        assert os.path.ismount(self.mount_point), step
        assert (self.mount_point / "kept").read_bytes() == self.content, step
        probe = self.mount_point / "probe"
        with probe.open("wb") as file:
            file.write(b"x")
            os.fsync(file.fileno())
        probe.unlink()

    def status(self, expected: int = 0) -> Any:
        (found,) = dmsnap("status", self.name, expected=expected)
        return found


def mounted_from(mount_point: Path) -> str:
    return run("findmnt", "-n", "-o", "SOURCE", mount_point).strip()


def recorded() -> list[tuple[Any, ...]]:
    return catalogue_rows("select name from volume where removed_ns is null")


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs", rarely("ext4")])
def test_nothing_is_unmounted_and_what_is_written_is_tracked(lab: Lab, fs_type: str) -> None:
    bench = Bench.made(lab, fs_type=fs_type)
    before, own = mount_lines(), table(bench.dm_name)
    with written_to(bench.mount_point):
        result = bench.protect()
        assert result["live"]
        assert result["front"] == f"/dev/mapper/{bench.name}"
        assert mount_lines() == before
        assert bench.is_layered()
        assert attribute(bench.dm_name, "queue/discard_max_bytes") == "0"
        assert os.path.realpath(result["front"]) == os.path.realpath(f"/dev/mapper/{bench.dm_name}")
        for _ in range(3):  # Btrfs writes elsewhere each time
            assert bench.sync("--cow-percent", 100)["tracker"] == "era"
    bench.write()
    result = bench.sync()
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert result["bytes_dirty"] < int(run("blockdev", "--getsize64", bench.device)) // 2
    found = bench.status()
    assert found["live"]
    assert found["mount_points"] == [str(bench.mount_point)]
    # Taken out again under who uses it.
    with written_to(bench.mount_point):
        dmsnap("unprotect", bench.name)
        assert mount_lines() == before
    assert table(bench.dm_name) == own
    assert dm_devices() == []
    assert not Path(f"/dev/mapper/{bench.name}").exists()
    bench.require_in_use()


def test_the_store_may_be_the_lvs_own_group(lab: Lab) -> None:
    bench = Bench.made(lab, own_group=True)
    bench.protect()
    bench.write()
    assert bench.sync()["tracker"] == "era"
    assert bench.is_layered()
    (point,) = dmsnap("point", "create", bench.name)
    assert bench.is_layered()
    dmsnap("point", "delete", point["id"])
    dmsnap("unprotect", bench.name)
    bench.require_in_use()


def test_dropped_layers_are_noticed_and_put_back(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.protect()
    (point,) = dmsnap("point", "create", bench.name)
    devices = dm_devices()
    bench.write()
    bench.refresh()
    bench.write("past")
    (problem,) = bench.status(expected=24)["problems"]
    assert "passes the layers by" in problem
    assert "dmsnap sync" in problem
    (shown,) = [each for each in dmsnap("point", "list", bench.name) if each["id"] == point["id"]]
    assert shown["places"] == []
    assert "passes the layers by" in shown["invalid_reason"]
    assert "passes the layers by" in refused(17, "point", "create", bench.name)
    assert "passes the layers by" in refused(17, "verify", bench.name)
    other = lab.disk(SIZE)
    for words in (
        ("point", "mount", point["id"]),
        ("point", "copy", point["id"], "--onto", other),
        ("swap", bench.name, "--to", point["id"]),
        ("export", point["id"], "--portal", "127.0.0.1", "--initiator", "iqn.2026-01.org.lab:x"),
    ):
        error = dmsnap(*words, expected=None)
        assert "passes the layers by" in error["error"], (words, error)
    assert dm_devices() == devices
    with written_to(bench.mount_point):
        result = bench.sync()
    assert result["tracker"] == "compare"
    assert "passes the layers by" in result["reason"]
    assert bench.is_layered()
    assert bench.status()["problems"] == []
    bench.write()
    assert bench.sync()["tracker"] == "era"
    # By hand, too.
    bench.refresh()
    bench.write("past")
    dmsnap("assemble", bench.name)
    assert bench.is_layered()
    assert bench.sync()["tracker"] == "compare"
    bench.require_in_use()


def test_layers_that_are_dropped_during_a_sync(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point that was read is none: the replica stays what it was."""
    bench = Bench.made(lab)
    bench.protect()
    names = dmsnap("sync", bench.name)["steps"]
    for name in names:
        bench.write()
        before = dmsnap("inspect", "label", bench.recovery)["point_uuid"]
        with monkeypatch.context() as patch:
            drop_after(patch, name, bench)
            result = dmsnap("sync", bench.name, expected=None)
        assert not bench.is_layered(), name
        if "error" in result:
            assert "passes the layers by" in result["error"] or "era" in result["error"], result
            assert dmsnap("inspect", "label", bench.recovery)["point_uuid"] == before, name
        else:  # it was read when they went
            assert name in ("apply", "remove-point"), name
        bench.require_in_use(name)
        assert bench.sync()["tracker"] == "compare", name


def drop_after(patch: pytest.MonkeyPatch, name: str, bench: Bench) -> None:
    """Have LVM drop the layers, and somebody write past them, once a step is done."""
    recorded_step = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
    ) -> None:
        recorded_step(catalogue, job_id, position, state, seconds)
        if state is StepState.DONE and jobs.job(catalogue, job_id).steps[position].name == name:
            bench.refresh()
            bench.write("past")

    patch.setattr(jobs, "record_step", record_step)


def test_an_lv_that_was_extended_is_not_covered_again(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.protect()
    administrator("lvextend", "-qq", "-L", f"+{8 * MIB}b", bench.device)
    assert not bench.is_layered()
    before = table(bench.dm_name)
    assert "has 72 MiB now, and had 64 MiB" in refused(22, "sync", bench.name)
    assert table(bench.dm_name) == before
    bench.require_in_use()
    dmsnap("unprotect", bench.name)
    assert table(bench.dm_name) == before
    assert dm_devices() == []
    bench.require_in_use()


def test_a_swap_gives_it_a_front_of_its_own(lab: Lab) -> None:
    bench = Bench.made(lab)
    own = table(bench.dm_name)
    bench.protect()
    bench.write()
    bench.sync()
    (live,) = dmsnap("point", "create", bench.name)
    (bench.mount_point / "kept").write_bytes(b"spoiled")
    dmsnap("swap", bench.name)
    bench.require_in_use()
    assert table(bench.dm_name) == own
    assert mounted_from(bench.mount_point) == f"/dev/mapper/{bench.name}"
    # LVM may do what it likes with its own device, which is held.
    administrator("lvchange", "--refresh", bench.device)
    run("mount", bench.device, "/mnt", expected=32)
    bench.require_in_use()
    dmsnap("swap", "revert", bench.name)
    assert (bench.mount_point / "kept").read_bytes() == b"spoiled"
    assert not bench.status()["live"]
    # The primary goes back to the live point, which was taken while the LV was the front.
    dmsnap("swap", bench.name, "--to", live["id"])
    bench.require_in_use()
    dmsnap("swap", "commit", bench.name)
    bench.require_in_use()
    assert bench.sync()["tracker"] == "compare"
    dmsnap("unprotect", bench.name)
    assert dm_devices() == []
    assert Path(mounted_from(bench.mount_point)).resolve() == Path(bench.device).resolve()
    bench.require_in_use()


def test_a_commit_and_the_way_back(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.protect()
    bench.refresh()
    (bench.mount_point / "kept").write_bytes(b"spoiled")  # past the layers, which are gone
    dmsnap("swap", bench.name)
    dmsnap("swap", "commit", bench.name)
    bench.require_in_use()
    assert [name for name in dm_devices() if "-base-" in name] == []
    assert dmsnap("failback", bench.name)["tracker"] == "compare"
    bench.require_in_use()
    bench.sync()
    dmsnap("unprotect", bench.name)
    bench.require_in_use()


def test_a_swap_from_an_lv_that_hangs(lab: Lab) -> None:
    """What waits for it is failed; when it answers again, the swap can be reverted."""
    with disk_of_a_disk(lab) as disk:
        bench = Bench.made(lab, f"/dev/mapper/{disk}", options=UNHURRIED["ext4"])
        bench.protect()
        changing = bench.mount_point / "changing"
        for _ in range(2):
            overwrite(changing, b"one")
            run("sync", "-f", bench.mount_point)
        dmsnap("sync", bench.name)
        with hanging(disk):
            overwrite(changing, b"two")
            dmsnap("swap", bench.name, "--fail-primary")  # something may be written back
            assert changing.read_bytes() == b"one"
            assert suspended() == [disk]
            assert bench.device in refused(23, "swap", "revert", bench.name)
        dmsnap("swap", "revert", bench.name)
        assert changing.read_bytes() == b"one"
        bench.require_in_use()
        bench.sync()
        dmsnap("unprotect", bench.name)
        bench.require_in_use()
        run("umount", bench.mount_point)
        administrator("vgremove", "-qq", "-ff", "-y", lab.groups.pop())


def overwrite(path: Path, content: bytes) -> None:
    """In place: nothing of it has to be read from the disk first, once it was done before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_of_a_disk(lab: Lab) -> Iterator[str]:
    """A dm device, which can hang. LVM finds the PV there alone: the disk begins earlier."""
    name, sectors = "lab-disk", (SIZE + 16 * MIB) // SECTOR
    disk = lab.disk(SIZE + 32 * MIB)
    run("dmsetup", "create", name, "--table", f"0 {sectors} linear {disk} 2048")
    try:
        yield name
    finally:
        run("dmsetup", "remove", name)


@contextlib.contextmanager
def hanging(disk: str) -> Iterator[None]:
    """All I/O of the disk is held back within the block, and dmsnap does not wait for long."""
    with configured("primary_wait_seconds = 3"):
        run("dmsetup", "suspend", "--noflush", "--nolockfs", disk)
        try:
            yield
        finally:
            run("dmsetup", "resume", disk)


def test_a_failed_swap_leaves_it_live(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one before whose unmount LVM drops the layers makes the next sync compare."""
    bench = Bench.made(lab)
    bench.protect()
    steps = dmsnap("swap", bench.name, "--dry-run")["steps"]
    own_front = next(at for at, step in enumerate(steps) if "its own table back" in step)
    for position in range(len(steps)):
        ended = forked("swap", bench.name, at=(position, "begun"), send=(signal.SIGTERM,))
        bench.require_in_use(str(position))
        assert ended.code == 143, (position, ended)
        assert bench.is_layered(), position
        if position >= own_front - 1:  # before that nothing has to do with how it is tracked
            assert bench.sync()["tracker"] == "era", position
    (live,) = dmsnap("point", "create", bench.name)
    with monkeypatch.context() as patch:
        drop_after(patch, "show-point", bench)
        assert "passes the layers by" in refused(14, "swap", bench.name, "--to", live["id"])
    bench.require_in_use()
    assert bench.sync()["tracker"] == "compare"
    with monkeypatch.context() as patch:
        drop_after(patch, "show-point", bench)
        dmsnap("swap", bench.name)
    dmsnap("swap", "revert", bench.name)
    assert bench.sync()["tracker"] == "compare"


def test_a_catalogue_that_was_lost(lab: Lab) -> None:
    """It is live again as it was; and one whose swap gave it a front of its own is that."""
    bench = Bench.made(lab)
    bench.protect()
    (point,) = dmsnap("point", "create", bench.name)
    before = bench.status()
    CATALOGUE.unlink()
    (found,) = dmsnap("catalogue", "rebuild")["volumes"]
    assert (found["volume"], found["device"]) == (bench.name, before["device"])
    assert bench.status()["live"]
    assert bench.is_layered()
    assert [each["point"] for each in bench.status()["live_points"]]
    dmsnap("point", "delete", dmsnap("point", "list", bench.name)[-1]["id"])
    assert bench.sync()["tracker"] == "compare"
    dmsnap("swap", bench.name)
    dmsnap("swap", "revert", bench.name)
    CATALOGUE.unlink()
    (found,) = dmsnap("catalogue", "rebuild")["volumes"]
    assert (found["volume"], found["device"]) == (bench.name, before["device"])
    assert not bench.status()["live"]
    bench.sync()
    dmsnap("unprotect", bench.name)
    assert point
    bench.require_in_use()


def test_what_is_refused(lab: Lab) -> None:
    bench = Bench.made(lab)
    group = bench.device.split("/")[2]
    run("umount", bench.mount_point)
    assert "is not mounted" in refused(22, *bench.words)
    run("mount", bench.device, bench.mount_point)
    disk = lab.disk(SIZE)
    lab.mounted(disk)
    words = [disk if word == bench.device else word for word in bench.words]
    assert "no logical volume" in refused(22, *words)
    administrator("lvcreate", "-qq", "-y", "-s", "-n", "snap", "-L", f"{16 * MIB}b", bench.device)
    assert "snapshot-origin" in refused(22, *bench.words)
    administrator("lvremove", "-qq", "-y", f"{group}/snap")
    store = bench.mount_point / "store"
    store.mkdir()
    words = [store if word == bench.store else word for word in bench.words]
    refused(12, *words)
    assert dm_devices() == []
    bench.require_in_use()
    bench.protect()
    assert "cannot be moved" in refused(22, "hydrate", bench.name, "--onto", lab.disk(2 * SIZE))


# what is killed


# In which the tables change: creating, loading, and after it.
MOMENTS = (0, 0.02, 0.1, 0.3)

# The step that exchanges the LV's table at several moments; and every step, which takes its time.
EVERY = pytest.mark.parametrize("every", [False, rarely(True)], ids=["exchange", "all"])


def killed(
    bench: Bench, words: list[object], exchange: str, again: Callable[[str], None], *, every: bool
) -> None:
    """SIGKILL in the step with ``exchange`` in its description, or in every one; then ``again``."""
    steps = dmsnap(*words, "--dry-run")["steps"]
    (changing,) = (at for at, text in enumerate(steps) if exchange in text)
    moments = [(changing, after) for after in MOMENTS]
    if every:
        moments = [(at, 0.01) for at in range(len(steps))]
        moments += [(changing, number * 0.025) for number in range(16)]
    for position, after in moments:
        ended = forked(*words, at=(position, "begun"), send=(signal.SIGKILL,), after=after)
        step = f"{words[0]} killed at step {position} after {after} s"
        assert ended.code in (0, -signal.SIGKILL), f"{step}: {ended}"
        until(lambda: suspended() == [], f"all is resumed: {step}")
        if words[0] != "swap":  # which unmounts
            bench.require_in_use(step)
        again(step)
        bench.require_in_use(step)


@EVERY
def test_protect_killed(lab: Lab, every: bool) -> None:
    """The LV is mounted all the time, and afterwards has its own table or is protected."""
    bench = Bench.made(lab)
    own, mounts = table(bench.dm_name), mount_lines()

    def again(step: str) -> None:
        assert mount_lines() == mounts, step
        if recorded():
            dmsnap("unprotect", bench.name, "--forget")
        assert table(bench.dm_name) == own, step
        assert recorded() == [], step
        assert dm_devices() == [], step
        assert not Path(f"/dev/mapper/{bench.name}").is_symlink(), step
        assert mount_lines() == mounts, step
        run("wipefs", "-qa", bench.recovery)

    killed(bench, bench.words, "dm-era under", again, every=every)


@EVERY
def test_unprotect_killed(lab: Lab, every: bool) -> None:
    bench = Bench.made(lab)
    own, mounts = table(bench.dm_name), mount_lines()
    bench.protect()

    def again(step: str) -> None:
        assert mount_lines() == mounts, step
        dmsnap("job", "list")
        if recorded():
            dmsnap("unprotect", bench.name)
        assert table(bench.dm_name) == own, step
        assert dm_devices() == [], step
        bench.protect()

    killed(bench, ["unprotect", bench.name], "the stack of", again, every=every)


@EVERY
def test_swap_killed(lab: Lab, every: bool) -> None:
    bench = Bench.made(lab)
    bench.protect()

    def again(step: str) -> None:
        (state,) = catalogue_rows("select state from volume where removed_ns is null")
        if state == ("trial",):
            dmsnap("swap", "revert", bench.name)
        bench.sync()
        bench.require_in_use(step)
        dmsnap("unprotect", bench.name)
        bench.protect()

    killed(bench, ["swap", bench.name], "its own table back", again, every=every)


@EVERY
def test_putting_layers_back_killed(lab: Lab, every: bool) -> None:
    bench = Bench.made(lab)
    bench.protect()
    bench.refresh()
    bench.write("past")

    def again(_step: str) -> None:
        bench.write("after")
        bench.sync()
        assert bench.is_layered()
        bench.refresh()
        bench.write("past")

    killed(bench, ["sync", bench.name], "build the stack of", again, every=every)
