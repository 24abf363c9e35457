"""What is seen at a mount point while a volume is not mounted there: never the directory below."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from conftest import MIB, Lab, dmsnap, mount_lines, run

from dmsnap.catalogue.model import MountRecord
from dmsnap.errors import BusyError, MountPointTakenError, ProgramError
from dmsnap.host import kernel, mount, mount_tree, placeholder
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.mountinfo import Mount, mount_at, mounts, mounts_of, parse_line
from dmsnap.service.swaps import mounting

SIZE = 64 * MIB
RECOVERY_SIZE = 160 * MIB
NAME = "held"
HELD_AS = placeholder.source(uuid4(), NAME)

pytestmark = [
    pytest.mark.selection,
    pytest.mark.skipif(
        kernel.version() < (6, 5), reason="this kernel puts no mount beneath another"
    ),
]

WRITER = """
import errno, os, sys, time
seen = set()
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    try:
        os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        seen.add(errno.errorcode[error.errno])
    time.sleep(0.0005)
print(*seen)
"""


@contextmanager
def told(*argv: object) -> Iterator["subprocess.Popen[str]"]:
    """A process that has said that it is ready, killed at the end unless it has ended."""
    words = [str(word) for word in argv]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def in_name_space(propagation: str, script: str = "cd /") -> Iterator[int]:
    """A process in a mount name space of its own; the script is run in it first."""
    words = ("unshare", "--mount", "--propagation", propagation, "sh", "-c")
    with told(*words, f"{script}; echo ready; exec sleep 600") as process:
        yield process.pid


def at_place(place: Path, pid: int | str = "self") -> list[Mount]:
    """What is mounted at a place, as a process sees it, from below to the top."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    here = [entry for entry in map(parse_line, lines) if entry.mount_point == place]
    ids = {entry.mount_id for entry in here}
    found = [entry for entry in here if entry.parent_id not in ids]
    while above := [e for e in here if found and e.parent_id == found[-1].mount_id]:
        found += above
    assert len(found) == len(here)
    return found


def placeholders() -> list[Mount]:
    """And what is mounted in them."""
    table = mounts()
    return [entry for entry in table if entry.mount_id in placeholder.parts(table)]


def test_nobody_writes_below_while_tables_are_exchanged(lab: Lab) -> None:
    """Somebody who does not wait tries to make a file there all the time."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    place = lab.mounted(primary, options="noatime,nosuid,errors=remount-ro")
    elsewhere, stop = lab.directory / "elsewhere", lab.directory / "stop"
    elsewhere.mkdir()
    run("mount", "--bind", lab.directory, elsewhere)
    lab.mounts.append(elsewhere)
    below = elsewhere / place.name
    before = below.stat().st_mtime_ns
    with told(sys.executable, "-c", WRITER, place / "intruder", stop) as writer:
        name = lab.protect(primary, recovery)
        lines = mount_lines()
        for words in (("swap", name, "--trial"), ("swap", "revert", name)):
            dmsnap(*words)
            assert mount_lines() == lines
        dmsnap("unprotect", name)
        stop.touch()
        refusals = writer.communicate()[0].split()
    assert list(below.iterdir()) == []
    assert below.stat().st_mtime_ns == before
    assert refusals == ["EROFS"]
    assert (place / "intruder").exists()


def disk(lab: Lab, fs_type: str, size_bytes: int = SIZE) -> BlockDevice:
    path = lab.disk(size_bytes)
    run(f"mkfs.{fs_type}", *(["-q"] if fs_type == "ext4" else []), path)
    return BlockDevice.probe(Path(path))


@pytest.fixture
def device(lab: Lab) -> BlockDevice:
    return disk(lab, "ext4")


@pytest.fixture(params=["private", "shared"])
def place(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A mount point on a mount that others have a share in, as all have under systemd, or not."""
    parent = lab.directory / "parent"
    parent.mkdir()
    run("mount", "-t", "tmpfs", "parent", parent)
    run("mount", f"--make-{request.param}", parent)
    found = parent / "place"
    found.mkdir()
    yield found
    run("umount", "-R", parent)


only_shared = pytest.mark.parametrize("place", ["shared"], indirect=True)


def record(place: Path) -> MountRecord:
    return MountRecord(str(place), "ext4", ("rw", "nosuid", "noatime"))


def mount_all(device: BlockDevice, place: Path) -> None:
    mounting.mount_all(device.path, device.devno, [record(place)])


def held(device: BlockDevice, place: Path, seconds: float = 10) -> None:
    mounting.unmount(device.devno, seconds, [record(place)], held_as=HELD_AS)


def require_mounted(device: BlockDevice, place: Path, pid: int | str = "self") -> None:
    """By itself, with its options, and writable."""
    (found,) = at_place(place, pid)
    assert (found.devno, found.source) == (device.devno, str(device.path))
    assert {"noatime", "nosuid"} <= set(found.options)
    assert placeholders() == []
    (place / "probe").touch()


def require_held(place: Path) -> None:
    """Nothing can be made there, by root either, and nothing of it is recorded."""
    (found,) = at_place(place)
    assert found.source == HELD_AS
    with pytest.raises(OSError, match="Read-only"):
        (place / "file").touch()
    assert place.stat().st_mode & 0o777 == 0


@only_shared
@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        ("ext4", "noatime,nosuid,errors=remount-ro,stripe=16"),
        ("ext4", "ro,nodev,noexec,sync,lazytime,strictatime,nodiratime"),
        ("xfs", "noquota,allocsize=64k,nodev,nosymfollow"),
        ("btrfs", "compress=zstd:3,subvol=part,ssd"),
    ],
)
def test_the_same_mount_comes_back(
    lab: Lab, place: Path, fs_type: str, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All that mountinfo says of it is as it was, and the mount point was never empty."""
    caplog.set_level("DEBUG", placeholder.__name__)
    device = disk(lab, fs_type, 320 * MIB)
    if "subvol" in options:
        run("mount", device.path, place)
        run("btrfs", "subvolume", "create", place / "part")
        run("umount", place)
    run("mount", "-t", fs_type, "-o", options, device.path, place)
    before = shown(place)
    wanted = mounting.records(device.devno, place)
    mounting.unmount(device.devno, 10, wanted, held_as=HELD_AS)
    require_held(place)
    mounting.mount_all(device.path, device.devno, wanted)
    assert shown(place) == before
    assert caplog.messages == []
    mount.unmount(place)
    assert at_place(place) == []


def shown(place: Path) -> str:
    """What the kernel says of the one mount there, but for numbers that are given anew."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    (row,) = [row for row in rows if f" {place} " in row]
    words = [word.partition(":")[0] if word.startswith("shared:") else word for word in row.split()]
    numbers = 3 if " btrfs " in row else 2
    return " ".join(words[numbers:])


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@only_shared
@pytest.mark.parametrize("at", ["make_private", "cloned", "move_beneath", "lift"])
@pytest.mark.parametrize("again", [mount_all, held, None])
def test_cut_off_while_it_is_mounted(
    device: BlockDevice,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    again: Callable[[BlockDevice, Path], None] | None,
) -> None:
    """Whoever comes next mounts it, or unmounts it, or leaves it as it is without a placeholder."""
    mount_all(device, place)
    held(device, place)
    with monkeypatch.context() as patch:
        patch.setattr(placeholder if at == "lift" else mount_tree, at, killed)
        with pytest.raises(KeyboardInterrupt):
            mount_all(device, place)
    assert at_place(place)[-1].source == HELD_AS
    recorded = mounting.records(device.devno, Path("/run/parking"))
    assert recorded == ((record(place),) if at == "lift" else ())
    if again is None:
        placeholder.remove([NAME])
        assert placeholders() == []
    else:
        again(device, place)
    if again is held:
        require_held(place)
        assert mounts_of(device.devno) == []
    mount_all(device, place)
    require_mounted(device, place)


def test_a_library_without_the_calls(
    device: BlockDevice, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of RHEL 9. What lies below is seen, as it was without placeholders."""
    mount_all(device, place)
    held(device, place)
    with monkeypatch.context() as patch:
        patch.setattr(mount_tree, "_LIBC", SimpleNamespace())
        mount_all(device, place)
        require_mounted(device, place)
        held(device, place)
        assert at_place(place) == []
    mount_all(device, place)


def test_what_others_mount_over_a_placeholder_is_theirs(device: BlockDevice, place: Path) -> None:
    """They do so after a command was killed. Nothing of theirs is taken away or covered."""
    mount_all(device, place)
    wanted = [record(place)]
    held(device, place)
    run("mount", "-t", "tmpfs", "theirs", place)
    with pytest.raises(MountPointTakenError, match="theirs is mounted on"):
        mounting.mount_all(device.path, device.devno, wanted)
    placeholder.remove([NAME])
    assert [each.source for each in at_place(place)] == [HELD_AS, "theirs"]
    run("umount", place)
    require_held(place)
    mounting.mount_all(device.path, device.devno, wanted)
    require_mounted(device, place)
    held(device, place)
    run("mount", "-o", "noatime,nosuid", device.path, place)
    mounting.mount_all(device.path, device.devno, wanted)
    held(device, place)
    mounting.mount_all(device.path, device.devno, wanted)
    require_mounted(device, place)


def test_what_only_has_the_name_of_one_is_left(place: Path) -> None:
    """It may hold something: that is why it is none."""
    run("mount", "-t", "tmpfs", HELD_AS, place)
    (place / "kept").touch()
    placeholder.remove([NAME])
    assert not placeholder.lies_on(place)
    placeholder.lift(place)
    assert (place / "kept").exists()


def test_what_is_kept_busy_keeps_its_mount(
    device: BlockDevice, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle at the first look and busy at the second: it is not seen what lies beneath."""
    mount_all(device, place)
    with (place / "file").open("w"):
        with pytest.raises(BusyError, match=f"pid {os.getpid()}"):
            held(device, place, 0.2)
        require_mounted(device, place)
        with monkeypatch.context() as patch:
            patch.setattr(placeholder, "_use", lambda _: errno.EAGAIN)
            with pytest.raises(BusyError):
                held(device, place, 0.2)
    hidden, top = at_place(place)
    assert placeholder.is_placeholder(hidden)
    assert mount_at(place) == top
    assert [r.mount_point for r in mounting.records(device.devno, place)] == [str(place)]
    mount_all(device, place)
    placeholder.remove([NAME])
    assert at_place(place) == [hidden, top]
    held(device, place)
    assert at_place(place) == [hidden]
    mount_all(device, place)
    require_mounted(device, place)


def test_what_cannot_be_mounted_leaves_the_placeholder(device: BlockDevice, place: Path) -> None:
    """Until the command ends."""
    mount_all(device, place)
    held(device, place)
    with pytest.raises(ProgramError):
        mounting.mount_all(device.path, device.devno, [MountRecord(str(place), "xfs", ())])
    require_held(place)
    placeholder.remove(["another"])
    require_held(place)
    placeholder.remove([NAME])
    assert at_place(place) == []


def test_somebody_in_a_placeholder_does_not_keep_it(device: BlockDevice, place: Path) -> None:
    mount_all(device, place)
    held(device, place)
    with told("sh", "-c", f"cd {place}; echo ready; exec sleep 600"):
        mount_all(device, place)
        require_mounted(device, place)


def test_where_it_is_mounted_within_itself(device: BlockDevice, place: Path, lab: Lab) -> None:
    """A placeholder there would keep busy what it lies in. A bind elsewhere has one of its own."""
    mount_all(device, place)
    (place / "inner").mkdir()
    (place / "of").mkdir()
    other = place.parent / "other"
    other.mkdir()
    run("mount", "--bind", place / "of", place / "inner")
    run("mount", "-o", "bind,ro", place / "of", other)
    before = mount_lines()
    wanted = mounting.records(device.devno, lab.directory / "parking")
    mounting.unmount(device.devno, 10, wanted, held_as=HELD_AS)
    require_held(place)
    assert placeholder.lies_on(other)
    mounting.mount_all(device.path, device.devno, wanted)
    assert mount_lines() == before
    assert placeholders() == []
    mounting.unmount(device.devno, 10, wanted, held_as=HELD_AS)
    placeholder.remove([NAME])


def test_a_file_is_no_place_for_one(device: BlockDevice, place: Path, lab: Lab) -> None:
    mount_all(device, place)
    (place / "file").write_text("content")
    at = place.parent / "file"
    at.touch()
    run("mount", "--bind", place / "file", at)
    wanted = mounting.records(device.devno, lab.directory / "parking")
    mounting.unmount(device.devno, 10, wanted, held_as=HELD_AS)
    assert at_place(at) == []
    mounting.mount_all(device.path, device.devno, wanted)
    assert at.read_text() == "content"
    assert placeholders() == []
    mounting.unmount(device.devno, 10, wanted, held_as=HELD_AS)
    placeholder.remove([NAME])


@only_shared
def test_another_name_space_sees_the_same(device: BlockDevice, place: Path) -> None:
    """As a service's with PrivateTmp=, which follows that of the host."""
    mount_all(device, place)
    with in_name_space("slave") as pid:
        held(device, place)
        (found,) = at_place(place, pid)
        assert placeholder.is_placeholder(found)
        mount_all(device, place)
        require_mounted(device, place, pid)
        held(device, place)
        placeholder.remove([NAME])
        assert at_place(place, pid) == []
        assert at_place(place) == []


@only_shared
def test_kept_busy_in_another_name_space(device: BlockDevice, place: Path) -> None:
    """Only the attempt to unmount it finds that out: what lies beneath then serves the next one."""
    mount_all(device, place)
    with in_name_space("slave") as idle:
        with in_name_space("slave", f"cd {place}") as pid:
            for _ in range(2):
                with pytest.raises(BusyError):
                    held(device, place, 0.2)
                for each in (idle, pid, "self"):
                    assert at_place(place, each)[-1].devno == device.devno
        held(device, place)
        mount_all(device, place)
        require_mounted(device, place, idle)
        require_mounted(device, place)


@only_shared
def test_a_name_space_that_shares_nothing(device: BlockDevice, place: Path) -> None:
    """It keeps what it had, as it does whenever something is unmounted."""
    mount_all(device, place)
    with in_name_space("private") as pid:
        held(device, place)
        mount_all(device, place)
        require_mounted(device, place)
        require_mounted(device, place, pid)
