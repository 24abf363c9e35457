"""Whether a recovered volume is what it must be. A check that does not hold raises FailedError."""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from demonstration.notes import Lineage, Versions
from demonstration.program import FailedError, run
from demonstration.volume import Volume, loop_device
from demonstration.workload import DATABASE, FILES

FSCK = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}
TWIN_OPTIONS = {"ext4": "noatime", "xfs": "noatime,nouuid"}
COW_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """What was found, all of it right; and of what was noted before, what is on no volume."""

    files: int
    transactions: int
    lost_transactions: int
    lost_seconds: float


def check_content(volume: Volume, lineage: Lineage) -> Content:
    """Every noted file with its checksum, every noted transaction, and nothing that was lost.

    The application goes on meanwhile: what it is writing is known from its notes.
    """
    until = volume.position
    sequences = read_database(volume.mount_point / DATABASE)
    digests = read_files(volume.mount_point / FILES)
    versions = lineage.versions(volume.records(), until)
    compare_files(volume.name, digests, versions)
    compare_sequences(volume.name, sequences, versions)
    lost = [
        record.moment
        for record in volume.commits()
        if record.position < lineage.recovered and record.sequence not in sequences
    ]
    return Content(
        files=len(versions.required_files),
        transactions=len(versions.required_sequences),
        lost_transactions=len(lost),
        lost_seconds=max(lost) - min(lost) if lost else 0,
    )


def read_files(directory: Path) -> dict[str, str]:
    """The checksum of every file, but for those that were not finished."""
    return {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.suffix == ".bin"
    }


def read_database(path: Path) -> set[int]:
    """The sequence numbers, after ``PRAGMA integrity_check`` and the payloads' checksums."""
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)) as database:
        verdict = database.execute("PRAGMA integrity_check").fetchall()
        if verdict != [("ok",)]:
            raise FailedError(f"PRAGMA integrity_check of {path}: {verdict}")
        found = set()
        for sequence, payload, digest in database.execute("SELECT * FROM orders"):
            if sha256(payload).hexdigest() != digest:
                raise FailedError(f"transaction {sequence} of {path} has another checksum")
            found.add(sequence)
    return found


def compare_files(name: str, digests: dict[str, str], versions: Versions) -> None:
    missing = versions.required_files - digests.keys()
    wrong = [file for file, digest in digests.items() if digest not in versions.files[file]]
    if missing or wrong:
        raise FailedError(
            f"{name}: of {len(versions.required_files)} files {len(missing)} are missing"
            f"{some(missing)} and {len(wrong)} have another checksum{some(wrong)}"
        )


def compare_sequences(name: str, found: set[int], versions: Versions) -> None:
    missing = versions.required_sequences - found
    unknown = found - versions.sequences
    if missing or unknown:
        raise FailedError(
            f"{name}: of {len(versions.required_sequences)} transactions {len(missing)} are "
            f"missing{some(missing)}; {len(unknown)} are of no moment that was recovered"
            f"{some(unknown)}"
        )


def some(items: Iterable[object]) -> str:
    """The first few, for a message."""
    listed = sorted(str(item) for item in items)
    return f" ({', '.join(listed[:3])}{', …' if len(listed) > 3 else ''})" if listed else ""


def check_point(volume: Volume, directory: Path) -> str:
    """fsck of the point that a trial lies over, its journal replayed in a throwaway snapshot.

    Returns the command that found nothing.
    """
    device = f"demo-check-{volume.name}"
    below = point_device(volume)
    cow = directory / f"{device}.cow"
    loop = loop_device(cow, COW_BYTES)
    sectors = volume.size_bytes // 512
    run("dmsetup", "create", device, "--table", f"0 {sectors} snapshot {below} {loop} N 8")
    try:
        replay_journal(volume, Path("/dev/mapper") / device, directory)
        return fsck(volume.fs_type, Path("/dev/mapper") / device)
    finally:
        run("dmsetup", "remove", device)
        run("losetup", "--detach", loop)
        cow.unlink()


def point_device(volume: Volume) -> str:
    """MAJOR:MINOR of what lies below the overlay of a trial: the point, which does not change."""
    tables = run("dmsetup", "table")
    shown = rf"^dmsnap-{re.escape(volume.name)}-origin-\d+: 0 \d+ snapshot (\d+:\d+) "
    found = re.findall(shown, tables, re.MULTILINE)
    if len(found) != 1:
        raise FailedError(f"{volume.name} is in no trial:\n{tables}")
    return str(found[0])


def overlay_bytes(volume: Volume) -> int:
    """How much a trial's overlay holds."""
    status = run("dmsetup", "status")
    shown = rf"^dmsnap-{re.escape(volume.name)}-origin-\d+: 0 \d+ snapshot (\d+)/\d+ \d+$"
    found = re.findall(shown, status, re.MULTILINE)
    if len(found) != 1:
        raise FailedError(f"the overlay of {volume.name} is not there, or not valid:\n{status}")
    return int(found[0]) * 512


def replay_journal(volume: Volume, device: Path, directory: Path) -> None:
    """fsck without repair takes a journal that was not replayed for damage."""
    mount_point = directory / "check"
    mount_point.mkdir(exist_ok=True)
    run("mount", "-o", TWIN_OPTIONS[volume.fs_type], device, mount_point)
    run("umount", mount_point)


def fsck(fs_type: str, device: Path) -> str:
    """Check a file system that is not mounted; returns the command."""
    run(*FSCK[fs_type], device)
    return " ".join(FSCK[fs_type])
