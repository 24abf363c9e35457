"""Snapshot providers: loaded by their entry points, and what of them needs no device-mapper."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, JobState, Point, StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ForeignDeviceError, NotFoundError, ProgramError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.host import blockdev, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.lvm_snapshot import LvState, parse_volumes
from dmsnap.host.signature import Signature
from dmsnap.recovery import replica
from dmsnap.service import jobs as job_service
from dmsnap.service import operations
from dmsnap.service.points import copy_admission, point_copy
from dmsnap.service.points.copy_admission import HEAD_BYTES, CopyRequest
from dmsnap.service.records import evidence
from dmsnap.service.session import Session
from dmsnap.service.snapshots import logical_snapshot, providers
from dmsnap.service.snapshots.cow_provider import CowProvider, older_of
from dmsnap.service.snapshots.lvm_provider import LvmProvider, store_bytes
from dmsnap.service.snapshots.snapshot_provider import HeldOrigin, Provider, Snapshot
from dmsnap.service.snapshots.thin_provider import ThinProvider
from dmsnap.units import GIB, KIB, MIB, PAGE_BYTES

NOBODY = cast(Session, None)

ROW = {
    "vg_name": "vg",
    "lv_name": "data",
    "lv_uuid": "abc-1",
    "lv_size": "33554432",
    "origin_size": "",
    "lv_tags": "",
    "origin": "",
    "lv_layout": "linear",
    "lv_role": "public",
    "lv_active": "active",
    "lv_dm_path": "/dev/mapper/vg-data",
    "thin_id": "",
}


def volume(**changes: str) -> LvState:
    (found,) = parse_volumes([ROW | changes])
    return found


def ours(sequence: int = 3, **changes: str) -> LvState:
    tags = ",".join(("dmsnap", *logical_snapshot.tags(sequence, 17, "abc-1")))
    return volume(lv_name="dmsnap-snapshot-0a1b2c3d", lv_uuid="xyz-2", lv_tags=tags, **changes)


# entry points


def test_the_three_are_installed() -> None:
    found = providers.load(NOBODY)
    kinds: dict[str, Callable[[Session], Provider]] = {
        "cow": CowProvider,
        "lvm": LvmProvider,
        "thin": ThinProvider,
    }
    assert {name: type(provider) for name, provider in found.items()} == kinds
    assert all(provider.name == name for name, provider in found.items())


def entry(name: str, load: Callable[[], object]) -> SimpleNamespace:
    return SimpleNamespace(name=name, value=f"{name}.module:Provider", load=load)


class Elsewhere:
    """A provider of somebody else's."""

    name = "elsewhere"

    def __init__(self, session: Session) -> None:
        self.session = session

    def serves(self, origin: str) -> bool:
        return origin.startswith("pool:")

    def find(self, name: str) -> object:
        if name.startswith("pool:"):
            return name
        raise NotFoundError("elsewhere knows none")


def installed(monkeypatch: pytest.MonkeyPatch, *points: SimpleNamespace) -> None:
    def entry_points(*, group: str) -> list[SimpleNamespace]:
        assert group == "dmsnap.snapshot_providers"
        return list(points)

    monkeypatch.setattr(providers, "entry_points", entry_points)


def test_one_more_is_asked_as_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, entry("elsewhere", lambda: Elsewhere))
    assert providers.serving(NOBODY, "pool:1").name == "elsewhere"
    provider, found = providers.find(NOBODY, "pool:1")
    assert (provider.name, cast(str, found)) == ("elsewhere", "pool:1")
    with pytest.raises(NotFoundError, match="elsewhere knows none"):
        providers.find(NOBODY, "x")
    with pytest.raises(NotFoundError, match="nobody takes snapshots of 'x'"):
        providers.serving(NOBODY, "x")
    with pytest.raises(NotFoundError, match="no snapshot provider 'cow'") as raised:
        providers.named(NOBODY, "cow")
    assert raised.value.hint == "there are elsewhere"


@pytest.mark.parametrize("error", [ImportError("no such module"), AttributeError("no such class")])
def test_one_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load() -> object:
        raise error

    installed(monkeypatch, entry("broken", load))
    with pytest.raises(
        WrongStateError, match=r"broken \(broken.module:Provider\) cannot be loaded"
    ):
        providers.load(NOBODY)


# whose a logical volume is


def test_ours_say_what_they_are() -> None:
    found = logical_snapshot.require_ours(ours(7))
    assert (found.sequence, found.created_ns, found.origin_uuid) == (7, 17, "abc-1")
    assert logical_snapshot.origin_of(found, [volume(), ours()]) == volume()
    assert logical_snapshot.origin_of(found, [ours()]) is None


@given(
    st.integers(0),
    st.integers(0),
    st.from_regex(r"[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}", fullmatch=True),
)
def test_tags_are_read_back(sequence: int, created_ns: int, uuid: str) -> None:
    tags = ("dmsnap", *logical_snapshot.tags(sequence, created_ns, uuid))
    found = logical_snapshot.read(replace(ours(), tags=tags))
    assert found is not None
    assert (found.sequence, found.created_ns, found.origin_uuid) == (sequence, created_ns, uuid)


OUR_TAGS = ours().tags


@pytest.mark.parametrize(
    "theirs",
    [
        volume(),
        volume(lv_tags="dmsnap"),
        replace(ours(), name="backup"),
        replace(ours(), tags=OUR_TAGS[1:]),
        *(replace(ours(), tags=OUR_TAGS[:at] + OUR_TAGS[at + 1 :]) for at in range(len(OUR_TAGS))),
        replace(ours(), tags=(*OUR_TAGS, "dmsnap-sequence-9")),
        replace(ours(), tags=("dmsnap", "dmsnap-sequence-x", *OUR_TAGS[2:])),
    ],
)
def test_all_others_are_foreign(theirs: LvState) -> None:
    assert logical_snapshot.read(theirs) is None
    with pytest.raises(ForeignDeviceError, match="is no snapshot that dmsnap took"):
        logical_snapshot.require_ours(theirs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vg/lv", ("vg", "lv")),
        ("/dev/vg/lv", ("vg", "lv")),
        ("lv", None),
        ("/dev/vg", None),
        ("vg/", None),
        ("/lv", None),
        ("", None),
        ("/dev/disk/by-id/x", None),
    ],
)
def test_names(text: str, words: tuple[str, str] | None) -> None:
    assert logical_snapshot.split(text) == words


def test_a_report_has_a_row_for_each_segment() -> None:
    found = parse_volumes([ROW, ROW, ROW | {"lv_uuid": "x", "lv_name": "other"}])
    assert [each.name for each in found] == ["data", "other"]
    thin = volume(thin_id="4", lv_layout="thin,sparse", origin="[data]", lv_active="")
    assert (thin.is_thin, thin.thin_id, thin.origin, thin.active) == (True, 4, "data", False)


def test_a_thick_snapshot_is_as_large_as_its_origin() -> None:
    """LVM's lv_size is that of the store: what changed behind that would be missing."""
    roles = "public,snapshot,thicksnapshot"
    found = volume(lv_role=roles, lv_size="4194304", origin_size="33554432")
    assert found.size_bytes == 33554432
    assert volume(lv_role="public,origin,thickorigin", origin_size="1").size_bytes == 33554432


@pytest.mark.parametrize("row", [{}, ROW | {"lv_size": "32m"}, ROW | {"thin_id": "x"}])
def test_a_report_of_another_shape(row: dict[str, str]) -> None:
    with pytest.raises(ProgramError, match="unknown shape"):
        parse_volumes([row])


@pytest.mark.parametrize(
    ("changes", "lvm", "thin"),
    [
        ({}, True, False),
        ({"lv_role": "public,origin,thickorigin"}, True, False),
        ({"lv_layout": "raid,raid1"}, True, False),
        ({"lv_layout": "thin,sparse", "thin_id": "1"}, False, True),
        ({"lv_layout": "thin,pool"}, False, False),
        ({"lv_role": "public,snapshot,thicksnapshot", "origin_size": "4096"}, False, False),
    ],
)
def test_origins(changes: dict[str, str], lvm: bool, thin: bool) -> None:
    found = volume(**changes)
    assert LvmProvider(NOBODY).is_origin(found) == lvm
    assert ThinProvider(NOBODY).is_origin(found) == thin


# what changed


def point(tracking_id: str, era_since: int) -> Point:
    return Point(
        id=uuid4(),
        volume_id=UUID(int=1),
        created_ns=5 - era_since,
        keep=False,
        temporary=False,
        era_since=era_since,
        tracking_id=tracking_id,
        window_seconds=0.0,
        area_id=uuid4(),
    )


def test_the_older_point_is_known_by_its_era_and_not_by_the_clock() -> None:
    older, younger, other = point("a", 3), point("a", 4), point("b", 9)
    assert older_of(older, younger) == older_of(younger, older) == (older,)
    assert older_of(older, other) == (older, other)
    assert older_of(older, replace(younger, era_since=3)) == (older, replace(younger, era_since=3))


@pytest.mark.parametrize(
    ("since_bytes", "until_bytes", "found"),
    [
        (100, 100, [(0, 8), (92, 8)]),
        (100, 120, [(0, 8), (92, 28)]),
        (100, 96, [(0, 8), (92, 4)]),
    ],
)
def test_a_volume_that_grew_has_changed_behind_its_former_end(
    since_bytes: int, until_bytes: int, found: list[tuple[int, int]]
) -> None:
    extents = ExtentSet.from_extents([Extent(0, 8), Extent(92, 40)])
    if until_bytes >= since_bytes:
        extents.clamp(since_bytes)
    result = logical_snapshot.with_tail(extents, since_bytes, until_bytes)
    assert list(result.pairs()) == found


@pytest.mark.parametrize("size_bytes", [MIB, 32 * MIB, 100 * GIB])
def test_a_store_of_all_of_it_takes_all_of_it(size_bytes: int) -> None:
    chunks = size_bytes // 4096
    areas = -(-(chunks + 1) // 256)
    assert store_bytes(size_bytes, 100) >= (1 + areas + chunks) * 4096


# full copies


@pytest.mark.parametrize("length_bytes", [HEAD_BYTES, 10 * KIB, 512])
def test_the_beginning_comes_last(length_bytes: int) -> None:
    pages = point_copy.pages_backwards(ExtentSet.whole(length_bytes))
    offsets = [next(iter(page)).offset_bytes for page in pages]
    assert offsets == sorted(offsets, reverse=True)
    assert offsets[-1] == 0
    assert all(page.bytes <= PAGE_BYTES for page in pages)
    together = ExtentSet()
    for page in pages:
        together.merge(page)
    assert together == ExtentSet.whole(length_bytes)


@contextmanager
def shown(path: Path) -> Iterator[Path]:
    yield path


@contextmanager
def opened(_path: Path, **_how: bool) -> Iterator[int]:
    yield -1


def test_what_somebody_else_put_on_the_device_is_not_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody holds it between its wiping and the copy; what is found there then is theirs."""
    device = BlockDevice(Path("/dev/sdq"), 7, MIB, 512, False)
    snapshot = Snapshot("lvm", "vg/snap", "vg/data", MIB, 0)
    wiped: list[Path] = []
    probed = {Path("/dev/sdq"): None, Path("/dev/snap"): None}
    monkeypatch.setattr(BlockDevice, "probe", lambda path: replace(device, path=path))
    monkeypatch.setattr(copy_admission, "admit", lambda *_: device)
    monkeypatch.setattr(signature, "probe", lambda path: probed[path])
    monkeypatch.setattr(signature, "wipe", wiped.append)
    monkeypatch.setattr(point_copy, "what_is_on", lambda _: (None, None))
    monkeypatch.setattr(evidence, "stable_path", lambda _: "/dev/sdq")
    monkeypatch.setattr(point_copy, "open_exclusive", opened)
    monkeypatch.setattr(replica, "read_label", lambda _: None)
    monkeypatch.setattr(blockdev, "clear_start", lambda *_: None)
    provider = cast(Provider, SimpleNamespace(shown=lambda _: shown(Path("/dev/snap"))))
    origin = HeldOrigin("vg/data", (), None)
    request = CopyRequest(device.path)
    with point_copy.Copying(NOBODY, provider, snapshot, origin, request, None) as copying:
        steps = {step.name: step for step in copying.plan().steps}
        steps["wipe"].do()
        assert wiped == [device.path]
        found = Signature(fs_type="ext4", uuid="aa-BB")
        monkeypatch.setattr(signature, "probe", lambda _: found)
        with pytest.raises(ForeignDeviceError, match="somebody has written"):
            steps["copy"].do()
        assert steps["copy"].undo is not None
        steps["copy"].undo()
        assert wiped == [device.path]


# jobs of no volume


@pytest.mark.parametrize("done", [True, False])
def test_a_job_of_no_volume_is_settled_by_its_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    asked: list[Job] = []

    def settle(_session: Any, job: Job) -> bool:
        asked.append(job)
        return done

    monkeypatch.setattr(operations, "settle", lambda _name: settle)
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        job_id = jobs.begin(
            catalogue, "snapshot create", (), arguments={"name": "lv:x"}, pid=1, steps=["create"]
        )
        jobs.record_step(catalogue, job_id, 0, StepState.BEGUN, None)
        session = cast(
            Session, SimpleNamespace(catalogue=catalogue, is_held_by=lambda _name, _pid: False)
        )
        ended = job_service.conclude(session, job_id)
        assert ended.state is (JobState.DONE if done else JobState.UNDONE)
        assert ended.outcome == "cut off at create"
        assert [job.id for job in asked] == [job_id]


@pytest.mark.parametrize("name", ["point copy", "snapshot create", "snapshot delete"])
def test_what_may_be_of_no_volume_can_be_settled(name: str) -> None:
    assert callable(operations.settle(name))
    assert operations.settle("sync") is None
