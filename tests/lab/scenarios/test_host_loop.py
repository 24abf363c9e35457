"""Loop devices and their files on a real kernel."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from dmsnap.errors import BusyError, NoSpaceError, NotFoundError, ReadOnlyError
from dmsnap.host import blockdev, loop
from dmsnap.host.sysfs import SYSFS, Sysfs, format_devno
from dmsnap.units import MIB

ATTACH = """
import sys
from pathlib import Path
from dmsnap.host import loop
sys.stdin.read(1)
print(loop.attach(Path(sys.argv[1])).path)
"""


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in /scratch; what is attached from it is detached afterwards."""
    made = Path("/scratch", tmp_path_factory.mktemp("loop").name)
    made.mkdir()
    yield made
    for file in made.iterdir():
        path = loop.find(file)
        if path:
            loop.detach(path)
        file.unlink()
    made.rmdir()


def image(directory: Path, name: str = "image", size_bytes: int = 16 * MIB) -> Path:
    file = directory / name
    loop.create_backing_file(file, size_bytes)
    return file


def test_attach_find_detach(directory: Path) -> None:
    file = image(directory)
    assert loop.find(file) is None
    device = loop.attach(file)
    assert device.size_bytes == 16 * MIB
    assert device.logical_block_bytes == 512
    assert not device.read_only
    assert loop.find(file) == device.path
    assert SYSFS.loop_backing_file(device.devno) == str(file)
    assert SYSFS.attribute(device.devno, "loop/autoclear") == "0"
    assert SYSFS.attribute(device.devno, "loop/dio") == "1"
    loop.detach(device.path)
    assert loop.find(file) is None
    loop.detach(device.path)


def test_a_renamed_file_is_found(directory: Path) -> None:
    file = image(directory)
    device = loop.attach(file)
    renamed = file.rename(directory / "renamed")
    assert loop.find(renamed) == device.path
    other = image(directory, "image")
    assert loop.find(other) is None


def test_read_only(directory: Path) -> None:
    device = loop.attach(image(directory), read_only=True)
    assert device.read_only
    writing = blockdev.open_exclusive(device.path, write=True)
    with pytest.raises(ReadOnlyError), writing:
        pytest.fail("opened a read-only device for writing")


def test_without_direct_io(directory: Path) -> None:
    device = loop.attach(image(directory), direct_io=False)
    assert SYSFS.attribute(device.devno, "loop/dio") == "0"


def test_a_missing_file(directory: Path) -> None:
    with pytest.raises(NotFoundError, match="none: No such file"):
        loop.attach(directory / "none")


def test_detach_of_a_device_in_use(directory: Path) -> None:
    device = loop.attach(image(directory))
    refused = pytest.raises(BusyError, match=r"still in use \(open in .* \(pid")
    with blockdev.open_exclusive(device.path, write=True), refused:
        loop.detach(device.path, deadline_seconds=0.5)
    wait_until("it is detached", lambda: SYSFS.loop_backing_file(device.devno) is None)


def test_detach_waits_for_the_last_close(directory: Path) -> None:
    device = loop.attach(image(directory))
    reader = subprocess.Popen(["sh", "-c", f"exec 3<{device.path}; echo; sleep 1"], stdout=-1)
    assert reader.stdout is not None
    reader.stdout.readline()
    loop.detach(device.path, deadline_seconds=60)
    assert SYSFS.loop_backing_file(device.devno) is None
    reader.communicate()


def test_many_at_once_get_devices_of_their_own(directory: Path) -> None:
    files = [image(directory, f"image-{number}", MIB) for number in range(8)]
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", ATTACH, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for file in files
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("x")
        starter.stdin.flush()
    paths = [starter.communicate()[0].strip() for starter in starters]
    assert len(set(paths)) == len(files)
    assert [str(loop.find(file)) for file in files] == paths


def test_no_space_leaves_no_file(directory: Path) -> None:
    outer = loop.attach(image(directory, "outer", 32 * MIB))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", outer.path], check=True)
    mounted = Path("/mnt")
    subprocess.run(["mount", outer.path, mounted], check=True)
    try:
        with pytest.raises(NoSpaceError, match="/mnt has no room"):
            loop.create_backing_file(mounted / "large", 64 * MIB)
        assert not (mounted / "large").exists()
        assert os.statvfs(mounted).f_bavail * 4096 > MIB
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_file_depends_on_what_it_lies_on(directory: Path) -> None:
    """A store in a file system on a loop device in /scratch: refused for either volume below."""
    outer = loop.attach(image(directory, "outer", 64 * MIB))
    other = loop.attach(image(directory, "other"))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", outer.path], check=True)
    mounted = Path("/mnt")
    subprocess.run(["mount", outer.path, mounted], check=True)
    inner_file = image(mounted, "inner")
    inner = loop.attach(inner_file)
    try:
        scratch = Path("/scratch").stat().st_dev
        assert blockdev.file_depends_on(mounted, outer.devno)
        assert blockdev.file_depends_on(inner_file, scratch)
        assert blockdev.depends_on(inner.devno, outer.devno)
        assert blockdev.depends_on(inner.devno, scratch)
        assert not blockdev.depends_on(inner.devno, other.devno)
        assert not blockdev.depends_on(outer.devno, inner.devno)
        inner_file.unlink()
        backing = SYSFS.loop_backing_file(inner.devno)
        assert backing is not None
        assert backing.endswith(" (deleted)")
        assert blockdev.depends_on(inner.devno, outer.devno)
    finally:
        loop.detach(inner.path)
        subprocess.run(["umount", mounted], check=True)


def test_a_file_without_a_device(tmp_path: Path) -> None:
    """On tmpfs there is no block device to depend on."""
    del tmp_path
    file = image(Path("/dev/shm"), "dmsnap-test", MIB)  # noqa: S108 - a tmpfs is what is wanted
    device = loop.attach(file)
    try:
        scratch = Path("/scratch").stat().st_dev
        assert not blockdev.file_depends_on(file, scratch)
        assert not blockdev.depends_on(device.devno, scratch)
    finally:
        loop.detach(device.path)
        file.unlink()


def test_flush_buffers_drops_the_page_cache(directory: Path) -> None:
    """What is written past the page cache is seen after a flush."""
    file = image(directory)
    device = loop.attach(file)
    assert device.path.read_bytes()[:4] == bytes(4)
    with blockdev.open_shared(device.path, direct=False) as held:
        os.pread(held, 4096, 0)
        past = ["dd", "if=/dev/urandom", f"of={file}", "oflag=direct", "conv=notrunc"]
        subprocess.run([*past, "bs=4096", "count=1", "status=none"], check=True)
        blockdev.flush_buffers(device.path)
        assert os.pread(held, 4096, 0) != bytes(4096)


def test_a_device_that_is_detached_while_others_are_looked_for(
    directory: Path, tmp_path: Path
) -> None:
    """Listed as attached, and free when it is asked: it is not the one, and no error."""
    file = image(directory)
    free = loop.attach(image(directory, "other"))
    listed = tmp_path / "block" / free.path.name / "loop"
    listed.mkdir(parents=True)
    (listed.parent / "dev").write_text(f"{format_devno(free.devno)}\n")
    (listed / "backing_file").write_text("/gone\n")
    link = tmp_path / "dev" / "block" / format_devno(free.devno)
    link.parent.mkdir(parents=True)
    link.symlink_to(listed.parent)
    loop.detach(free.path)
    assert loop.find(file, sysfs=Sysfs(tmp_path)) is None
