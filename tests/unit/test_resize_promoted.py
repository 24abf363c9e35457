"""A promoted volume that grows: how large it is to be, what its label says, what is refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from catalogue_samples import a_volume, an_area

from dmsnap._native import label
from dmsnap._native.label import HistoryFlag, Label, LabelState
from dmsnap.catalogue.model import (
    AreaRole,
    Job,
    JobState,
    JobStep,
    Parting,
    StepState,
    Volume,
    VolumeState,
)
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import TooSmallError, WrongStateError
from dmsnap.host import blockdev
from dmsnap.recovery import growth, history
from dmsnap.service.journal import Step
from dmsnap.service.resizing import aim, promoted, replica_growth, resize, sizes
from dmsnap.service.resizing.aim import ResizeRequest
from dmsnap.service.resizing.promoted import Former
from dmsnap.service.resizing.replica_growth import ReplicaGrowth, settle_label
from dmsnap.service.resizing.resize import Resizing
from dmsnap.service.session import Session
from dmsnap.snapshot import write_count
from dmsnap.units import GIB, MIB

VOLUME = replace(
    a_volume(),
    name="srv",
    state=VolumeState.PROMOTED,
    backing="/dev/new",
    recovery=None,
    recovery_id=None,
    size_bytes=GIB,
    previous_backing="/dev/old",
    parting=Parting(1, None, "id", "boot", 0, GIB),
    left_behind=("/dev/older",),
)
NO_FORMER = replace(VOLUME, previous_backing=None, parting=None)


@pytest.mark.parametrize(
    ("former", "device_bytes", "expected"),
    [
        (Former("/dev/old", 3 * GIB), 2 * GIB, 3 * GIB),  # whether it fits is asked later
        (Former("/dev/old", GIB), 9 * GIB, GIB),
        (Former("/dev/old", GIB // 2), 9 * GIB, GIB),
        (Former("/dev/old", None), 9 * GIB, GIB),
        (None, 2 * GIB, 2 * GIB - 5 * MIB),  # label and history take 4 MiB and 8 KiB
        (None, GIB + MIB, GIB),
    ],
)
def test_it_is_to_be_as_large_as_its_former_primary_or_as_its_device_allows(
    former: Former | None, device_bytes: int, expected: int
) -> None:
    volume = VOLUME if former else NO_FORMER
    assert promoted.size_of(volume, former, device_bytes) == expected


def test_the_largest_volume_of_a_device_can_be_a_recovery_volume_again() -> None:
    for device_bytes in (GIB, GIB + 512, 5 * GIB + 4096, GIB + MIB - 512):
        largest = history.largest_replica_bytes(label.offset(device_bytes))
        needed = history.needed_device_bytes(largest, label.AREA_BYTES)
        assert needed <= device_bytes < needed + MIB + label.AREA_BYTES


@pytest.mark.parametrize(
    ("former_bytes", "displaced", "refused"),
    [
        (GIB, False, None),
        (GIB, True, "srv keeps its 1 GiB: /dev/old, to which failback leads, has 1 GiB"),
        (2 * GIB, True, None),
        (2 * GIB, False, None),
        (GIB // 2, False, "has 512 MiB"),
        (None, True, "is not there"),
        (None, False, None),
    ],
)
def test_it_does_not_grow_beyond_what_failback_leads_to(
    former_bytes: int | None, *, displaced: bool, refused: str | None
) -> None:
    former = Former("/dev/old", former_bytes)
    if refused is None:
        promoted.require_followed(VOLUME, former, displaced=displaced)
        return
    with pytest.raises(WrongStateError, match=refused) as raised:
        promoted.require_followed(VOLUME, former, displaced=displaced)
    assert "make /dev/old as large as srv is to be" in str(raised.value.hint)


def test_what_the_user_agreed_to_is_what_it_is_to_be() -> None:
    kept = aim.after(VOLUME, ResizeRequest(keep_size=True), None, 2 * GIB)
    assert kept == replace(VOLUME, device_bytes=2 * GIB)
    given_up = aim.after(VOLUME, ResizeRequest(give_up_former=True), None, 2 * GIB)
    assert given_up.size_bytes == 2 * GIB - 5 * MIB
    assert (given_up.previous_backing, given_up.parting) == (None, None)
    assert given_up.left_behind == ("/dev/older", "/dev/old")
    assert given_up.tracking_id != VOLUME.tracking_id
    protected = replace(NO_FORMER, state=VolumeState.PROTECTED)
    assert aim.after(protected, ResizeRequest(), None, 2 * GIB).device_bytes is None
    assert aim.after(protected, ResizeRequest(), None, None) == protected
    for volume in (NO_FORMER, replace(VOLUME, state=VolumeState.PROTECTED)):
        with pytest.raises(WrongStateError, match="no former primary that could be given up"):
            aim.after(volume, ResizeRequest(give_up_former=True), None, 2 * GIB)


def test_marks_of_the_former_primary_go_when_nothing_leads_back(tmp_path: Path) -> None:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        volume = replace(VOLUME, generation=2)
        catalogue.add_volume(volume)
        for generation in (1, 2):
            area = replace(an_area(volume, AreaRole.ERA_METADATA), point_id=None)
            catalogue.add_area(replace(area, generation=generation))
        released: list[int] = []
        session: Any = SimpleNamespace(
            catalogue=catalogue,
            release_area=lambda _, area: released.append(area.generation),
        )
        promoted.release_marks(session, volume)
        assert released == []
        promoted.release_marks(session, replace(volume, previous_backing=None))
        assert released == [1]


# its label, in a file


class Bench:
    """A promoted volume of 2 MiB on a device of 8 MiB, in a file, with its label at the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.acknowledged = 0
        self.volume = replace(VOLUME, size_bytes=2 * MIB)
        self.enlarge(8 * MIB)
        os.pwrite(fd, b"\xff" * (2 * MIB), 0)
        region = history.region(2 * MIB, label.offset(8 * MIB))
        label.write(
            fd,
            8 * MIB,
            Label(
                generation=1,
                size_bytes=2 * MIB,
                volume_uuid=self.volume.id,
                recovery_uuid=uuid4(),
                state=LabelState.PRIMARY,
                flags=HistoryFlag(0),
                point_uuid=None,
                point_time_ns=0,
                next_point_uuid=None,
                next_point_time_ns=0,
                history_offset_bytes=region.offset_bytes,
                history_length_bytes=region.length_bytes,
                name="srv",
                fs_type="ext4",
                fs_uuid="",
                host="",
                device="/dev/old",
            ),
            "disk",
        )

    def enlarge(self, size_bytes: int) -> None:
        os.truncate(self.fd, size_bytes)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self) -> Label:
        return label.read(self.fd, self.size_bytes, "disk")

    def acknowledge(self, length_bytes: int) -> None:
        self.acknowledged += length_bytes

    def growth(self, size_bytes: int, after: Volume | None = None) -> ReplicaGrowth:
        after = replace(after or self.volume, size_bytes=size_bytes)
        before, after = (promoted.as_labelled(each) for each in (self.volume, after))
        return ReplicaGrowth(before, after, self.acknowledge)

    def steps(self, size_bytes: int, after: Volume | None = None) -> list[Step]:
        growing = self.growth(size_bytes, after)
        return [*growing.room_steps(None), *growing.size_steps()]

    def settle(self, volume: Volume, former_bytes: int) -> bool:
        return settle_label(promoted.as_labelled(volume), former_bytes, self.acknowledge)

    def check(self, size_bytes: int, device: str = "/dev/old") -> None:
        """One label, at the end, which is still the primary's; the volume was not written to."""
        now, end = self.read(), label.offset(self.size_bytes)
        assert (now.size_bytes, now.state) == (size_bytes, LabelState.PRIMARY)
        assert now.device == device
        assert now.history_offset_bytes == history.region(size_bytes, end).offset_bytes
        content = os.pread(self.fd, self.size_bytes, 0)
        labels = [at for at in range(0, len(content), 4096) if content[at : at + 8] == b"DMSNAPLB"]
        assert labels == [end, end + label.SECTOR_BYTES]
        assert content[: 2 * MIB] == b"\xff" * (2 * MIB)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    def write_zeroes(fd: int, offset: int, length: int, name: str, progress: Any = None) -> None:
        del name, progress
        os.pwrite(fd, bytes(length), offset)

    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    found = Bench(fd)

    @contextmanager
    def opened(path: Path, *, write: bool) -> Iterator[int]:
        assert path == Path("/dev/new")
        del write
        yield fd

    def probe(path: Path) -> Any:
        return SimpleNamespace(path=path, size_bytes=found.size_bytes, devno=7)

    monkeypatch.setattr(blockdev, "write_zeroes", write_zeroes)
    monkeypatch.setattr(growth, "open_exclusive", opened)
    monkeypatch.setattr(blockdev, "holders", lambda _: [])
    monkeypatch.setattr(growth.BlockDevice, "probe", probe)  # type: ignore[attr-defined]
    yield found
    os.close(fd)


def test_its_label_follows_and_the_new_part_is_left_as_it_is(bench: Bench) -> None:
    os.pwrite(bench.fd, b"\xee" * 4096, 2 * MIB)
    bench.enlarge(16 * MIB)
    steps = bench.steps(6 * MIB)
    assert [step.name for step in steps] == ["move-label", "make-way", "grow-replica"]
    for step in steps:
        step.do()
    bench.check(6 * MIB)
    assert os.pread(bench.fd, 4096, 2 * MIB) == b"\xee" * 4096
    # Three labels were written, and one was wiped.
    assert bench.acknowledged == 4 * label.AREA_BYTES
    bench.volume = replace(bench.volume, size_bytes=6 * MIB)
    assert bench.steps(6 * MIB) == []


def test_a_former_primary_that_is_given_up_is_not_in_the_label_any_more(bench: Bench) -> None:
    bench.enlarge(16 * MIB)
    steps = bench.steps(6 * MIB, promoted.without_former(bench.volume))
    for step in steps[:-1]:
        step.do()
    assert bench.read().device == "/dev/old"
    steps[-1].do()
    bench.check(6 * MIB, device="")
    assert steps[-1].undo is not None
    steps[-1].undo()
    assert (bench.read().device, bench.read().size_bytes) == ("/dev/old", 2 * MIB)


def test_cut_off_anywhere_the_label_is_put_right(bench: Bench) -> None:
    former = label.offset(8 * MIB)
    content = os.pread(bench.fd, 8 * MIB, 0)
    for count in range(4):
        bench.enlarge(0)
        os.pwrite(bench.fd, content, 0)
        bench.enlarge(16 * MIB)
        for step in bench.steps(6 * MIB)[:count]:
            step.do()
        assert bench.settle(bench.volume, former)
        bench.check(2 * MIB)


def test_what_became_the_volumes_is_not_tidied(bench: Bench) -> None:
    """Where the label was, users write by now: and be it a copy of that label."""
    former = label.offset(8 * MIB)
    copy = os.pread(bench.fd, label.AREA_BYTES, former)
    bench.enlarge(24 * MIB)
    for step in bench.steps(12 * MIB):
        step.do()
    os.pwrite(bench.fd, copy, former)
    grown = replace(bench.volume, size_bytes=12 * MIB)
    assert bench.settle(grown, former)
    assert os.pread(bench.fd, label.AREA_BYTES, former) == copy
    assert bench.read().size_bytes == 12 * MIB


def test_a_device_without_room_is_told_of_and_so_is_what_is_no_primary(bench: Bench) -> None:
    with pytest.raises(TooSmallError):
        bench.growth(6 * MIB)
    label.write(bench.fd, 8 * MIB, replace(bench.read(), state=LabelState.CONSISTENT), "disk")
    with pytest.raises(WrongStateError, match="is consistent: it cannot be resized"):
        bench.growth(2 * MIB)


def test_what_a_killed_command_wrote_ends_tracking_and_is_counted_as_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    points: list[Any] = []
    session: Any = SimpleNamespace(
        configuration=SimpleNamespace(run_directory=Path("/run")),
        live_points=lambda _: points,
        distrust=lambda _: done.append("distrust"),
    )
    monkeypatch.setattr(replica_growth, "settle_label", lambda *_: True)
    monkeypatch.setattr(write_count, "bytes_beside", lambda *_: 8192)
    monkeypatch.setattr(write_count, "remember", lambda *_: done.append("remember"))
    assert promoted.settle_label(session, VOLUME, 0)
    assert done == ["distrust", "remember"]
    # In live points what was written past the front may be missing: it goes on being told.
    points.append(SimpleNamespace(area_id=uuid4()))
    assert promoted.settle_label(session, VOLUME, 0)
    assert done[2:] == ["distrust"]


# the plan


@pytest.fixture
def session(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The bench's volume, in the catalogue; dm is not there."""
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        volume = replace(bench.volume, generation=2, store=str(tmp_path), device_bytes=8 * MIB)
        bench.volume = volume
        catalogue.add_volume(volume)
        for generation in (1, 2):
            area = replace(an_area(volume, AreaRole.ERA_METADATA), point_id=None)
            catalogue.add_area(replace(area, generation=generation))
        configuration: Any = SimpleNamespace(run_directory=tmp_path, state_directory=tmp_path)
        monkeypatch.setattr(aim, "require_settled", lambda *_: bench.size_bytes)
        monkeypatch.setattr(promoted, "former_of", lambda _: Former("/dev/old", 6 * MIB))
        monkeypatch.setattr(sizes, "is_behind", lambda _: False)
        monkeypatch.setattr(promoted, "acknowledging", lambda *_: bench.acknowledge)
        yield Session(configuration, catalogue)


def planned(session: Session, bench: Bench, **asked: bool) -> list[str]:
    plan = Resizing(session, bench.volume, ResizeRequest(**asked)).plan()
    return [step.name for step in plan.steps]


GROWING = [
    "move-label", "make-way", "create-metadata", "format-metadata", "grow-replica", "record",
    "grow-stack", "release",
]  # fmt: skip


def test_the_label_is_out_of_the_way_before_the_volume_grows(
    session: Session, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TooSmallError):
        planned(session, bench)
    bench.enlarge(16 * MIB)
    assert planned(session, bench) == GROWING
    assert planned(session, bench, give_up_former=True) == [*GROWING, "give-up-former"]
    assert planned(session, bench, keep_size=True) == ["move-label", "record"]
    monkeypatch.setattr(promoted, "former_of", lambda _: Former("/dev/old", 2 * MIB))
    with pytest.raises(WrongStateError, match="srv keeps its 2 MiB"):
        planned(session, bench)
    bench.enlarge(8 * MIB)
    assert planned(session, bench) == []


def test_what_is_given_up_and_what_the_device_has_are_recorded_with_the_size(
    session: Session, bench: Bench
) -> None:
    bench.enlarge(16 * MIB)
    resizing = Resizing(session, bench.volume, ResizeRequest(give_up_former=True))
    steps = {step.name: step for step in resizing.plan().steps}
    steps["create-metadata"].do()
    steps["record"].do()
    recorded = session.catalogue.volume("srv")
    assert (recorded.size_bytes, recorded.device_bytes) == (11 * MIB, 16 * MIB)
    assert (recorded.previous_backing, recorded.parting) == (None, None)
    assert steps["record"].undo is not None
    steps["record"].undo()
    assert session.catalogue.volume("srv") == bench.volume


def test_cut_off_before_the_record_the_label_is_the_former_one_again(
    session: Session, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_count, "bytes_beside", lambda *_: None)
    bench.enlarge(16 * MIB)
    resizing = Resizing(session, bench.volume, ResizeRequest())
    plan = resizing.plan()
    steps = {step.name: step for step in plan.steps}
    for name in ("move-label", "make-way", "grow-replica"):
        steps[name].do()
    job = Job(
        7, "resize", plan.arguments, (bench.volume.id,), 1, 1, None, JobState.RUNNING, None,
        tuple(JobStep(step.name, StepState.BEGUN, None) for step in plan.steps),
    )  # fmt: skip
    assert not resize.finish(session, bench.volume, job)
    bench.check(2 * MIB)
