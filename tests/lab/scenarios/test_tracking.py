"""No dirty block is missed: whatever way a volume is written, its replica follows bit for bit."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import MIB, Lab, dmsnap, run
from raw_volume import KIB, SECTOR, WAYS, Protected, protected, write_direct

GEOMETRIES = {
    "512-over": (10 * MIB + SECTOR, 64 * KIB, 4 * KIB),
    "7-sectors-over": (9 * MIB + 7 * SECTOR, 4 * KIB, 4 * KIB),
    "4096-and-512-over": (12 * MIB + 4096 + SECTOR, MIB, 64 * KIB),
    "chunk-over-block": (12 * MIB, 8 * KIB, MIB),
}


def check_way(volume: Protected, way: str) -> None:
    """Write in one way; the next sync finds these blocks, no others, and copies them."""
    written = WAYS[way](volume.front, volume.size_bytes)
    result = volume.sync()
    assert result["tracker"] == "era"
    assert result["bytes_dirty"] == volume.blocks_of(written), way
    assert result["bytes_written"] <= result["bytes_compared"] < 2 * result["bytes_dirty"] + MIB
    volume.check_equal()


@pytest.mark.selection
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_a_raw_volume(lab: Lab, way: str) -> None:
    volume = protected(lab, 12 * MIB)
    check_way(volume, way)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_writes_on_every_geometry(lab: Lab, geometry: str) -> None:
    size_bytes, block_bytes, chunk_bytes = GEOMETRIES[geometry]
    volume = protected(lab, size_bytes, "--chunk", chunk_bytes, block_bytes=block_bytes)
    volume.check_equal()
    for way in ("direct", "mmap", "blkdiscard-zero"):
        check_way(volume, way)
    result = volume.sync("--audit", "full")
    assert result["bytes_dirty"] == 0
    audit = result["audit"]
    assert (audit["kind"], audit["bytes_compared"]) == ("full", size_bytes)
    assert (audit["bytes_different"], audit["bytes_skipped"]) == (0, 0)


def test_what_a_raw_volume_was_written_is_flushed_before_the_replica_counts(lab: Lab) -> None:
    """Its disk may lose what lies in its cache, and has no mark for it: a suspend flushes none."""
    volume = protected(lab, 12 * MIB)
    write_direct(volume.front, os.urandom(64 * KIB), MIB)
    before = flushes(volume.primary)
    (point,) = dmsnap("point", "create", volume.name)
    assert flushes(volume.primary) == before
    volume.sync()
    assert flushes(volume.primary) > before
    dmsnap("point", "delete", point["id"])


@pytest.mark.selection
def test_writes_are_whole_where_no_point_is_live(lab: Lab) -> None:
    """The origin cuts them at the chunks of snapshots, and does not see itself that those went."""
    volume = protected(lab, 12 * MIB)
    assert pieces_of_a_write(volume) == 1
    for command in ("sync", "verify"):
        dmsnap(command, volume.name)
        assert pieces_of_a_write(volume) == 1, command
    first, second = (dmsnap("point", "create", volume.name)[0]["id"] for _ in range(2))
    dmsnap("sync", volume.name)
    assert pieces_of_a_write(volume) > 1
    dmsnap("point", "delete", first)
    assert pieces_of_a_write(volume) > 1
    dmsnap("point", "delete", second)
    assert pieces_of_a_write(volume) == 1
    volume.sync("--audit", "full")


def pieces_of_a_write(volume: Protected) -> int:
    """Into how many requests the origin cuts one of a block of dm-era."""
    origin = volume.front.with_name(f"dmsnap-{volume.name}-origin-1")
    before = writes(origin)
    write_direct(volume.front, os.urandom(volume.block_bytes), MIB)
    return writes(origin) - before


def writes(device: Path) -> int:
    """How many the device has completed: field 5 of its statistics."""
    number = device.stat().st_rdev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    return int(path.read_text().split()[4])


def flushes(device: str) -> int:
    """How many the device has completed: field 16 of its statistics."""
    return int(Path("/sys/class/block", Path(device).name, "stat").read_text().split()[15])


def test_a_sync_costs_what_was_written_not_what_there_is(lab: Lab) -> None:
    """512 MiB and one sector, of which eight blocks change."""
    volume = protected(lab, 512 * MIB + SECTOR, filled=False)
    offsets = [*range(0, 512 * MIB, 73 * MIB), 512 * MIB]
    for offset in offsets:
        write_direct(volume.front, os.urandom(SECTOR), offset)
    result = volume.sync()
    assert result["bytes_dirty"] == volume.blocks_of((offset, SECTOR) for offset in offsets)
    assert result["bytes_compared"] == result["bytes_dirty"]
    assert result["bytes_written"] <= len(offsets) * 4096
    volume.check_equal()


def discard_max_bytes(name: str) -> int:
    device = (Path("/dev/mapper") / name).resolve().name
    if not device.startswith("dm-"):
        minor = os.minor((Path("/dev/mapper") / name).stat().st_rdev)
        device = f"dm-{minor}"
    return int(Path(f"/sys/block/{device}/queue/discard_max_bytes").read_text())


def test_discards_stay_off_whatever_is_loaded(lab: Lab) -> None:
    """Every load of the front's table makes the kernel compute the queue's limits anew."""
    volume = protected(lab, 12 * MIB)
    assert discard_max_bytes(volume.name) == 0
    dmsnap("point", "create", volume.name)
    volume.sync()
    assert discard_max_bytes(volume.name) == 0
    dmsnap("swap", volume.name, "--trial")
    assert discard_max_bytes(volume.name) == 0
    dmsnap("swap", "revert", volume.name)
    assert discard_max_bytes(volume.name) == 0
    for point in dmsnap("point", "list", volume.name):
        if any(place["kind"] == "live" for place in point["places"]):
            dmsnap("point", "delete", point["id"])
    run("dmsetup", "remove", volume.name)
    dmsnap("assemble", volume.name)
    assert discard_max_bytes(volume.name) == 0


def test_nobody_can_turn_discards_on(lab: Lab) -> None:
    """udev rules and tuning daemons write discard_max_bytes: the origin below takes none."""
    volume = protected(lab, 12 * MIB)
    minor = os.minor(volume.front.stat().st_rdev)
    limit = Path(f"/sys/block/dm-{minor}/queue/discard_max_bytes")
    with suppress(OSError):
        limit.write_text(str(32 * MIB))
    WAYS["discard"](volume.front, volume.size_bytes)
    assert volume.sync("--audit", "full")["bytes_dirty"] == 0
    volume.check_equal()


# file systems

SIZES = {"ext4": 48 * MIB, "xfs": 320 * MIB}


def file_direct(root: Path) -> None:
    path = root / "direct"
    path.write_bytes(bytes(2 * MIB))
    os.sync()
    write_direct(path, os.urandom(64 * KIB), 4096)
    write_direct(path, os.urandom(4096), MIB)


def file_buffered(root: Path) -> None:
    for number in range(30):
        (root / f"buffered-{number}").write_bytes(os.urandom(1000 + 3777 * number))


def file_mmap(root: Path) -> None:
    """By a process of its own, whose mapping is still there, dirty, when the point is taken."""
    script = """
        import mmap, os, sys
        with open(sys.argv[1], "w+b") as file:
            file.truncate(4 << 20)
            mapping = mmap.mmap(file.fileno(), 4 << 20)
            for offset in range(7, 4 << 20, 300001):
                mapping[offset:offset + 5000] = os.urandom(5000)
            print("mapped", flush=True)
            sys.stdin.readline()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(root / "mapped")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"mapped\n"
    HELD.append(child)


HELD: list[subprocess.Popen[bytes]] = []


def file_holes(root: Path) -> None:
    path = root / "buffered-29"
    path.write_bytes(os.urandom(4 * MIB))
    os.sync()
    run("fallocate", "--punch-hole", "-o", 123 * KIB, "-l", MIB, path)
    run("fallocate", "-z", "-o", 2 * MIB, "-l", MIB, path)
    os.truncate(path, 3 * MIB + 77)


def file_deletion(root: Path) -> None:
    """What a mount with discards would discard."""
    for path in root.glob("buffered-*"):
        path.unlink()
    os.sync()


def file_trim(root: Path) -> None:
    refused = subprocess.run(
        ["fstrim", "-v", str(root)], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "supported" in refused.stderr


def metadata_only(root: Path) -> None:
    for number in range(200):
        (root / f"empty-{number}").touch()
    for number in range(0, 200, 2):
        (root / f"empty-{number}").rename(root / f"renamed-{number}")


FILE_WAYS: list[Callable[[Path], None]] = [
    file_direct,
    file_buffered,
    file_mmap,
    file_holes,
    file_deletion,
    file_trim,
    metadata_only,
]


@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        pytest.param("ext4", "", marks=pytest.mark.selection),
        ("ext4", "discard"),
        ("xfs", "discard"),
    ],
)
def test_every_way_of_writing_files(lab: Lab, fs_type: str, options: str) -> None:
    """Audited in full against each point while mounted; judged by sha256 when unmounted."""
    size_bytes = SIZES[fs_type]
    primary, recovery = lab.disk(size_bytes), lab.disk(size_bytes + 96 * MIB)
    root = lab.mounted(primary, fs_type, options)
    volume = Protected(lab.protect(primary, recovery), primary, recovery, size_bytes)
    ways = FILE_WAYS if not options else [file_buffered, file_deletion, file_trim]
    for way in ways:
        way(root)
        result = volume.sync("--audit", "full")
        assert result["tracker"] == "era", way.__name__
        assert result["audit"]["bytes_different"] == 0
        assert result["bytes_dirty"] < size_bytes // 2
    while HELD:
        child = HELD.pop()
        child.communicate()
    run("umount", root)
    volume.sync()
    volume.check_equal()
    check = ["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n"]
    run(*check, volume.front)
