"""What uses a volume while it is swapped: mounts inside it and of its parts, processes, layers."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    administrator,
    configured,
    dm_devices,
    dmsnap,
    forked,
    mount_lines,
    refused,
    run,
    world,
)

from dmsnap.errors import ExitCode
from dmsnap.host import kernel
from dmsnap.host.mountinfo import mount_at

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB

HOLDER = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, {handler})\n"
    "file = open(sys.argv[1])\n"
    "print('ready', flush=True)\n"
    "signal.pause()\n"
)


@contextlib.contextmanager
def holding(path: Path, handler: str = "signal.SIG_DFL") -> Iterator["subprocess.Popen[str]"]:
    """A process that has a file open, and what it does about SIGTERM."""
    script = HOLDER.format(handler=handler)
    with subprocess.Popen(
        ["python3", "-c", script, path], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield holder
        finally:
            holder.kill()


def mounts_below(lab: Lab) -> list[str]:
    """The mounts that a scenario made, without the numbers of devices."""
    return [line for line in mount_lines() if str(lab.directory) in line]


@pytest.mark.parametrize("fs_type", ["ext4", "btrfs"])
def test_mounts_inside_and_of_parts(lab: Lab, fs_type: str) -> None:
    """A tmpfs with what is in it, another disk in use, bind mounts with options of their own."""
    factor = 5 if fs_type == "btrfs" else 1
    primary = lab.disk(SIZE * factor)
    mount_point = lab.mounted(primary, fs_type, "noatime,nodev")
    for inside in ("part", "memory", "disk", "part/deep"):
        (mount_point / inside).mkdir()
    (mount_point / "part/file").write_text("one")
    other = lab.mounted(lab.disk(SIZE))
    bound = lab.directory / "bound"
    bound.mkdir()
    lab.mounts += [bound, mount_point / "memory", mount_point / "disk"]
    run("mount", "-t", "tmpfs", "-o", "nosuid,size=1m", "memory", mount_point / "memory")
    (mount_point / "memory/state").write_text("in memory only")
    run("mount", "--bind", other, mount_point / "disk")
    run("mount", "-o", "bind,ro", mount_point / "part", bound)

    name = lab.protect(primary, lab.disk(RECOVERY_SIZE * factor))
    before = mounts_below(lab)
    for words in (("swap", name), ("swap", "revert", name), ("swap", name)):
        with (mount_point / "disk/open").open("w") as file:
            dmsnap(*words)
            file.write("whoever has it open goes on")
        assert (mount_point / "disk/open").read_text() == "whoever has it open goes on"
        assert (mount_point / "memory/state").read_text() == "in memory only"
        assert (bound / "file").read_text() == "one"
        if words[-2:] == ("revert", name):
            assert mounts_below(lab) == before
    assert [line.split()[1:3] for line in mounts_below(lab)] == [
        line.split()[1:3] for line in before
    ]
    dmsnap("swap", "commit", name)
    dmsnap("failback", name)
    assert mounts_below(lab) == before
    dmsnap("unprotect", name)
    assert (mount_point / "memory/state").read_text() == "in memory only"


def test_a_place_that_an_earlier_point_lacks(lab: Lab) -> None:
    """What was mounted there is kept, and comes back with the directory."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    (mount_point / "new").mkdir()
    lab.mounts.append(mount_point / "new")
    run("mount", "-t", "tmpfs", "memory", mount_point / "new")
    (mount_point / "new/state").write_text("in memory only")
    dmsnap("swap", name)
    assert not (mount_point / "new").exists()
    dmsnap("swap", "revert", name)
    assert (mount_point / "new/state").read_text() == "in memory only"
    assert list(Path("/run/dmsnap/mounts").rglob("state")) == []


def test_a_swap_killed_while_something_is_parked(lab: Lab) -> None:
    """The next command mounts all again."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "inside").mkdir()
    lab.mounts.append(mount_point / "inside")
    name = lab.protect(primary, recovery)
    run("mount", "-t", "tmpfs", "memory", mount_point / "inside")
    (mount_point / "inside/state").write_text("in memory only")
    before = mounts_below(lab)
    steps = dmsnap("swap", name, "--dry-run")["steps"]
    first = next(at for at, step in enumerate(steps) if step.startswith("unmount"))
    for number in range(first, len(steps)):
        ended = forked("swap", name, at=(number, "done"), send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL, ended
        # Whatever comes next takes it back, or leaves it in trial.
        dmsnap("point", "list", name)
        dmsnap("swap", "extend", name, "--dry-run", expected=None)
        if dmsnap("status", name, expected=None)[0]["state"] == "trial":
            dmsnap("swap", "revert", name)
        assert mounts_below(lab) == before, number
        assert (mount_point / "inside/state").read_text() == "in memory only"


def test_a_killed_swap_is_not_mounted_over_somebody_else(lab: Lab) -> None:
    """The job waits until the place is free, and nothing else does."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "note").write_text("of the volume")
    name = lab.protect(primary, recovery)
    before = mounts_below(lab)
    steps = dmsnap("swap", name, "--dry-run")["steps"]
    unmounted = next(at for at, step in enumerate(steps) if step.startswith("unmount"))
    ended = forked("swap", name, at=(unmounted, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    run("mount", "-t", "tmpfs", "somebody", mount_point)
    try:
        for words, code in (
            (("job", "resume", "--all"), ExitCode.BUSY),
            (("sync", name), 0),
        ):
            said = forked(*words)
            assert said.code == code, said
            assert f"somebody is mounted on {mount_point} by now" in said.stderr
            seen = mount_at(mount_point)
            assert seen is not None
            assert seen.source == "somebody"
        (job,) = (job for job in dmsnap("job", "list") if job["state"] == "cut off")
        refused(ExitCode.BUSY, "job", "resume", job["id"])
    finally:
        run("umount", mount_point)
    (resumed,) = dmsnap("job", "resume", "--all")
    assert resumed["job"]["state"] == "undone"
    assert mounts_below(lab) == before
    assert (mount_point / "note").read_text() == "of the volume"


@pytest.mark.selection
@pytest.mark.skipif(kernel.version() >= (6, 5), reason="a placeholder is there meanwhile")
def test_before_6_5_nothing_is_mounted_meanwhile(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    before = mount_lines()
    steps = dmsnap("swap", name, "--dry-run")["steps"]
    unmounted = next(at for at, step in enumerate(steps) if step.startswith("unmount"))
    ended = forked("swap", name, at=(unmounted, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    assert mount_at(mount_point) is None
    dmsnap("swap", name)
    assert mount_lines() == before


def test_processes_are_ended_with_kill_only(lab: Lab) -> None:
    """Those alone that have files of the volume open; who ignores SIGTERM gets SIGKILL."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    elsewhere = lab.directory / "elsewhere"
    for file in (mount_point / "log", elsewhere):
        file.write_text("open")
    name = lab.protect(primary, recovery)
    with (
        # Whoever means to end at SIGTERM does, however busy the machine is.
        configured("unmount_wait_seconds = 0.3", "kill_wait_seconds = 4"),
        holding(mount_point / "log") as polite,
        holding(mount_point / "log", "signal.SIG_IGN") as deaf,
        holding(elsewhere) as bystander,
    ):
        before = world(lab)
        sentence = refused(ExitCode.BUSY, "swap", name)
        for holder in (polite, deaf):
            assert f"python3 (pid {holder.pid}, open file {mount_point}/log)" in sentence
        assert str(bystander.pid) not in sentence
        assert world(lab) == before
        assert polite.poll() is None
        assert deaf.poll() is None

        dmsnap("swap", name, "--kill")
        assert polite.wait(60) == -signal.SIGTERM
        assert deaf.wait(60) == -signal.SIGKILL
        assert bystander.poll() is None
        with holding(mount_point / "log") as another:
            dmsnap("swap", "revert", name, "--kill")
            assert another.wait(60) == -signal.SIGTERM
        assert bystander.poll() is None


def test_who_asks_is_not_ended(lab: Lab) -> None:
    """The process that calls dmsnap, and those that started it: named, not killed."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    with configured("unmount_wait_seconds = 0.3"), (mount_point / "own").open("w"):
        sentence = refused(ExitCode.BUSY, "swap", name, "--kill")
        assert f"pid {os.getpid()}" in sentence


def test_processes_with_a_raw_volume_open(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    with holding(Path(f"/dev/mapper/{name}")) as holder:
        assert f"pid {holder.pid}" in refused(ExitCode.BUSY, "swap", name)
        dmsnap("swap", name, "--kill")
        assert holder.wait(60) == -signal.SIGTERM
    dmsnap("swap", "revert", name)


def test_a_mount_in_another_namespace_is_named(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private",
         "sh", "-c", "echo ready; exec sleep infinity"],
        stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            before = world(lab)
            sentence = refused(ExitCode.BUSY, "swap", name)
            assert f"mounted on {mount_point} in the mount namespace of" in sentence
            assert f"(pid {holder.pid})" in sentence
            assert world(lab) == before
        finally:
            holder.kill()
    dmsnap("swap", name)


def test_swap_space_and_physical_volumes(lab: Lab) -> None:
    """Made on the front after it was protected: refused before anything is changed."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    front = f"/dev/mapper/{name}"
    run("mkswap", front)
    run("swapon", front)
    try:
        before = world(lab)
        sentence = refused(ExitCode.BUSY, "swap", name)
        assert "swap space" in sentence
        assert world(lab) == before
    finally:
        run("swapoff", front)
    run("wipefs", "-a", front)
    # Without udev LVM sees the devices below the front, too.
    group, device = f"vg{name}", ("--devices", front)
    administrator("vgcreate", "-qq", "--yes", *device, group, front)
    administrator("lvcreate", "-qq", "--yes", *device, "-L", "16m", "-n", "data", group)
    before = world(lab)
    sentence = refused(ExitCode.BUSY, "swap", name)
    assert "LVM physical volume" in sentence
    assert f"{group}-data" in sentence
    assert world(lab) == before
    administrator("vgchange", "-qq", "-an", *device, group)
    dmsnap("swap", name)
    dmsnap("swap", "revert", name)
    administrator("vgremove", "-qq", "-f", *device, group)
    administrator("pvremove", "-qq", *device, front)


def test_a_swap_file_and_a_loop_device_over_a_file(lab: Lab) -> None:
    """No process has those files open: the kernel does, and what it does with them is named."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    swap_file, image = mount_point / "swap file", mount_point / "image"
    for file in (swap_file, image):
        file.write_bytes(bytes(MIB))
    swap_file.chmod(0o600)
    run("mkswap", swap_file)
    name = lab.protect(primary, recovery)

    def require_refused(user: str) -> None:
        before = world(lab)
        with configured("unmount_wait_seconds = 0.3"):
            sentence = refused(ExitCode.BUSY, "swap", name)
            assert f"{mount_point} is kept busy by {user}" in sentence
            assert world(lab) == before

    run("swapon", swap_file)
    try:
        require_refused(f"the swap file {swap_file}")
    finally:
        run("swapoff", swap_file)
    loop = run("losetup", "--find", "--show", image).strip()
    try:
        require_refused(f"{loop} over {image}")
    finally:
        run("losetup", "--detach", loop)
    dmsnap("swap", name)
    dmsnap("swap", "revert", name)
    assert image.read_bytes() == bytes(MIB)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_what_stays_the_same(lab: Lab, fs_type: str) -> None:
    """Name, minor number, mount point and options, and the data; a sync after going back."""
    factor = 1 if fs_type == "ext4" else 5
    primary, recovery = lab.disk(SIZE * factor), lab.disk(RECOVERY_SIZE * factor)
    mount_point = lab.mounted(primary, fs_type, "noatime,nosuid,nodev")
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    oldest = dmsnap("point", "list", name)[0]["id"]
    (mount_point / "file").write_text("two")
    dmsnap("sync", name)
    (mount_point / "file").write_text("three")

    def seen() -> tuple[int, list[str]]:
        return Path(f"/dev/mapper/{name}").stat().st_rdev, [
            line for line in Path("/proc/mounts").read_text().splitlines() if name in line
        ]

    before = seen()
    dmsnap("swap", name)
    assert (seen(), (mount_point / "file").read_text()) == (before, "two")
    dmsnap("swap", "revert", name)
    assert (seen(), (mount_point / "file").read_text()) == (before, "three")
    dmsnap("sync", name, "--audit", "full")
    dmsnap("swap", name, "--to", oldest)
    assert (seen(), (mount_point / "file").read_text()) == (before, "one")
    (mount_point / "in trial").write_text("kept")
    dmsnap("swap", "commit", name)
    assert (seen(), (mount_point / "file").read_text()) == (before, "one")
    dmsnap("failback", name)
    assert (seen(), (mount_point / "file").read_text()) == (before, "one")
    assert (mount_point / "in trial").read_text() == "kept"
    run("umount", mount_point)
    checker = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n", "btrfs": "btrfs check"}[fs_type]
    run(*checker.split(), f"/dev/mapper/{name}")
    assert len(dm_devices()) == 2
