"""The catalogue: what is recorded comes back, from a file and from a PostgreSQL server."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area, an_export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue import export as recorded
from dmsnap.catalogue import hook_runs, identity, jobs, past, skipped
from dmsnap.catalogue.clock import format_time, now_ns, parse_time
from dmsnap.catalogue.database import Place
from dmsnap.catalogue.export import ExportKind, Source
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import (
    AreaRole,
    Hydration,
    Identifier,
    IdentifierKind,
    JobState,
    JobStep,
    LiveFront,
    MountRecord,
    PlaceKind,
    Point,
    StepState,
    Volume,
    VolumeState,
)
from dmsnap.catalogue.skipped import Skipped
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError, NotFoundError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.host.process import login_name


def test_a_volume_comes_back_as_it_was(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    assert catalogue.volume("srv") == volume
    assert catalogue.volume_by_id(volume.id) == volume
    changed = replace(
        volume,
        state=VolumeState.PROMOTED,
        recovery=None,
        recovery_id=None,
        trial_point=uuid4(),
        previous_backing="/dev/vg/old",
        mounts=(),
        hydration=Hydration("/dev/vg/old", "/dev/vg/new", 2**40, 9, "boot:1", 2**33, "wwid:a"),
        left_behind=("/dev/sdx", "/dev/a b"),
        joined=True,
        device_bytes=2**42,
        live=LiveFront("vg-data", "LVM-abc", "boot"),
        led_to=(("/dev/a b", "loop:0:/srv/ä.img"), ("/dev/sdx", "size:4096")),
    )
    catalogue.update_volume(changed)
    assert catalogue.volumes() == [changed]
    assert isinstance(catalogue.volume("srv").state, VolumeState)


def test_volumes_are_listed_by_name(catalogue: Catalogue) -> None:
    for name in ("b", "c", "a"):
        catalogue.add_volume(a_volume(name))
    assert [volume.name for volume in catalogue.volumes()] == ["a", "b", "c"]


def test_an_unknown_volume_is_a_sentence(catalogue: Catalogue) -> None:
    assert catalogue.find_volume("srv") is None
    with pytest.raises(NotFoundError, match="no protected volume named 'srv'"):
        catalogue.volume("srv")
    with pytest.raises(NotFoundError):
        catalogue.volume_by_id(uuid4())


def test_a_name_is_taken_while_protected_and_free_again_afterwards(catalogue: Catalogue) -> None:
    first, second = a_volume(), a_volume()
    catalogue.add_volume(first)
    for taken in (second, replace(first, name="another")):
        with pytest.raises(WrongStateError, match="refuses"):
            catalogue.add_volume(taken)
    assert catalogue.volume("srv").id == first.id
    catalogue.remove_volume(first.id)
    assert catalogue.find_volume("srv") is None
    catalogue.add_volume(second)
    assert catalogue.volume("srv").id == second.id


def test_a_volume_that_was_unprotected_is_protected_again(catalogue: Catalogue) -> None:
    """Its label gives it its former identity back, and with it its points."""
    volume = a_volume()
    catalogue.add_volume(volume)
    point = a_point(volume)
    catalogue.add_point(point)
    catalogue.remove_volume(volume.id)
    again = replace(volume, generation=1, tracking_id="boot:2", store="/elsewhere")
    catalogue.add_volume(again)
    assert catalogue.volumes() == [again]
    assert catalogue.points(volume.id) == [point]


def test_a_volume_is_recorded_with_its_new_points_or_not_at_all(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    first, second = a_point(volume), a_point(volume, 6)
    catalogue.update_volume(replace(volume, generation=2), new_points=[first])
    assert catalogue.points(volume.id) == [first]
    with pytest.raises(DmsnapError):
        catalogue.update_volume(replace(volume, generation=3), new_points=[second, first])
    assert catalogue.points(volume.id) == [first]
    assert catalogue.volumes() == [replace(volume, generation=2)]


def test_areas_come_back_and_go(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    cow, era = an_area(volume), replace(an_area(volume, AreaRole.ERA_METADATA), point_id=None)
    catalogue.add_area(cow)
    catalogue.add_area(era)
    assert catalogue.areas(volume.id) == [cow, era]
    assert catalogue.areas(volume.id, AreaRole.ERA_METADATA) == [era]
    spare = replace(era, role=AreaRole.SPARE)
    catalogue.update_area(spare)
    assert catalogue.areas(volume.id) == [cow, spare]
    catalogue.update_area(era)
    catalogue.remove_area(cow.id)
    catalogue.remove_area(cow.id)
    assert catalogue.areas(volume.id) == [era]
    assert catalogue.areas(uuid4()) == []


def test_areas_and_points_belong_to_a_volume(catalogue: Catalogue) -> None:
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_area(an_area(a_volume()))
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_point(a_point(a_volume()))


def test_the_points_of_one_moment_are_recorded_together(catalogue: Catalogue) -> None:
    """As when a command is killed in between: a set of volumes has all of them or none."""
    volume = a_volume()
    catalogue.add_volume(volume)
    good, bad = a_point(volume), a_point(a_volume("other"))
    with pytest.raises(WrongStateError, match="refuses"):
        catalogue.add_points([good, bad])
    assert catalogue.points() == []
    catalogue.add_points([good, a_point(volume, 9)])
    assert len(catalogue.points(volume.id)) == 2


def test_points_come_back_oldest_first_and_stay_recorded(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    newer, older = a_point(volume, 9), a_point(volume, 3)
    for point in (newer, older):
        catalogue.add_point(point)
    assert catalogue.points() == [older, newer]
    assert catalogue.find_point(newer.id) == newer
    settled = replace(newer, area_id=None, invalid_reason=None, keep=False)
    catalogue.update_point(settled)
    assert catalogue.find_point(newer.id) == settled
    before_ns = now_ns()
    catalogue.delete_point(older.id, "point delete")
    assert catalogue.find_point(older.id) is None
    assert catalogue.points(volume.id) == [settled]
    (kept,) = past.deleted(catalogue, older.id.hex[:12])
    assert kept.point == replace(older, area_id=None)
    assert kept.deletion is not None
    assert kept.deletion.deleted_ns >= before_ns
    assert kept.deletion.deleted_reason == "point delete"
    assert kept.deletion.deleted_by == login_name()
    catalogue.delete_point(older.id, "again")
    assert past.deleted(catalogue, older.id.hex) == [kept]
    assert past.deleted(catalogue, newer.id.hex) == []


def test_jobs_are_recorded_before_their_steps_and_after(catalogue: Catalogue) -> None:
    volume_id, steps = uuid4(), ["track", "apply"]
    job_id = jobs.begin(
        catalogue, "sync", [volume_id], arguments={"name": "srv"}, pid=42, steps=steps
    )
    jobs.record_step(catalogue, job_id, 0, StepState.DONE, 0.5)
    jobs.record_step(catalogue, job_id, 1, StepState.BEGUN, None)
    (job,) = jobs.unfinished(catalogue, volume_id)
    assert job == jobs.job(catalogue, job_id)
    assert job.finished_ns is None
    assert job.steps == (
        JobStep("track", StepState.DONE, 0.5),
        JobStep("apply", StepState.BEGUN, None),
    )
    assert (job.arguments, job.last_begun) == ({"name": "srv"}, "apply")
    assert job.has_begun("apply")
    assert not job.has("apply", StepState.DONE)
    jobs.end(catalogue, job_id, JobState.DONE, "")
    assert jobs.unfinished(catalogue, volume_id) == []
    empty = jobs.begin(catalogue, "assemble", [uuid4()], arguments={}, pid=42, steps=[])
    assert [(each.id, each.state) for each in jobs.recent(catalogue, 1)] == [(empty, "running")]
    assert [each.id for each in jobs.recent(catalogue, 2)] == [empty, job_id]
    with pytest.raises(NotFoundError, match="no job 77"):
        jobs.job(catalogue, 77)


def test_a_job_of_two_volumes_is_over_when_both_are_settled(catalogue: Catalogue) -> None:
    one, two = uuid4(), uuid4()
    job_id = jobs.begin(catalogue, "point create", [one, two], arguments={}, pid=42, steps=["w"])
    jobs.settle(catalogue, job_id, one, JobState.UNDONE, "cut off")
    assert jobs.unfinished(catalogue, one) == []
    assert jobs.job(catalogue, job_id).state is JobState.RUNNING
    assert [job.id for job in jobs.unfinished(catalogue, two)] == [job_id]
    assert [job.id for job in jobs.recent(catalogue, 1)] == [job_id]
    jobs.settle(catalogue, job_id, two, JobState.UNDONE, "cut off")
    assert jobs.job(catalogue, job_id).state is JobState.UNDONE


# Neither a path nor a name can hold a zero byte, nor can PostgreSQL's text.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=TEXT,
    mounts=st.lists(st.tuples(TEXT, TEXT, st.lists(TEXT)), max_size=3),
    size_bytes=st.integers(0, 2**62),
)
def test_any_text_survives(
    catalogue: Catalogue,
    name: str,
    mounts: list[tuple[str, str, list[str]]],
    size_bytes: int,
) -> None:
    records = tuple(MountRecord(at, kind, tuple(options)) for at, kind, options in mounts)
    volume = replace(a_volume(), name=name, mounts=records, size_bytes=size_bytes)
    catalogue.add_volume(volume)
    assert catalogue.volume_by_id(volume.id) == volume
    catalogue.remove_volume(volume.id)


def test_times_are_utc() -> None:
    assert format_time(1_790_000_000_999_999_999) == "2026-09-21T14:13:20Z"
    for text in ("2026-09-21T14:13:20Z", "2026-09-21 14:13:20", "2026-09-21T16:13:20+02:00"):
        assert parse_time(text) == 1_790_000_000_000_000_000
    assert parse_time("1970-01-02") == 86_400 * 10**9
    for text in ("yesterday", "", "2026-13-01"):
        with pytest.raises(ValueError, match=r"isoformat|month"):
            parse_time(text)


def test_two_first_commands_make_it_at_once(place: Place) -> None:
    script = (
        "import sys; from pathlib import Path; from dmsnap.catalogue.store import Catalogue\n"
        "from dmsnap.secret import Secret; kind = {'Path': Path, 'Secret': Secret}[sys.argv[1]]\n"
        "sys.stdin.read(1); Catalogue.open(kind(sys.argv[2])).volumes()"
    )
    kind, text = ("Path", str(place)) if isinstance(place, Path) else ("Secret", place.reveal())
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, kind, text],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("x")
        racer.stdin.flush()
    ends = [racer.communicate(timeout=300)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, ends


def test_what_a_replica_leaves_out_is_good_for_its_points_only(place: Place) -> None:
    recovery, other, point, next_point = (uuid4() for _ in range(4))
    extents = ExtentSet.from_extents([Extent(4096, 8192), Extent(2**44, 4096)])
    with Catalogue.open(place) as opened:
        assert not skipped.of_replica(opened, recovery, point)
        skipped.record(opened, Skipped(recovery, (point,), extents))
    with Catalogue.open(place) as opened:
        assert skipped.of_replica(opened, recovery, point) == extents
        assert not skipped.of_replica(opened, recovery, next_point)
        assert not skipped.of_replica(opened, recovery, None)
        assert not skipped.of_replica(opened, other, point)
        fewer = ExtentSet.from_extents([Extent(4096, 4096)])
        skipped.record(opened, Skipped(recovery, (point, next_point), fewer))
        assert skipped.of_replica(opened, recovery, point) == fewer
        assert skipped.of_replica(opened, recovery, next_point) == fewer
        skipped.record(opened, Skipped(recovery, (next_point,), ExtentSet()))
        assert not skipped.of_replica(opened, recovery, next_point)
        skipped.record(opened, Skipped(recovery, (point,), extents))
        skipped.forget(opened, recovery)
        assert not skipped.of_replica(opened, recovery, point)


def test_exports_come_back_as_they_were(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    first = an_export(volume)
    device = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/x", 4096, "wwid:a")
    second = replace(first, id=uuid4(), source=device, address="192.0.2.1", created_ns=2)
    for export in (second, first):
        recorded.record(catalogue, export)
    assert recorded.exports(catalogue) == [first, second]
    assert recorded.exports(catalogue, volume.id) == [first]
    done = replace(first, complete=True, generation=2)
    recorded.record(catalogue, done)
    assert recorded.exports(catalogue, volume.id) == [done]
    assert done.backstore == f"dmsnap-{done.id.hex[:12]}-2"
    assert (done.portal, second.portal) == ("[2001:db8::1]:3260", "192.0.2.1:3260")
    recorded.forget(catalogue, first.id)
    assert recorded.exports(catalogue) == [second]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 100
        for module in ("places", "store", "identity"):
            monkeypatch.setattr(f"dmsnap.catalogue.{module}.now_ns", lambda: self.now_ns)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def were(catalogue: Catalogue, volume: Volume, time_ns: int) -> dict[UUID, list[PlaceKind]]:
    found = past.as_of(catalogue, time_ns, volume.id)
    return {one.point.id: [place.kind for place in one.places] for one in found}


def live_point(catalogue: Catalogue, volume: Volume, created_ns: int) -> Point:
    area = an_area(volume)
    catalogue.add_area(area)
    point = replace(a_point(volume, created_ns), area_id=area.id)
    catalogue.add_point(point)
    return point


def test_where_points_were_is_known_for_every_moment(catalogue: Catalogue, clock: Clock) -> None:
    """Live first, then on the replica, then in its history, then dropped."""
    volume = a_volume()
    catalogue.add_volume(volume)
    first = live_point(catalogue, volume, 10)
    clock.now_ns = 20
    catalogue.update_point(replace(first, area_id=None))
    catalogue.record_replica(volume, [first.id, uuid4()])
    second = live_point(catalogue, volume, 30)
    clock.now_ns = 40
    catalogue.record_replica(volume, [second.id, first.id])
    catalogue.record_replica(volume, [second.id, first.id])
    clock.now_ns = 50
    catalogue.delete_point(first.id, "no room")
    catalogue.record_replica(volume, [second.id])
    live, replica, history = PlaceKind.LIVE, PlaceKind.REPLICA, PlaceKind.HISTORY
    assert were(catalogue, volume, 9) == {}
    assert were(catalogue, volume, 10) == {first.id: [live]}
    assert were(catalogue, volume, 19) == {first.id: [live]}
    assert were(catalogue, volume, 20) == {first.id: [replica]}
    assert were(catalogue, volume, 45) == {first.id: [history], second.id: [live, replica]}
    assert were(catalogue, volume, 50) == {second.id: [live, replica]}
    assert were(catalogue, a_volume(), 45) == {}
    (gone,) = past.deleted(catalogue, first.id.hex)
    assert [(place.kind, place.since_ns, place.until_ns) for place in gone.places] == [
        (live, 10, 20), (replica, 20, 40), (history, 40, 50),
    ]  # fmt: skip
    assert {place.device for place in gone.places[1:]} == {volume.recovery}
    (then, _) = past.as_of(catalogue, 45, volume.id)
    assert then.deletion is not None
    assert then.deletion.deleted_ns == 50


def test_a_recovery_volume_on_another_device_is_another_place(
    catalogue: Catalogue, clock: Clock
) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    point = a_point(volume, 10)
    catalogue.add_point(point)
    catalogue.record_replica(volume, [point.id])
    clock.now_ns = 200
    catalogue.record_replica(replace(volume, recovery="/dev/sdz"), [point.id])
    (now,) = past.as_of(catalogue, 200, volume.id)
    assert [place.device for place in now.places] == ["/dev/sdz"]
    clock.now_ns = 300
    catalogue.record_replica(volume, [])
    assert were(catalogue, volume, 300) == {point.id: []}


def test_what_was_deleted_stays_when_a_volume_is_recorded_anew(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    gone, left = live_point(catalogue, volume, 1), live_point(catalogue, volume, 2)
    catalogue.record_replica(volume, [left.id])
    catalogue.delete_point(gone.id, "point delete")
    anew = replace(left, tracking_id="boot:9", area_id=None)
    catalogue.add_whole(volume, [], [anew])
    assert catalogue.points(volume.id) == [anew]
    assert catalogue.areas(volume.id) == []
    (kept,) = past.deleted(catalogue, gone.id.hex)
    assert kept.deletion is not None


def test_by_what_a_volume_is_known_stays_known(catalogue: Catalogue, clock: Clock) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    link, moved = "/dev/disk/by-uuid/3f1c", "/dev/disk/by-id/scsi-2"
    identity.record(catalogue, volume.id, [(IdentifierKind.LINK, link)])
    clock.now_ns = 200
    identity.record(catalogue, volume.id, [(IdentifierKind.LINK, moved)])
    clock.now_ns = 300
    identity.record(
        catalogue, volume.id, [(IdentifierKind.WWID, "naa.5"), (IdentifierKind.LINK, moved)]
    )
    assert identity.identifiers(catalogue, volume.id) == [
        Identifier(IdentifierKind.LINK, moved, 300),
        Identifier(IdentifierKind.LINK, link, 100),
        Identifier(IdentifierKind.WWID, "naa.5", 300),
    ]
    assert identity.identifiers(catalogue, uuid4()) == []
    assert catalogue.name_of(volume.id) == "srv"


def a_run(hook: str, output: str = "said\n") -> HookRecord:
    return HookRecord(hook, "precopy", "failed with 1", True, 0.25, output)


def a_job(catalogue: Catalogue) -> int:
    return jobs.begin(catalogue, "sync", [], arguments={}, pid=1, steps=["precopy"])


def test_what_hooks_wrote_comes_back_in_order(catalogue: Catalogue) -> None:
    job, other = a_job(catalogue), a_job(catalogue)
    hook_runs.record(catalogue, job, "precopy", [a_run("b"), a_run("a", "é\t\n" * 9)])
    hook_runs.record(catalogue, other, "precopy", [a_run("c")])
    hook_runs.record(catalogue, job, "postcopy", [a_run("b")])
    hook_runs.record(catalogue, job, "unsnap", [])
    kept = hook_runs.of_job(catalogue, job)
    assert [(run.hook, run.step) for run in kept] == [
        ("b", "precopy"), ("a", "precopy"), ("b", "postcopy"),
    ]  # fmt: skip
    assert kept[1] == replace(a_run("a", "é\t\n" * 9), step="precopy")
    assert hook_runs.of_job(catalogue, other + 1) == ()


def test_the_newest_runs_of_each_hook_are_kept(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_runs, "KEPT_RUNS", 3)
    made = [a_job(catalogue) for _ in range(6)]
    hook_runs.record(catalogue, made[0], "precopy", [a_run("rare")])
    for job in made:
        hook_runs.record(catalogue, job, "precopy", [a_run("often")])
    left = [[run.hook for run in hook_runs.of_job(catalogue, job)] for job in made]
    assert left == [["rare"], [], [], ["often"], ["often"], ["often"]]
