"""Tables and status lines: what is loaded comes back equal, what kernels print is understood."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.errors import CorruptError
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.device import flags_for
from dmsnap.host.dm.status import (
    EraStatus,
    MirrorStatus,
    SnapshotState,
    SnapshotStatus,
    ThinPoolStatus,
)
from dmsnap.host.dm.target import (
    Era,
    Error,
    Foreign,
    Linear,
    Mirror,
    Snapshot,
    SnapshotMerge,
    SnapshotOrigin,
    Table,
    TableLine,
    Target,
    Thin,
    ThinPool,
    Zero,
    format_table,
    parse_table,
    parse_target,
    single,
)
from dmsnap.units import GIB, KIB, MIB

LOOP0, LOOP1, DM3 = os.makedev(7, 0), os.makedev(7, 1), os.makedev(253, 3)

devices = st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 0xFFFFF))
sizes = st.integers(1, 1 << 40).map(lambda sectors: sectors * 512)
linears = st.builds(Linear, devices, st.integers(0, 1 << 40).map(lambda sectors: sectors * 512))
snapshots = st.builds(Snapshot, devices, devices, sizes, st.just(value=True), st.booleans())
targets: st.SearchStrategy[Target] = st.one_of(
    linears,
    snapshots,
    st.builds(Snapshot, devices, devices, sizes, st.just(value=False)),
    st.builds(SnapshotMerge, devices, devices, sizes, st.booleans()),
    st.builds(SnapshotOrigin, devices),
    st.builds(Era, devices, devices, sizes),
    st.builds(
        Mirror,
        st.lists(linears, min_size=1, max_size=4).map(tuple),
        sizes,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        ThinPool,
        devices,
        devices,
        sizes,
        st.integers(0, 1 << 40),
        st.lists(st.sampled_from(["skip_block_zeroing", "read_only"]), unique=True).map(tuple),
    ),
    st.builds(Thin, devices, st.integers(0, (1 << 24) - 1), st.none() | devices),
    st.just(Zero()),
    st.just(Error()),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    lines: list[TableLine] = []
    start = 0
    for target in draw(st.lists(targets, max_size=5)):
        length = draw(sizes)
        lines.append(TableLine(start, length, target))
        start += length
    return tuple(lines)


@given(tables())
def test_round_trip(table: Table) -> None:
    assert parse_table(format_table(table).splitlines()) == table


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (Linear(LOOP0, 1 * MIB), "linear 7:0 2048"),
        (Era(LOOP1, DM3, 64 * KIB), "era 7:1 253:3 128"),
        (SnapshotOrigin(LOOP0), "snapshot-origin 7:0"),
        (Snapshot(LOOP0, LOOP1, 4 * KIB), "snapshot 7:0 7:1 PO 8"),
        (Snapshot(LOOP0, LOOP1, 4 * KIB, overflow=False), "snapshot 7:0 7:1 P 8"),
        (Snapshot(LOOP0, LOOP1, 4 * KIB, persistent=False), "snapshot 7:0 7:1 N 8"),
        (SnapshotMerge(LOOP0, LOOP1, 4 * KIB), "snapshot-merge 7:0 7:1 PO 8"),
        (Thin(DM3, 7), "thin 253:3 7"),
        (Thin(DM3, 7, LOOP0), "thin 253:3 7 7:0"),
        (Zero(), "zero"),
        (Error(), "error"),
        (
            Mirror((Linear(LOOP0), Linear(LOOP1)), in_sync=True),
            "mirror core 2 2048 nosync 2 7:0 0 7:1 0",
        ),
        (
            Mirror((Linear(LOOP0), Linear(LOOP1)), 512 * KIB, handle_errors=True),
            "mirror core 1 1024 2 7:0 0 7:1 0 1 handle_errors",
        ),
    ],
)
def test_lines(target: Target, line: str) -> None:
    (only,) = single(GIB, target)
    assert str(only) == f"0 2097152 {line}"
    assert parse_table([str(only)]) == (only,)


def test_sizes_that_are_no_sectors_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number of sectors"):
        str(TableLine(0, 1000, Zero()))
    with pytest.raises(ValueError, match="whole number of sectors"):
        Linear(LOOP0, 100).parameters()


@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("thin", "253:0"),
        ("thin", "253:0 1 253:2 253:3"),
        ("thin-pool", "253:0 253:1 128 0 2 skip_block_zeroing"),
        ("snapshot", "7:0 7:1 P 8 1 discard_zeroes_cow"),
        ("linear", "7:0"),
        ("mirror", "disk 2 253:1 1024 2 7:0 0 7:1 0"),
        ("mirror", "core 1"),
        ("era", ""),
    ],
)
def test_what_we_never_load_is_foreign(type_name: str, parameters: str) -> None:
    assert parse_target(type_name, parameters) == Foreign(type_name, parameters)


@pytest.mark.parametrize("line", ["x", "0 8", "0 y linear 7:0 0"])
def test_a_line_that_is_none_is_quoted(line: str) -> None:
    with pytest.raises(CorruptError, match="not a line of a dm table"):
        parse_table([line])


def test_blank_lines_are_none() -> None:
    assert parse_table(["", "  "]) == ()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("8 19/2048 3 -", EraStatus(8, 19, 2048, 3, None)),
        ("8 73431/131072 7 12", EraStatus(8, 73431, 131072, 7, 12)),
    ],
)
def test_era_status(text: str, status: EraStatus) -> None:
    assert EraStatus.parse(text) == status


@pytest.mark.parametrize("text", ["Error", "", "8 19/2048 3"])
def test_era_status_of_a_failed_device(text: str) -> None:
    with pytest.raises(CorruptError, match="cannot be relied on"):
        EraStatus.parse(text)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (
            "0 19/512 3/16384 - rw discard_passdown queue_if_no_space - 1024",
            ThinPoolStatus(0, None, 3, 16384, 19, 512),
        ),
        (
            "5 100/512 16384/16384 92 ro no_discard_passdown error_if_no_space needs_check",
            ThinPoolStatus(5, 92, 16384, 16384, 100, 512, "ro"),
        ),
    ],
)
def test_thin_pool_status(text: str, status: ThinPoolStatus) -> None:
    assert ThinPoolStatus.parse(text) == status


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("0 19/512 3/16384 - rw discard_passdown queue_if_no_space - 1024", False),
        ("0 19/512 16384/16384 - rw discard_passdown queue_if_no_space - 1024", True),
        (
            "0 19/512 16384/16384 - out_of_data_space discard_passdown error_if_no_space - 1024",
            True,
        ),
        ("0 512/512 3/16384 - rw discard_passdown queue_if_no_space - 1024", True),
        ("0 19/512 3/16384 - ro discard_passdown queue_if_no_space needs_check 1024", True),
    ],
)
def test_a_thin_pool_that_is_full(text: str, full: bool) -> None:
    assert ThinPoolStatus.parse(text).full == full


@pytest.mark.parametrize("text", ["Fail", "Error", ""])
def test_thin_pool_status_of_a_failed_pool(text: str) -> None:
    with pytest.raises(CorruptError, match="cannot be relied on"):
        ThinPoolStatus.parse(text)


@pytest.mark.parametrize(
    ("text", "status", "merged"),
    [
        ("24/65536 16", SnapshotStatus(SnapshotState.OK, 24, 65536, 16), False),
        ("16/65536 16", SnapshotStatus(SnapshotState.OK, 16, 65536, 16), True),
        ("Invalid", SnapshotStatus(SnapshotState.INVALID), False),
        ("Overflow", SnapshotStatus(SnapshotState.OVERFLOW), False),
        ("Merge failed", SnapshotStatus(SnapshotState.MERGE_FAILED), False),
        ("Unknown", SnapshotStatus(SnapshotState.UNKNOWN), False),
    ],
)
def test_snapshot_status(text: str, status: SnapshotStatus, merged: bool) -> None:
    assert SnapshotStatus.parse(text) == status
    assert SnapshotStatus.parse(text).merged is merged


def test_snapshot_status_that_is_none() -> None:
    with pytest.raises(CorruptError, match="'perhaps', which is no status"):
        SnapshotStatus.parse("perhaps")


def test_mirror_status() -> None:
    status = MirrorStatus.parse("2 7:0 7:1 100/128 1 AA 1 core")
    assert status == MirrorStatus((LOOP0, LOOP1), 100, 128, "AA")
    assert not status.in_sync
    assert MirrorStatus.parse("2 7:0 7:1 128/128 1 AA 1 core").in_sync
    assert not MirrorStatus.parse("2 7:0 7:1 128/128 1 AD 1 core").in_sync


def test_hidden_keeps_the_node_and_nothing_else() -> None:
    assert not UdevFlags.HIDDEN & UdevFlags.DISABLE_DM_RULES
    assert int(UdevFlags.HIDDEN) == 0x1E
    assert int(UdevFlags.SHOWN) == 0


def test_all_of_ours_but_the_front_are_hidden() -> None:
    volume = "DMSNAP-0b5a4f0e-51a4-4f0c-9a77-5d3ed6d5d4a2"
    assert flags_for(f"{volume}-front") == UdevFlags.SHOWN
    assert flags_for(f"{volume}-origin") == UdevFlags.HIDDEN
    assert flags_for(f"{volume}-point-1") == UdevFlags.HIDDEN
    assert flags_for("LVM-x") == UdevFlags.SHOWN


@pytest.mark.skipif(Path("/run/udev/control").exists(), reason="udev runs on this host")
def test_cookie_without_udev_does_nothing() -> None:
    with Cookie() as cookie:
        assert cookie.value == 0
        assert cookie.event_nr(UdevFlags.HIDDEN) == 0
        cookie.complete_one()
        cookie.wait(0)
