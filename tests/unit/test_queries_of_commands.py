"""Commands on all volumes ask the catalogue as often as those on one; what changes is noticed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area, an_export
from pruning_of_nothing import declare, prune_nothing
from test_catalogue_scale import PRUNING, asked
from test_pruning import a_label

from dmsnap._native.extent_set import ExtentSet
from dmsnap._native.label import Label
from dmsnap.catalogue import export as exports
from dmsnap.catalogue import jobs, present, skipped
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import AreaRole, JobState, Point, Volume, VolumeState
from dmsnap.catalogue.present import Replica, ReplicaRecord
from dmsnap.catalogue.skipped import Skipped
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import publication
from dmsnap.service.health import metrics, report, room, status
from dmsnap.service.points import point, point_history
from dmsnap.service.resizing import sizes
from dmsnap.service.session import Session
from dmsnap.snapshot import live, stack

Ask = Callable[[Session], object]


@pytest.fixture
def session(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Session:
    """One whose volumes have labels, and no devices."""

    label = a_label(1, 2)

    def label_of(volume: Volume) -> Label:
        assert volume.recovery_id is not None
        return replace(label, recovery_uuid=volume.recovery_id, volume_uuid=volume.id)

    monkeypatch.setattr(replica, "label_of", label_of)
    monkeypatch.setattr(Session, "running", lambda *_: None)
    for module, name, answer in (
        (status, "stack_problems", []), (status, "live_points", ()), (status, "mount_points", ()),
        (status, "label_faults", []), (stack, "live_front", None), (stack, "exists", True),
        (sizes, "of_volume", None), (publication, "problem", None),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(live, "with_validity", lambda _volume, each: each)
    return Session(Configuration(), catalogue)


def protect(session: Session, name: str) -> tuple[Volume, Point]:
    """Record a volume with a live point, and one that is not; it was swapped, and is in a job."""
    catalogue = session.catalogue
    volume = replace(a_volume(name), state=VolumeState.PROTECTED)
    area = an_area(volume)
    catalogue.add_volume(volume)
    catalogue.add_area(area)
    taken = replace(a_point(volume, 7), area_id=area.id, invalid_reason=None)
    catalogue.add_points([taken, replace(a_point(volume, 6), area_id=None)])
    for operation, state in (("swap", JobState.DONE), ("swap", JobState.UNDONE)):
        job = jobs.begin(catalogue, operation, [volume.id], arguments={}, pid=1, steps=["a"])
        jobs.end(catalogue, job, state, "")
    jobs.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=["a", "b"])
    return volume, taken


ASKED: dict[str, Ask] = {
    "status": status.status,
    "metrics": metrics.text,
    "point list": point.list_points,
    "point list --as-of": lambda session: point_history.list_as_of(session, (), now_ns()),
    "stores that fill": room.rooms,
}


@pytest.mark.parametrize("name", ASKED)
def test_all_volumes_are_asked_for_at_once(session: Session, name: str) -> None:
    found = []
    for number in range(5):
        protect(session, f"srv{number}")
        if number in (1, 4):
            with asked() as queries:
                ASKED[name](session)
            found.append([text.split(" IN ")[0] for text, _ in queries])
    # A second look at what seems wrong takes what is recorded once more.
    assert found[0] == found[1][: len(found[0])]
    assert len(found[1]) <= len(found[0]) + 11


def test_a_report_asks_for_deleted_points_volume_by_volume(session: Session) -> None:
    counts = []
    for number in range(5):
        volume, _ = protect(session, f"srv{number}")
        jobs.settle(session.catalogue, 3 * number + 3, volume.id, JobState.DONE, "")
        with asked() as queries:
            report.gathered(session)
        counts.append(len(queries))
    assert counts == list(range(counts[0], counts[0] + 5))


def test_pruning_asks_the_same_of_each_volume(session: Session, tmp_path: Path) -> None:
    """With its lock held, and no more because there are others."""
    counts, names = [], []
    for number in range(3):
        volume, _ = protect(session, f"srv{number}")
        settle_all(session, [volume])
        names.append(volume.name)
        declare(tmp_path, names)
        with asked() as queries:
            prune_nothing(session.catalogue, tmp_path)
        counts.append(len(queries))
    of_each = counts[1] - counts[0]
    assert counts[2] - counts[1] == of_each <= PRUNING


def test_a_point_is_found_by_its_first_digits(session: Session) -> None:
    (_, one), (volume, other) = protect(session, "srv"), protect(session, "other")
    for each in (one, other):
        assert point.find(session, str(each.id)[:9]).id == each.id
        assert point.find(session, each.id.hex[:13].upper()).id == each.id
    in_label = replica.label_of(volume).point_uuid
    assert in_label is not None
    assert point.find(session, in_label.hex, [volume.name]).window_seconds is None
    with pytest.raises(NotFoundError, match="there is no point"):
        point.find(session, str(one.id), [volume.name])
    for nothing in ("wxyz", "", "' OR ''='", "ab" * 17, "٣٣٣٣"):
        with pytest.raises(NotFoundError):
            point.find(session, nothing)
    twin = replace(one, id=UUID(f"{one.id.hex[:8]}{uuid4().hex[8:]}"))
    session.catalogue.add_point(twin)
    with pytest.raises(NotFoundError, match="fits 2 points"):
        point.find(session, one.id.hex[:8])


def test_points_of_a_kind(catalogue: Catalogue) -> None:
    session = Session(Configuration(), catalogue)
    volume, taken = protect(session, "srv")
    protect(session, "other")
    (earlier, _) = catalogue.points(volume.id)
    ours = replace(a_point(volume, 8), area_id=taken.area_id, temporary=True, keep=False)
    catalogue.add_point(ours)
    assert catalogue.temporary_points(volume.id) == [ours]
    assert catalogue.live_points(volume.id) == [taken, ours]
    marked = {each.id for each in catalogue.marked_points(volume.id)}
    assert marked == {earlier.id, taken.id, ours.id}  # which has a time of its own
    catalogue.delete_points([earlier.id, ours.id, uuid4()], "prune")
    assert catalogue.points(volume.id) == catalogue.live_points(volume.id) == [taken]
    assert catalogue.temporary_points(volume.id) == []
    assert catalogue.marked_points(volume.id) == [taken]
    catalogue.delete_points([], "prune")


def test_a_deleted_point_is_not_found_as_one_that_is_there(session: Session) -> None:
    _, one = protect(session, "srv")
    session.catalogue.delete_point(one.id, "point delete")
    with pytest.raises(NotFoundError):
        point.find(session, one.id.hex)


def test_what_is_recorded_of_volumes(catalogue: Catalogue) -> None:
    session = Session(Configuration(), catalogue)
    (volume, taken), (other, _) = protect(session, "srv"), protect(session, "other")
    both = jobs.begin(
        catalogue, "point create", [volume.id, other.id], arguments={}, pid=1, steps=[]
    )
    jobs.settle(catalogue, both, other.id, JobState.UNDONE, "")
    browsed, export = an_area(volume, AreaRole.BROWSE), an_export(volume)
    catalogue.add_area(browsed)
    exports.record(catalogue, export)
    found = present.of_volumes(catalogue, [volume.id, other.id, uuid4()])
    mine, others = found[volume.id], found[other.id]
    assert mine.live == (taken,)
    assert set(mine.areas) == set(catalogue.areas(volume.id))
    assert mine.exports == (export,)
    assert mine.window_seconds == taken.window_seconds
    assert list(mine.unfinished) == jobs.unfinished(catalogue, volume.id)
    assert mine.unfinished[0].id == both == mine.newest_job
    assert mine.last_swap == jobs.newest_done(catalogue, volume.id, "swap")
    assert list(others.unfinished) == jobs.unfinished(catalogue, other.id)
    assert (others.newest_job, others.exports) == (both, ())
    assert present.of_volumes(catalogue, []) == {}


def test_what_is_recorded_of_replicas(catalogue: Catalogue) -> None:
    session = Session(Configuration(), catalogue)
    (volume, taken), (other, gone) = protect(session, "srv"), protect(session, "other")
    catalogue.delete_point(gone.id, "point delete")
    assert volume.recovery_id is not None
    extents = ExtentSet()
    extents.add(0, 4096)
    extents.add(8192, 512)
    skipped.record(catalogue, Skipped(volume.recovery_id, (taken.id,), extents))
    mine, others = (
        Replica(volume.id, volume.recovery_id, taken.id), Replica(other.id, uuid4(), gone.id)
    )  # fmt: skip
    assert present.of_replicas(catalogue, [mine, others]) == {
        volume.id: ReplicaRecord(taken, 4608), other.id: ReplicaRecord(None, 0),
    }  # fmt: skip
    assert present.of_replicas(catalogue, []) == {}
    # Of a replica that is another point's by now nothing is known to be left out.
    (now,) = present.of_replicas(catalogue, [replace(mine, point_id=None)]).values()
    assert now == ReplicaRecord()


def settle_all(session: Session, volumes: Sequence[Volume]) -> None:
    for volume in volumes:
        for job in jobs.unfinished(session.catalogue, volume.id):
            jobs.settle(session.catalogue, job.id, volume.id, JobState.DONE, "")


def test_what_was_recorded_since_is_looked_at_anew(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command came and went while other volumes were looked at: what seems wrong is not."""
    volumes = [protect(session, name)[0] for name in ("a", "b", "c")]
    settle_all(session, volumes)
    looked: list[str] = []

    def stack_problems(_session: Session, volume: Volume, recorded: Any) -> list[str]:
        looked.append(volume.name)
        if looked == ["a"]:
            job = jobs.begin(
                session.catalogue, "point create", [volumes[1].id], arguments={}, pid=1, steps=[]
            )
            jobs.end(session.catalogue, job, JobState.DONE, "")
        newest = present.of_volumes(session.catalogue, [volume.id])[volume.id].newest_job
        outdated = recorded.newest_job != newest
        return ["it differs"] if outdated or volume.name == "c" else []

    monkeypatch.setattr(status, "stack_problems", stack_problems)
    found = {each.volume: each.problems for each in status.status(session)}
    assert looked == ["a", "b", "c", "b"]
    assert found == {"a": (), "b": (), "c": ("it differs",)}


def test_a_volume_that_is_gone_meanwhile_is_told_of_as_it_was(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = [protect(session, name)[0] for name in ("a", "b")]
    settle_all(session, volumes)

    def stack_problems(_session: Session, volume: Volume, _recorded: Any) -> list[str]:
        session.catalogue.remove_volume(volumes[1].id)
        return ["it is gone"] if volume.name == "b" else []

    monkeypatch.setattr(status, "stack_problems", stack_problems)
    assert [each.problems for each in status.status(session)] == [(), ("it is gone",)]
