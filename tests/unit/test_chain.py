"""What is looked at before points of a recovery volume are shown, and trials built over them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_volume
from exception_store_model import build
from test_history import a_label

from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState, LabelTwin
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import (
    CorruptError,
    DmsnapError,
    ForeignDeviceError,
    NotThisFormatError,
    PointInvalidError,
)
from dmsnap.host import kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.recovery import chain, replica
from dmsnap.service.swaps import trial
from dmsnap.units import MIB, PAGE_BYTES

HERE, THERE = uuid4(), uuid4()
STORES = (MIB, 2 * MIB)


class Disk:
    """A recovery volume with a point on its replica and one behind each of two undo stores."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = bytearray(4 * MIB)
        for offset in STORES:
            store = build(8, [(0, 2)])
            content[offset : offset + len(store)] = store
        path.write_bytes(content)
        self.device = BlockDevice(path, 0x700, len(content), 512, False)
        entries = [HistoryEntry(uuid4(), 1, each, MIB, 8, HistoryFlag(0)) for each in STORES]
        self.label = replace(a_label(*entries), host_uuid=HERE)
        self.volume = replace(
            a_volume(),
            id=self.label.volume_uuid,
            recovery=str(path),
            recovery_id=self.label.recovery_uuid,
            size_bytes=self.label.size_bytes,
            state=VolumeState.TRIAL,
            trial_point=self.points[2],
        )

    @property
    def points(self) -> list[UUID]:
        assert self.label.point_uuid is not None
        return [self.label.point_uuid, *(entry.point_uuid for entry in self.label.history)]

    def spoil(self, offset: int, piece: bytes) -> bytes:
        """What is on it afterwards."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(piece)
        return self.path.read_bytes()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(tmp_path / "recovery.img")
    monkeypatch.setattr(kernel, "machine_id", lambda: HERE)
    monkeypatch.setattr(BlockDevice, "probe", lambda _: made.device)
    monkeypatch.setattr(replica, "read_label", lambda _: made.label)
    monkeypatch.setattr(dm, "create", never)
    return made


def never(*_: object, **_also: object) -> None:
    pytest.fail("a device was made")


def show(disk: Disk, steps_back: int) -> int:
    return chain.show(disk.volume, disk.points[steps_back], "browse-x")


def build_levels(disk: Disk, steps_back: int) -> int:
    levels = chain.levels(disk.volume, disk.label, steps_back, chain.TRIAL)
    return chain.build(disk.volume, disk.label, disk.device, levels)


@pytest.mark.parametrize("showing", [show, build_levels])
@pytest.mark.parametrize(
    ("at", "piece"),
    [
        (STORES[1], bytes(16)),  # the kernel would take it for a new one, and make it one
        (STORES[1], bytes(PAGE_BYTES)),
        (STORES[0], bytes(4)),
        (STORES[1] + 4, bytes(4)),  # not valid
        (STORES[1] + 12, b"\x10"),  # of another chunk size
        (STORES[1] + PAGE_BYTES, b"\xff" * 16),
    ],
)
def test_no_store_that_is_not_whole_reaches_the_kernel(
    disk: Disk, showing: Callable[[Disk, int], int], at: int, piece: bytes
) -> None:
    """Nor does any of those before it: none would be left as it is."""
    before = disk.spoil(at, piece)
    with pytest.raises((CorruptError, NotThisFormatError), match=str(disk.path)):
        showing(disk, 2)
    assert disk.path.read_bytes() == before
    assert showing(disk, 0) == disk.device.devno  # what does not need it


def test_whole_stores_are_stacked(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def create(name: str, *_: object, **_also: object) -> BlockDevice:
        made.append(name)
        return replace(disk.device, devno=len(made))

    monkeypatch.setattr(dm, "create", create)
    assert show(disk, 2) == 4
    assert len(made) == 4


OTHERS: list[tuple[dict[str, object], type[DmsnapError]]] = [
    ({"host_uuid": THERE, "host": "there"}, ForeignDeviceError),
    ({"twin": LabelTwin.DOUBTFUL}, CorruptError),
    ({"state": LabelState.APPLYING}, PointInvalidError),
    ({"state": LabelState.COPYING}, PointInvalidError),
    ({"state": LabelState.PRIMARY, "point_uuid": None, "history": ()}, PointInvalidError),
    ({"history": ()}, PointInvalidError),
]


@pytest.mark.parametrize(("changes", "error"), OTHERS)
def test_what_the_label_says_of_a_point_now_counts(
    disk: Disk, changes: dict[str, object], error: type[DmsnapError]
) -> None:
    """It was looked at before, to find the point: another host may have come since."""
    wanted = disk.points[2]
    disk.label = replace(disk.label, **changes)  # type: ignore[arg-type]
    with pytest.raises(error):
        chain.find(disk.volume, wanted)


# a trial that a boot took down


def require(disk: Disk, state: VolumeState = VolumeState.TRIAL) -> Label:
    return trial.require_recovery(replace(disk.volume, state=state))


@pytest.mark.parametrize(
    ("changes", "error"), [*OTHERS, ({"state": LabelState.MERGING}, PointInvalidError)]
)
def test_no_trial_is_built_over_what_another_host_has_made_of_its_point(
    disk: Disk, changes: dict[str, object], error: type[DmsnapError]
) -> None:
    assert require(disk) == disk.label
    disk.label = replace(disk.label, **changes)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        require(disk)
    if error is ForeignDeviceError:
        assert "dmsnap assemble srv" in (caught.value.hint or "")


@pytest.mark.parametrize("state", [LabelState.CONSISTENT, LabelState.MERGING])
def test_a_commit_goes_on_over_what_it_marked(disk: Disk, state: LabelState) -> None:
    disk.label = replace(disk.label, state=state)
    label = require(disk, VolumeState.COMMITTING)
    committing = replace(disk.volume, state=VolumeState.COMMITTING)
    assert len(trial.levels_by(committing, label)) == 2
    disk.label = replace(disk.label, history=())
    with pytest.raises(PointInvalidError):
        require(disk, VolumeState.COMMITTING)


def test_a_commit_that_only_lacks_its_record_has_no_levels_left(disk: Disk) -> None:
    disk.label = replace(disk.label, state=LabelState.PRIMARY, point_uuid=None, history=())
    committing: Volume = replace(disk.volume, state=VolumeState.COMMITTING)
    assert trial.levels_by(committing, require(disk, VolumeState.COMMITTING)) == []
