"""What a first copy may leave out: only what was free and never written, in whole pages."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.extent import Extent
from dmsnap.host.mount import Mount
from dmsnap.snapshot import usage
from dmsnap.units import KIB, MIB

SIZE = 8 * MIB + 3 * 512

extents = st.lists(
    st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 3000)).map(
        lambda pair: Extent(pair[0] * 512, min(pair[1] * 512, SIZE - pair[0] * 512))
    ),
    max_size=12,
).map(ExtentSet.from_extents)


@given(extents, extents)
def test_nothing_that_is_used_or_was_written_is_left_out(
    free: ExtentSet, written: ExtentSet
) -> None:
    left_out = usage.left_out(free, written, SIZE)
    assert not left_out.without(free)
    assert not left_out.within(written)
    for extent in left_out:
        assert extent.offset_bytes % 4096 == 0
        assert extent.end_bytes % 4096 == 0 or extent.end_bytes == SIZE


def test_what_is_worth_it_is_left_out() -> None:
    free = ExtentSet.from_extents([Extent(0, 100 * KIB), Extent(MIB + 512, 2 * MIB)])
    written = ExtentSet.from_extents([Extent(2 * MIB, 64 * KIB)])
    assert list(usage.left_out(free, written, SIZE)) == [
        Extent(MIB + 4096, MIB - 4096),
        Extent(2 * MIB + 64 * KIB, MIB - 64 * KIB),
    ]
    end = ExtentSet.from_extents([Extent(8 * MIB - MIB, SIZE - 7 * MIB)])
    assert usage.left_out(end, ExtentSet(), SIZE) == end


@given(extents, extents)
def test_of_many_pieces_some_are_copied(free: ExtentSet, written: ExtentSet) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exact = usage.left_out(free, written, SIZE)
        patch.setattr(usage, "MOST_EXTENTS", 3)
        left_out = usage.left_out(free, written, SIZE)
    assert len(left_out) <= 4
    assert not left_out.without(exact)
    assert left_out == exact or len(exact) > 2


def mount(fs_type: str, *super_options: str) -> Mount:
    return Mount(1, 0, 0, "/", Path("/srv"), ("rw",), fs_type, "/dev/x", super_options)


def ext4(path: Path, *, log_block_size: int = 2, features: int = 0) -> Path:
    content = bytearray(4096)
    content[1024 + 0x18] = log_block_size
    content[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    content[1024 + 0x64 : 1024 + 0x68] = features.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("fs_type", "options", "reason"),
    [
        ("xfs", ("rw", "attr2"), None),
        ("btrfs", ("rw", "space_cache=v2"), None),
        ("ext4", ("rw", "errors=remount-ro"), None),
        ("ext3", ("rw",), None),
        ("f2fs", ("rw",), "what f2fs uses is not known"),
        ("xfs", ("ro", "attr2"), "read-only"),
        ("xfs", ("rw", "norecovery"), "without replaying"),
        ("ext4", ("rw", "noload"), "without replaying"),
        ("btrfs", ("rw", "rescue=nologreplay"), "without replaying"),
    ],
)
def test_which_file_systems_are_asked(
    tmp_path: Path, fs_type: str, options: tuple[str, ...], reason: str | None
) -> None:
    said = usage.why_not(mount(fs_type, *options), ext4(tmp_path / "image"))
    assert said is None if reason is None else reason in (said or "")


@pytest.mark.parametrize(
    ("log_block_size", "features", "reason"),
    [(2, 0x1B, None), (0, 0, "smaller than 4 KiB"), (1, 0, "smaller"), (2, 0x200, "bigalloc")],
)
def test_which_ext4_is_asked(
    tmp_path: Path, log_block_size: int, features: int, reason: str | None
) -> None:
    device = ext4(tmp_path / "image", log_block_size=log_block_size, features=features)
    said = usage.why_not(mount("ext4", "rw"), device)
    assert said is None if reason is None else reason in (said or "")
