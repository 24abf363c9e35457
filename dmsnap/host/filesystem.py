"""File systems that dmsnap knows: checking them without a write, and what their superblock says."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import CorruptError, WrongStateError
from dmsnap.host.blockdev import open_shared
from dmsnap.host.run import Completed, run
from dmsnap.host.system_call import system_call

CHECK_SECONDS = 4 * 3600

_SUPERBLOCKS_BYTES = 4096
_EXT4_MAGIC = 0xEF53
_EXT4_BIGALLOC = 0x200
_EXT4_HAS_JOURNAL = 0x4
_BTRFS_SUPERBLOCK_OFFSET = 65536


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``clean``, a sentence for people, and what the checker wrote."""

    clean: bool
    sentence: str
    output: str


def check(device: Path, fs_type: str, *, timeout_seconds: float = CHECK_SECONDS) -> CheckResult:
    """Check a file system that is not mounted, without writing: e2fsck -fn, xfs_repair -n.

    Neither replays the journal: a file system that was not frozen or unmounted cleanly can show
    faults that its next mount mends. Put a throwaway overlay over it and mount that before.
    Raises ``WrongStateError`` for other types, ``ProgramError`` when the checker itself fails.
    """
    checker = _CHECKERS.get(fs_type)
    if checker is None:
        raise WrongStateError(f"{device}: checking {fs_type} is not supported", fs_type=fs_type)
    return checker(device, timeout_seconds)


def _check_ext4(device: Path, timeout_seconds: float) -> CheckResult:
    """e2fsck(8): 0 is clean, 4 is errors left; all others are failures of its own."""
    arguments = ("-f", "-n", str(device))
    completed = run("e2fsck", *arguments, timeout_seconds=timeout_seconds, expected=(0, 4))
    return _result(device, completed)


def _check_xfs(device: Path, timeout_seconds: float) -> CheckResult:
    """xfs_repair(8): with -n, 0 is clean and 1 is corruption."""
    image = ("-f",) if device.is_file() else ()
    arguments = ("-n", *image, str(device))
    completed = run("xfs_repair", *arguments, timeout_seconds=timeout_seconds, expected=(0, 1))
    return _result(device, completed)


_CHECKERS: dict[str, Callable[[Path, float], CheckResult]] = {
    "ext2": _check_ext4,
    "ext3": _check_ext4,
    "ext4": _check_ext4,
    "xfs": _check_xfs,
}


def _result(device: Path, completed: Completed) -> CheckResult:
    program = completed.argv[0]
    output = completed.text + completed.stderr.decode(errors="replace")
    clean = completed.returncode == 0
    verdict = "finds nothing wrong with" if clean else "finds errors on"
    return CheckResult(clean, f"{program} {verdict} {device}", output)


def block_size(device: Path, fs_type: str) -> int:
    """The smallest piece, in bytes, in which the file system does I/O to its device.

    That is ext4's block and XFS's sector. Devices with larger logical blocks cannot hold it.
    Raises ``CorruptError`` when there is no such superblock, ``WrongStateError`` for other types.
    """
    start = _superblocks(device, fs_type)
    if fs_type in ("ext2", "ext3", "ext4"):
        return _ext4_block_bytes(device, start)
    if fs_type == "xfs":
        return _xfs_sector_bytes(device, start)
    raise WrongStateError(f"{device}: the block size of {fs_type} is not known", fs_type=fs_type)


def ext4_has_bigalloc(device: Path) -> bool:
    """Whether ext4 allocates clusters of blocks: EXT4_FEATURE_RO_COMPAT_BIGALLOC."""
    start = _superblocks(device, "ext4")
    _ext4_block_bytes(device, start)
    (features,) = struct.unpack_from("<I", start, 1024 + 0x64)
    return bool(features & _EXT4_BIGALLOC)


def part_elsewhere(device: Path, fs_type: str) -> str | None:
    """What of a file system lies on another device than this; None: nothing that is known of."""
    if fs_type in ("ext3", "ext4"):
        return _ext4_part_elsewhere(_superblocks(device, fs_type))
    if fs_type == "xfs":
        return _xfs_part_elsewhere(_superblocks(device, fs_type))
    if fs_type == "btrfs":
        return _btrfs_part_elsewhere(_superblocks(device, fs_type, _BTRFS_SUPERBLOCK_OFFSET))
    return None


def _ext4_part_elsewhere(start: bytes) -> str | None:
    """``s_feature_compat`` at 0x5C, ``s_journal_inum`` at 0xE0: 0 where the journal is no file."""
    (features,) = struct.unpack_from("<I", start, 1024 + 0x5C)
    (inode,) = struct.unpack_from("<I", start, 1024 + 0xE0)
    return "its journal" if features & _EXT4_HAS_JOURNAL and not inode else None


def _xfs_part_elsewhere(start: bytes) -> str | None:
    """``sb_rblocks`` at 16, ``sb_logstart`` at 48: 0 where the log is on a device of its own."""
    realtime_blocks, log_start = struct.unpack_from(">16xQ24xQ", start)
    if not log_start:
        return "its log"
    return "its realtime section" if realtime_blocks else None


def _btrfs_part_elsewhere(superblock: bytes) -> str | None:
    """``num_devices`` at 0x88."""
    (num_devices,) = struct.unpack_from("<Q", superblock, 0x88)
    return f"a part of it ({num_devices} devices)" if num_devices > 1 else None


def _superblocks(device: Path, fs_type: str, offset_bytes: int = 0) -> bytes:
    with open_shared(device, direct=False) as descriptor, system_call(f"read {device}"):
        start = os.pread(descriptor, _SUPERBLOCKS_BYTES, offset_bytes)
    if len(start) < _SUPERBLOCKS_BYTES:
        raise CorruptError(f"{device} is too small to hold {fs_type}")
    return start


def _ext4_block_bytes(device: Path, start: bytes) -> int:
    """The superblock is at 1024: ``s_log_block_size`` at 0x18, ``s_magic`` at 0x38."""
    log_block_size, magic = struct.unpack_from("<24xI28xH", start, 1024)
    if magic != _EXT4_MAGIC or log_block_size > 6:
        raise CorruptError(f"{device} has no ext4 superblock")
    return 1024 << int(log_block_size)


def _xfs_sector_bytes(device: Path, start: bytes) -> int:
    """Big-endian, from the first byte: ``sb_magicnum``, ``sb_sectsize`` at 102."""
    magic, sector_bytes = struct.unpack_from(">4s98xH", start)
    if magic != b"XFSB" or sector_bytes not in (512, 1024, 2048, 4096, 8192, 16384, 32768):
        raise CorruptError(f"{device} has no XFS superblock")
    return int(sector_bytes)
