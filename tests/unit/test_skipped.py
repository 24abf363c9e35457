"""What a copy leaves out, as it is recorded: of a file system that is in a million pieces, too."""

import re
import subprocess
import sys
import zlib
from pathlib import Path
from uuid import UUID

import pytest

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue import skipped
from dmsnap.catalogue.skipped import Skipped
from dmsnap.catalogue.store import Catalogue
from dmsnap.units import KIB, MIB

PIECES = 1_000_000
LIMIT_BYTES = 150 * MIB
RECOVERY, POINT = UUID(int=1), UUID(int=2)


def peak_bytes() -> int:
    """Of what runs in this process since exec: ru_maxrss begins with what its parent had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def record_and_read(directory: Path) -> int:
    """What it takes at most to record the pieces, and to read them again."""
    pieces = ExtentSet()
    for number in range(PIECES):
        pieces.add(number * MIB, 256 * KIB + number % 7 * 4 * KIB)
    with Catalogue.open(directory / "catalogue.db") as catalogue:
        skipped.record(catalogue, Skipped(RECOVERY, (POINT,), pieces))
        found = skipped.of_replica(catalogue, RECOVERY, POINT)
        (row,) = catalogue_rows(catalogue)
        assert skipped.bytes_in(row, POINT) == pieces.bytes
    assert (len(found), found.bytes) == (PIECES, pieces.bytes)
    assert not found.without(pieces)
    return peak_bytes()


def catalogue_rows(catalogue: Catalogue) -> list[dict[str, object]]:
    with catalogue.statements() as statements:
        return statements.rows("SELECT points, extents FROM skipped")


def test_a_million_pieces(tmp_path: Path) -> None:
    """In a process of its own: what others left in this one would count."""
    completed = subprocess.run(
        [sys.executable, __file__, tmp_path], capture_output=True, text=True, check=True
    )
    assert 16 * PIECES < int(completed.stdout) < LIMIT_BYTES


def test_what_is_recorded_in_part_is_not_believed(catalogue: Catalogue) -> None:
    """Neither where a byte of it is missing, nor where it ends within a pair."""
    pieces = ExtentSet.whole(3 * MIB)
    skipped.record(catalogue, Skipped(RECOVERY, (POINT,), pieces))
    (row,) = catalogue_rows(catalogue)
    whole = bytes(row["extents"])  # type: ignore[call-overload]
    for part in (whole[:-1], zlib.compress(zlib.decompress(whole)[:-1])):
        with catalogue.statements() as statements:
            statements.execute("UPDATE skipped SET extents = :part", part=part)
        with pytest.raises(zlib.error):
            skipped.of_replica(catalogue, RECOVERY, POINT)


if __name__ == "__main__":
    print(record_and_read(Path(sys.argv[1])))
