"""What must hold before fronts are suspended, and their order."""

from dataclasses import replace
from itertools import permutations

import pytest

from dmsnap.errors import NoSpaceError, StackChangedError, WrongStateError
from dmsnap.host import blockdev
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.status import EraStatus
from dmsnap.host.dm.target import Era, single
from dmsnap.host.sysfs import Sysfs
from dmsnap.snapshot import suspension
from dmsnap.snapshot.space import era_metadata_bytes
from dmsnap.snapshot.suspension import Front, needed_blocks, order
from dmsnap.units import GIB, MIB

INFO = DmInfo("srv", "DMSNAP-x-front", 1, 0, False, True, False, False, 0)
STATUS = EraStatus(8, used=100, total=1000, current_era=7, metadata_snap=None)


def test_what_lies_on_another_is_suspended_before_it() -> None:
    """C's store lies on B, B's on A; D has nothing to do with them."""
    chain = [
        Front("a", 1, frozenset({10})),
        Front("b", 2, frozenset({20, 1, 10})),
        Front("c", 3, frozenset({30, 2, 20, 1, 10})),
        Front("d", 4, frozenset({40})),
    ]
    for fronts in permutations(chain):
        names = [fronts[place].name for place in order(fronts)]
        assert sorted(names) == ["a", "b", "c", "d"]
        assert names.index("c") < names.index("b") < names.index("a")


def test_without_a_reason_the_order_stays() -> None:
    fronts = [Front(name, number, frozenset()) for number, name in enumerate("zax")]
    assert order(fronts) == [0, 1, 2]
    assert order([]) == []


def test_a_circle_has_no_order() -> None:
    with pytest.raises(StackChangedError, match="none of a, b can be suspended"):
        order([Front("a", 1, frozenset({2})), Front("b", 2, frozenset({1}))])


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A front of 64 MiB in blocks of 64 KiB, over 8, with its metadata on 9."""
    monkeypatch.setattr(Sysfs, "slaves", lambda _self, _devno: [8, 9])
    monkeypatch.setattr(blockdev, "all_below", lambda devnos: {*devnos, 50})
    monkeypatch.setattr(dm, "table", lambda _name: single(64 * MIB, Era(9, 8, 65536)))
    monkeypatch.setattr(dm, "era_status", lambda _name: STATUS)
    return monkeypatch


def test_a_front_and_what_it_waits_for(device: pytest.MonkeyPatch) -> None:
    found = suspension.front(INFO, [70])
    assert found == Front("srv", 1, frozenset({8, 9, 50, 70}))
    device.setattr(blockdev, "all_below", lambda devnos: {*devnos, INFO.devno})
    with pytest.raises(WrongStateError, match="/dev/mapper/srv again, for which it would wait"):
        suspension.front(INFO)
    with pytest.raises(WrongStateError):
        suspension.resumable_era(INFO)


def test_without_room_for_a_resume_nothing_is_suspended(device: pytest.MonkeyPatch) -> None:
    assert suspension.resumable_era(INFO) == 7
    needed = needed_blocks(1024)
    device.setattr(dm, "era_status", lambda _name: replace(STATUS, used=1000 - needed))
    assert suspension.resumable_era(INFO) == 7
    device.setattr(dm, "era_status", lambda _name: replace(STATUS, used=1001 - needed))
    with pytest.raises(NoSpaceError, match="srv cannot be suspended") as raised:
        suspension.resumable_era(INFO)
    assert "swap --trial" in (raised.value.hint or "")


def test_a_bit_a_block_in_blocks_of_509_words() -> None:
    assert needed_blocks(1) == needed_blocks(32576) == 68
    assert needed_blocks(32577) - needed_blocks(32576) == 2
    assert needed_blocks(1 << 24) >= 2 * 515 + 64


@pytest.mark.parametrize("size_bytes", [MIB, GIB, 64 * GIB, 4096 * GIB, 1 << 50])
def test_new_metadata_have_room_for_many_windows(size_bytes: int) -> None:
    """Whatever a window takes, it is a small part of what a volume is given."""
    for block_bytes in (4096, 65536):
        nr_blocks = size_bytes // block_bytes
        array = -(-nr_blocks // 1018)
        total = era_metadata_bytes(size_bytes, block_bytes) // 4096
        assert total - 2 * array > 2 * needed_blocks(nr_blocks)
