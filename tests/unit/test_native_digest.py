"""Digests through the Python wrapper, with xxhsum as the judge."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmsnap._native import digest
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import CorruptError, OperatingSystemError
from dmsnap.extent import Extent
from dmsnap.units import KIB, MIB

SIZE = 3 * MIB + 512 * 3
VARIANTS = [CopyOptions(), CopyOptions(without_io_uring=True), CopyOptions(request_bytes=4 * KIB)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    content = os.urandom(SIZE)
    fds = []
    for name in ("left", "right"):
        (tmp_path / name).write_bytes(content)
        fds.append(os.open(tmp_path / name, os.O_RDWR))
    yield fds[0], fds[1]
    for fd in fds:
        os.close(fd)


def whole() -> ExtentSet:
    return ExtentSet.from_extents([Extent(0, SIZE)])


@pytest.mark.skipif(shutil.which("xxhsum") is None, reason="the package xxhash is the judge")
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(
    "extents",
    [
        [],
        [Extent(0, 4096)],
        [Extent(0, SIZE)],
        [Extent(4096, MIB), Extent(2 * MIB, 64 * KIB), Extent(SIZE - 512, 512)],
    ],
)
def test_the_digest_is_what_xxhsum_says(
    tmp_path: Path, pair: tuple[int, int], extents: list[Extent], options: CopyOptions
) -> None:
    chosen = ExtentSet.from_extents(extents)
    grown = ExtentSet.from_extents(extents)
    grown.align(4096)
    grown.clamp(SIZE)
    joined = tmp_path / "joined"
    joined.write_bytes(
        b"".join(os.pread(pair[0], each.length_bytes, each.offset_bytes) for each in grown)
    )
    said = subprocess.run(["xxhsum", "-H2", joined], capture_output=True, text=True, check=True)
    ours = digest.of_extents(pair[0], SIZE, chosen, options=options, name="x")
    assert ours.hex() == said.stdout.split()[0].removeprefix("XXH128_")


@pytest.mark.parametrize("options", VARIANTS)
def test_a_wrong_bit_is_in_a_suspect(pair: tuple[int, int], options: CopyOptions) -> None:
    assert digest.compare(*pair, SIZE, whole(), options=options, name="x") == (SIZE, ExtentSet())
    place = 2 * MIB + 777
    wrong = bytes([os.pread(pair[0], 1, place)[0] ^ 1])
    os.pwrite(pair[1], wrong, place)
    compared, suspects = digest.compare(*pair, SIZE, whole(), options=options, name="x")
    assert compared == SIZE
    (suspect,) = suspects
    assert suspect.offset_bytes <= place < suspect.end_bytes
    assert suspect.length_bytes <= (options.request_bytes or MIB)


def test_progress_ends_with_all_bytes_and_may_raise(pair: tuple[int, int]) -> None:
    calls: list[int] = []
    digest.compare(*pair, SIZE, whole(), progress=calls.append, name="x")
    assert calls == sorted(calls)
    assert calls[-1] == SIZE

    def stop(_bytes_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digest.compare(*pair, SIZE, whole(), progress=stop, name="x")
    with pytest.raises(KeyboardInterrupt):
        digest.of_extents(pair[0], SIZE, whole(), progress=stop, name="x")


def test_errors_are_named(pair: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="sdc: the source has"):
        digest.compare(*pair, SIZE + 512, whole(), name="sdc")
    write_only = os.open(tmp_path / "right", os.O_WRONLY)
    try:
        with pytest.raises(OperatingSystemError, match=r"sdc: reading .* of the destination"):
            digest.compare(pair[0], write_only, SIZE, whole(), name="sdc")
    finally:
        os.close(write_only)
