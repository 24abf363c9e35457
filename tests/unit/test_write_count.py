"""The two counters of a stack, over a directory tree."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap._native.window import Counted
from dmsnap.host import counting
from dmsnap.host.counting import UncountedError
from dmsnap.host.sysfs import Sysfs, format_devno
from dmsnap.snapshot import origin_count, window_count, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.snapshot.write_count import Surplus, surplus

BACKING, ORIGIN, STILL = os.makedev(7, 0), os.makedev(253, 0), os.makedev(7, 1)


def device(root: Path, devno: int, *, sectors: int, in_flight: int = 0, iostats: int = 1) -> None:
    directory = root / "devices" / format_devno(devno)
    directory.mkdir(parents=True)
    link = root / "dev" / "block" / format_devno(devno)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(directory)
    (directory / "stat").write_text(f"1 2 3 4 5 6 {sectors} 8 9 10 11 0 0 0 0\n")
    (directory / "inflight").write_text(f"0 {in_flight}\n")
    (directory / "queue").mkdir()
    (directory / "queue" / "iostats").write_text(f"{iostats}\n")


def test_at_rest_the_surplus_is_exact(tmp_path: Path) -> None:
    device(tmp_path, BACKING, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000)
    assert surplus(BACKING, ORIGIN, Sysfs(tmp_path)) == Surplus(8, at_rest=True)


def test_a_write_under_way_makes_it_a_lower_bound(tmp_path: Path) -> None:
    device(tmp_path, BACKING, sectors=1008)
    device(tmp_path, ORIGIN, sectors=1000, in_flight=1)
    assert surplus(BACKING, ORIGIN, Sysfs(tmp_path)) == Surplus(8, at_rest=False)


@pytest.mark.parametrize("still", [BACKING, ORIGIN])
def test_a_counter_that_stands_still_is_no_number(tmp_path: Path, still: int) -> None:
    for devno in (BACKING, ORIGIN):
        device(tmp_path, devno, sectors=1000, iostats=int(devno != still))
    with pytest.raises(UncountedError, match="queue/iostats is 0") as found:
        surplus(BACKING, ORIGIN, Sysfs(tmp_path))
    assert found.value.hint is not None
    name = format_devno(still)
    assert found.value.hint.startswith(f"echo 1 > /sys/block/{name}/queue/iostats")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that was built when the device had 100 sectors more; the origin has nothing to tell.

    What is read under writes is wrong.
    """
    monkeypatch.setattr(window_count, "below_front", lambda _: (BACKING, ORIGIN))
    monkeypatch.setattr(window_count, "switched", lambda _: "0 0")
    monkeypatch.setattr(window_count, "uncounted", lambda _: None)
    monkeypatch.setattr(write_count, "_surplus_of", lambda _: Surplus(60, at_rest=False))
    monkeypatch.setattr(origin_count, "sectors_beside", lambda *_: 0)
    monkeypatch.setattr(origin_count, "settle", lambda *_: None)


def counts(beside: int, *, in_flight: bool = False, switched: str = "0 0") -> WriteCounts:
    return WriteCounts(1000, 1000, 1100 + beside, in_flight, switched)


@pytest.mark.usefixtures("counted")
def test_a_window_tells_of_what_is_less_than_what_is_under_way(tmp_path: Path) -> None:
    volume = a_volume()
    assert write_count.bytes_before(tmp_path, volume, counts(8)) is None
    write_count.settle(tmp_path, volume, counts(0))
    assert write_count.bytes_beside(tmp_path, volume) == 0
    assert write_count.bytes_before(tmp_path, volume, counts(8)) == 4096
    assert write_count.bytes_before(tmp_path, volume, None) is None
    write_count.settle(tmp_path, volume, counts(8))
    assert write_count.bytes_before(tmp_path, volume, counts(8)) == 0
    assert write_count.bytes_before(tmp_path, volume, counts(16)) == 4096
    # Where no window has counted, nothing is taken for seen: it is not known.
    write_count.settle(tmp_path, volume, None)
    assert write_count.bytes_before(tmp_path, volume, counts(8)) is None


@pytest.mark.usefixtures("counted")
def test_less_than_went_through_the_stack_was_not_counted(tmp_path: Path) -> None:
    """Whatever was written past it may be hidden by that; a comparison has seen it."""
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    assert write_count.bytes_before(tmp_path, volume, counts(-4)) is None
    assert "has missed" in write_count.doubt(tmp_path, volume, counts(-4))
    assert write_count.doubt(tmp_path, volume, counts(4)) == ""
    write_count.settle(tmp_path, volume, counts(-4, in_flight=True))
    assert write_count.bytes_before(tmp_path, volume, counts(-4)) == 0
    assert write_count.bytes_before(tmp_path, volume, counts(4)) == 4096


@pytest.mark.usefixtures("counted")
def test_a_switch_that_was_set_since_may_have_been_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the window that counted, too, however long the comparison took."""
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    monkeypatch.setattr(window_count, "switched", lambda _: "1 0")
    assert write_count.bytes_before(tmp_path, volume, counts(0)) == 0
    assert write_count.bytes_before(tmp_path, volume, counts(0, switched="1 0")) is None
    assert write_count.bytes_beside(tmp_path, volume) is None
    write_count.settle(tmp_path, volume, counts(0))
    assert write_count.bytes_before(tmp_path, volume, counts(0, switched="1 0")) is None
    write_count.settle(tmp_path, volume, counts(0, switched="1 0"))
    assert write_count.bytes_before(tmp_path, volume, counts(0, switched="1 0")) == 0


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("of_window", [True, False])
def test_who_sees_a_counter_stand_still_believes_it_never_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_window: bool
) -> None:
    """Also when it goes on: what it says then is plausible."""
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    with monkeypatch.context() as off:
        off.setattr(window_count, "uncounted", lambda _: UncountedError("it stands still"))
        assert write_count.doubt(tmp_path, volume) == ": it stands still"
        if of_window:
            assert write_count.bytes_before(tmp_path, volume, None) is None
        else:
            assert write_count.bytes_beside(tmp_path, volume) is None
    assert write_count.bytes_before(tmp_path, volume, counts(0)) is None


@pytest.mark.usefixtures("counted")
def test_a_write_that_may_not_be_there_yet_is_not_seen(tmp_path: Path) -> None:
    """A device that is dm's own counts it when it begins, before Linux 6.3."""
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    write_count.settle(tmp_path, volume, counts(8, in_flight=True))
    assert write_count.bytes_before(tmp_path, volume, counts(8)) == 4096


@pytest.mark.usefixtures("counted")
def test_our_own_writes_are_acknowledged_whatever_is_under_way(tmp_path: Path) -> None:
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    write_count.acknowledge(tmp_path, volume, 8192)
    assert write_count.bytes_before(tmp_path, volume, counts(16)) == 0
    assert write_count.bytes_before(tmp_path, volume, counts(24)) == 4096


@pytest.mark.usefixtures("counted")
def test_what_the_origin_does_not_know_nobody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_volume()
    write_count.settle(tmp_path, volume, counts(0))
    monkeypatch.setattr(origin_count, "sectors_beside", lambda *_: None)
    assert write_count.bytes_before(tmp_path, volume, counts(0)) is None
    assert write_count.bytes_beside(tmp_path, volume) is None


def test_counters_are_taken_apart_by_their_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_count, "switched", lambda volume: volume.name)
    one, other = [Counted(8, False), Counted(16, False), Counted(32, True)], [Counted(1, False)] * 3
    unread: list[Counted | None] = [Counted(1, False), None, Counted(1, False)]
    volumes = [replace(a_volume(), name=name) for name in ("one", "unread", "other")]
    assert window_count.of(volumes, [*one, *unread, *other]) == [
        WriteCounts(8, 16, 32, in_flight=True, switched="one"),
        None,
        WriteCounts(1, 1, 1, switched="other"),
    ]
    assert window_count.of([], []) == []


def test_a_device_without_a_counter_keeps_no_window_from_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(tmp_path, ORIGIN, sectors=1000)
    monkeypatch.setattr(counting, "SYSFS", Sysfs(tmp_path))
    device(tmp_path, STILL, sectors=1000, iostats=0)
    with counting.opened([ORIGIN, BACKING, STILL]) as descriptors:
        assert os.pread(descriptors[0], 4096, 0).split()[6] == b"1000"
        assert descriptors[1:] == [counting.NOBODY] * 2
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptors[0])
