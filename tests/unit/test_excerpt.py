"""What is backed up of a catalogue is what comes back; what is forged does not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from catalogue_samples import a_point, a_volume, an_area, an_export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmsnap.catalogue import (
    consistency,
    excerpt,
    excerpt_reader,
    export,
    identity,
    jobs,
    past,
    recall,
    schema,
)
from dmsnap.catalogue.database import Place
from dmsnap.catalogue.excerpt import Excerpt
from dmsnap.catalogue.model import (
    Hydration,
    IdentifierKind,
    JobState,
    Point,
    StepState,
    Volume,
    VolumeState,
)
from dmsnap.catalogue.statements import Statements
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError


def a_recorded_volume(catalogue: Catalogue) -> tuple[Volume, list[Point]]:
    """One with a past: returns it and its points that are left."""
    volume = replace(
        a_volume(),
        state=VolumeState.PROTECTED,
        units=("postgresql.service",),
        left_behind=("/dev/old",),
        joined=True,
        device_bytes=2**42,
        hydration=Hydration("/dev/vg/srv", "/dev/new", 2**30, 5, "boot:1", 3),
    )
    catalogue.add_volume(volume)
    live_area = an_area(volume)
    catalogue.add_area(live_area)
    points = [
        replace(a_point(volume, created_ns), area_id=None, invalid_reason=None)
        for created_ns in (10**18, 2 * 10**18, 3 * 10**18, 4 * 10**18)
    ]
    points[3] = replace(points[3], area_id=live_area.id)
    catalogue.add_points(points)
    catalogue.record_replica(volume, [points[2].id, points[1].id, points[0].id])
    catalogue.record_replica(volume, [points[2].id, points[1].id])
    catalogue.delete_point(points[0].id, "the rule daily = 1 keeps it no more")
    identity.record(
        catalogue, volume.id, [(IdentifierKind.WWID, "naa.5000"), (IdentifierKind.LINK, "by-id/a")]
    )
    shown = an_export(volume)
    shown = replace(shown, source=replace(shown.source, point_id=points[2].id), complete=True)
    export.record(catalogue, shown)
    for number in range(3):
        job_id = jobs.begin(
            catalogue, "sync", [volume.id], arguments={"name": "srv", "audit": "none"},
            pid=100 + number, steps=["repair", "apply"],
        )  # fmt: skip
        jobs.record_step(catalogue, job_id, 0, StepState.DONE, 0.25)
        if number < 2:
            jobs.end(catalogue, job_id, JobState.DONE, "")
    return volume, points[1:]


def found_again(place: Place, volume: Volume, points: list[Point], taken: Excerpt) -> Catalogue:
    """A catalogue with what labels and stacks say, and what the excerpt adds."""
    catalogue = Catalogue.open(place)
    area = next((each.area_id for each in points if each.area_id), None)
    areas = [replace(an_area(volume), id=area)] if area else []
    if area:
        areas = [replace(areas[0], path=live_path(taken))]

    def also(statements: Statements) -> None:
        recall.everything(statements, taken)
        catalogue.take_numbers(statements, "job")

    bare = [
        replace(point, era_since=0, tracking_id="", window_seconds=0.0, invalid_reason=None)
        for point in points
    ]
    catalogue.add_whole(replace(volume, tracking_id="new"), areas, bare, also)
    held = [point.id for point in reversed(points) if point.area_id is None]
    catalogue.record_replica(volume, held)
    return catalogue


def live_path(taken: Excerpt) -> str:
    return next(str(r["device"]) for r in taken.of("place") if r["kind"] == "live")


def read_again(taken: Excerpt, volume: Volume) -> Excerpt:
    return excerpt_reader.decode(excerpt.encode(taken), volume.id, "/dev/sdb")


def second(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """Another catalogue, in the same kind of database."""
    if isinstance(place, Path):
        return tmp_path / "second.db"
    found: Place = request.getfixturevalue("postgresql").new_database()
    return found


def test_what_comes_back_is_what_there_was(
    catalogue: Catalogue, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Dumped before and after: equal, in either kind of database; and it can be worked with."""
    volume, points = a_recorded_volume(catalogue)
    taken = excerpt.take(catalogue, volume.id)
    assert {name: len(taken.of(name)) for name in excerpt.TABLES} == {
        "volume": 1, "point": 4, "place": 4, "identifier": 2, "export": 1, "job": 2,
        "job_volume": 2, "job_step": 4,
    }  # fmt: skip
    back = read_again(taken, volume)
    assert back == taken
    other = second(place, tmp_path, request)
    with found_again(other, volume, points, back) as rebuilt:
        assert excerpt.take(rebuilt, volume.id) == taken
        assert excerpt.encode(excerpt.take(rebuilt, volume.id)) == excerpt.encode(taken)
        assert list(consistency.contradictions(rebuilt)) == []
        (gone,) = past.deleted_since(rebuilt, volume.id, 0, 5)
        assert gone.deletion is not None
        assert gone.deletion.deleted_reason == "the rule daily = 1 keeps it no more"
        # Tracking is believed by nobody: the next sync compares.
        assert {point.tracking_id for point in rebuilt.points(volume.id)} == {""}
        job_id = jobs.begin(rebuilt, "sync", [volume.id], arguments={}, pid=1, steps=[])
        assert job_id > max(row["id"] for row in taken.of("job"))
        assert jobs.unfinished(rebuilt, volume.id)[0].id == job_id


def test_what_is_known_of_the_columns_is_what_the_schema_says() -> None:
    for table in excerpt.TABLES:
        keys = [column.name for column in schema.metadata.tables[table].primary_key]
        assert list(excerpt.KEYS[table]) == keys
        for column in excerpt_reader.columns(table):
            is_json, is_truth = (isinstance(column.type, each) for each in (sa.JSON, sa.Boolean))
            assert (column.name in excerpt.JSON_COLUMNS) == is_json, column
            assert (column.name in excerpt.TRUTHS) == is_truth, column


def test_a_volume_and_its_past_are_one_transaction(catalogue: Catalogue) -> None:
    """What fails while its past is recorded leaves the volume as it was, points and all."""
    volume, _ = a_recorded_volume(catalogue)
    before = excerpt.take(catalogue, volume.id)
    areas, points = catalogue.areas(volume.id), catalogue.points(volume.id)

    def also(statements: Statements) -> None:
        recall.everything(statements, before)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        catalogue.add_whole(replace(volume, tracking_id="new"), (), points[:1], also)
    assert catalogue.areas(volume.id) == areas
    assert catalogue.points(volume.id) == points
    assert catalogue.volume(volume.name) == volume
    assert excerpt.take(catalogue, volume.id) == before


def test_it_is_the_same_for_the_same_rows(catalogue: Catalogue) -> None:
    volume, _ = a_recorded_volume(catalogue)
    first = excerpt.encode(excerpt.take(catalogue, volume.id))
    assert excerpt.encode(excerpt.take(catalogue, volume.id)) == first


def test_a_point_that_is_not_found_is_deleted(catalogue: Catalogue, tmp_path: Path) -> None:
    """Its store is gone, or was dropped after the backup: it is shown as no point of worth."""
    volume, points = a_recorded_volume(catalogue)
    taken = read_again(excerpt.take(catalogue, volume.id), volume)
    found = [points[1]]
    with found_again(tmp_path / "second.db", volume, found, taken) as rebuilt:
        assert [point.id for point in rebuilt.points(volume.id)] == [points[1].id]
        gone = {one.point.id: one for one in past.deleted_since(rebuilt, volume.id, 0, 9)}
        assert len(gone) == 3
        for point in (points[0], points[2]):
            deletion = gone[point.id].deletion
            assert deletion is not None
            assert deletion.deleted_reason == recall.NOT_FOUND
            assert all(place.until_ns is not None for place in gone[point.id].places)
        assert list(consistency.contradictions(rebuilt)) == []
        # What was exported is there; were it of a point that is gone, it would not be.
        assert len(export.exports(rebuilt, volume.id)) == 1


def test_what_labels_say_counts(catalogue: Catalogue, tmp_path: Path) -> None:
    """A point that was deleted, by a backup of later, and is on the label, is there."""
    volume, points = a_recorded_volume(catalogue)
    for point in points[:2]:
        catalogue.delete_point(point.id, "forged, or of an apply that was rolled back")
    taken = read_again(excerpt.take(catalogue, volume.id), volume)
    with found_again(tmp_path / "second.db", volume, points, taken) as rebuilt:
        assert {point.id for point in rebuilt.points(volume.id)} == {each.id for each in points}
        assert list(consistency.contradictions(rebuilt)) == []


def test_jobs_of_two_volumes_and_numbers_that_are_taken(
    catalogue: Catalogue, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    one, other = replace(a_volume("one")), replace(a_volume("two"))
    for volume in (one, other):
        catalogue.add_volume(volume)
    both = jobs.begin(
        catalogue, "point create", [one.id, other.id], arguments={}, pid=7, steps=["window"]
    )
    jobs.end(catalogue, both, JobState.DONE, "")
    alone = jobs.begin(catalogue, "sync", [other.id], arguments={}, pid=8, steps=["apply"])
    jobs.end(catalogue, alone, JobState.FAILED, "torn")
    excerpts = [read_again(excerpt.take(catalogue, each.id), each) for each in (one, other)]
    with Catalogue.open(second(place, tmp_path, request)) as rebuilt:
        stranger = jobs.begin(rebuilt, "prune", [], arguments={}, pid=9, steps=[])
        jobs.end(rebuilt, stranger, JobState.DONE, "")
        assert stranger == both
        for taken in excerpts:
            with rebuilt.statements() as statements:
                recall.jobs(statements, taken)
                rebuilt.take_numbers(statements, "job")
        found = {job.operation: job for job in jobs.recent(rebuilt, 9)}
        assert len(jobs.recent(rebuilt, 9)) == 3
        assert found["prune"].id == stranger
        assert found["sync"].outcome == "torn"
        assert set(found["point create"].volume_ids) == {one.id, other.id}
        assert [step.name for step in found["point create"].steps] == ["window"]


def test_there_is_an_end_to_it(catalogue: Catalogue) -> None:
    """The newest of the deleted points, all of those that are left, and the last jobs."""
    volume, points = a_recorded_volume(catalogue)
    for number in range(20):
        point = replace(a_point(volume, 10**17 + number), area_id=None)
        catalogue.add_point(point)
        catalogue.delete_point(point.id, "old")
    taken = excerpt.take(catalogue, volume.id, deleted=5, jobs=1)
    kept = [row for row in taken.of("point") if row["deleted_ns"] is not None]
    assert sorted(row["created_ns"] for row in kept) == [10**17 + n for n in (16, 17, 18, 19)] + [
        10**18
    ]
    assert taken.point_ids == sorted((each.id for each in points), key=str)
    assert [row["id"] for row in taken.of("job")] == [2]
    none = excerpt.take(catalogue, volume.id, deleted=0, jobs=0)
    assert len(none.of("point")) == len(points)
    assert none.of("job") == ()


def test_what_would_do_something_to_a_terminal_is_left_out(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    job_id = jobs.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=[])
    jobs.end(catalogue, job_id, JobState.FAILED, "mkfs said \x1b[31mno\x1b[0m\nat once")
    taken = read_again(excerpt.take(catalogue, volume.id), volume)
    assert taken.of("job")[0]["outcome"] == "mkfs said \ufffd[31mno\ufffd[0m\nat once"


def test_what_a_program_said_has_an_end(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    job_id = jobs.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=[])
    jobs.end(catalogue, job_id, JobState.FAILED, "x" * 10**6)
    taken = read_again(excerpt.take(catalogue, volume.id), volume)
    assert taken.of("job")[0]["outcome"] == "x" * excerpt.MAX_TEXT


# bad input

Document = dict[str, Any]
Spoil = Callable[[Document], object]


def put(table: str, column: str, value: Any) -> Spoil:
    def spoil(document: Document) -> None:
        part = document["tables"][table]
        part["rows"][0][part["columns"].index(column)] = value

    return spoil


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


OTHER = str(uuid4())
FORGED: list[tuple[str, Spoil]] = [
    ("no tables", lambda d: d.pop("tables")),
    ("no schema", lambda d: d.pop("schema")),
    ("schema no text", lambda d: d.update(schema=7)),
    ("no volume", lambda d: d["tables"].pop("volume")),
    ("another volume", put("volume", "id", OTHER)),
    ("two volumes", lambda d: d["tables"]["volume"]["rows"].append(
        [OTHER if isinstance(v, str) and len(v) == 36 else v
         for v in d["tables"]["volume"]["rows"][0]])),
    ("a state nobody knows", put("volume", "state", "spoiled")),
    ("units no list", put("volume", "units", {"a": 1})),
    ("a unit no text", put("volume", "units", [7])),
    ("a unit with an escape", put("volume", "units", ["a\x1b[2J"])),
    ("a unit of two lines", put("volume", "units", ["a.service\nExecStart=sh"])),
    ("a device of two lines", put("volume", "left_behind", ["/dev/x\nKERNEL==\"*\""])),
    ("a name of two lines", put("volume", "name", "a\nb")),
    ("a place of two lines", put("place", "device", "a\nb")),
    ("an initiator of two lines", put("export", "initiators", ["iqn.2026-01.a:b\nc"])),
    ("a target that is a path", put("export", "target", "iqn.2026-01.local.dmsnap:../../x")),
    ("an initiator that is a path", put("export", "initiators", ["../x"])),
    ("an address that is none", put("export", "address", "everywhere")),
    ("a port that is none", put("export", "port", 65536)),
    ("a LUN that is none", put("export", "lun", 256)),
    ("a place that is none", put("volume", "mounts", [
        {"mount_point": "srv", "fs_type": "", "options": []}])),
    ("a mount without a place", put("volume", "mounts", [{"fs_type": "ext4", "options": []}])),
    ("a mount with more", put("volume", "mounts", [
        {"mount_point": "/", "fs_type": "", "options": [], "command": "sh"}])),
    ("a mount over a text", put("volume", "mounts", [
        {"mount_point": "/", "fs_type": "", "options": [], "over": "1"}])),
    ("options no texts", put("volume", "mounts", [{"mount_point": "/", "fs_type": "x",
                                                  "options": [1]}])),
    ("a move to nowhere", put("volume", "hydration", {"source": "/dev/a"})),
    ("a move to a number", put("volume", "hydration", {
        "source": "/dev/a", "target": 7, "position_bytes": 1, "since": 1, "tracking_id": "",
        "surplus_sectors": 1})),
    ("a move to a device of two lines", put("volume", "hydration", {
        "source": "/dev/a", "target": "/dev/b", "position_bytes": 1, "since": 1, "tracking_id": "",
        "surplus_sectors": 1, "identity": "a\nb"})),
    ("a point of another", put("point", "volume_id", OTHER)),
    ("a point without id", put("point", "id", None)),
    ("an id that is none", put("point", "id", "../../etc/passwd")),
    ("an id in another form", put("point", "id", str(uuid4()).upper())),
    ("a time that is a text", put("point", "created_ns", "1")),
    ("a time before all time", put("point", "created_ns", -1)),
    ("a time beyond 63 bits", put("point", "created_ns", 2**63)),
    ("keep is a number", put("point", "keep", 1)),
    ("a reason with a zero byte", put("point", "deleted_reason", "a\0b")),
    ("half a character", put("point", "deleted_by", "\ud800")),
    ("seconds that are true", put("point", "window_seconds", True)),
    ("a place of no point", put("place", "point_id", OTHER)),
    ("a kind of place nobody knows", put("place", "kind", "moon")),
    ("an identifier of another", put("identifier", "volume_id", OTHER)),
    ("an export of another", put("export", "volume_id", OTHER)),
    ("an export of a device", put("export", "volume_id", None)),
    ("initiators no texts", put("export", "initiators", [1])),
    ("a job that runs", put("job", "state", "running")),
    ("arguments no object", put("job", "arguments", [])),
    ("a job's number is a text", put("job", "id", "1")),
    ("a step of no job", put("job_step", "job_id", 77)),
    ("a row that is too short", lambda d: d["tables"]["point"]["rows"][0].pop()),
    ("a row that is none", lambda d: d["tables"]["point"]["rows"].append("row")),
    ("a row twice", lambda d: d["tables"]["point"]["rows"].append(
        list(d["tables"]["point"]["rows"][0]))),
    ("a column twice", lambda d: d["tables"]["point"]["columns"].__setitem__(0, "id")),
    ("columns no list", lambda d: d["tables"]["point"].update(columns=3)),
    ("a table that is none", lambda d: d["tables"].update(point=[])),
]  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Volume, Excerpt]:
    with Catalogue.open(tmp_path / "recorded.db") as catalogue:
        volume, _ = a_recorded_volume(catalogue)
        return volume, excerpt.take(catalogue, volume.id)


@pytest.mark.parametrize(("what", "spoil"), FORGED, ids=[what for what, _ in FORGED])
def test_what_is_forged_is_refused(
    recorded: tuple[Volume, Excerpt], what: str, spoil: Spoil
) -> None:
    volume, taken = recorded
    document = json.loads(excerpt.encode(taken))
    spoil(document)
    forged = json.dumps(document).encode()
    assert forged != excerpt.encode(taken), what
    with pytest.raises(CorruptError, match="the backup of the catalogue on /dev/sdb") as caught:
        excerpt_reader.decode(forged, volume.id, "/dev/sdb")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"7", b"null", b"{}", b'{"schema":"7","tables":[]}', b'{"schema":NaN}',
     b"1" * 5000, nested(200_000), b'{"schema":"7","tables":{"volume":' + nested(50_000) + b"}}"],
)  # fmt: skip
def test_what_is_no_excerpt_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptError, match="is not used"):
        excerpt_reader.decode(content, UUID(int=1), "/dev/sdb")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_is_read_can_be_recorded(
    recorded: tuple[Volume, Excerpt], data: st.DataObject
) -> None:
    """Any value in any place: it is refused, or recorded, and contradicts nothing."""
    volume, taken = recorded
    document = json.loads(excerpt.encode(taken))
    table = data.draw(st.sampled_from(sorted(document["tables"])))
    part = document["tables"][table]
    row = data.draw(st.integers(0, len(part["rows"]) - 1))
    column = data.draw(st.integers(0, len(part["columns"]) - 1))
    part["rows"][row][column] = data.draw(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(OTHER),
            st.sampled_from(["live", "replica", "history", "done", "front", "protected"]),
        )
    )  # fmt: skip
    try:
        forged = excerpt_reader.decode(json.dumps(document).encode(), volume.id, "/dev/sdb")
    except CorruptError:
        return
    with TemporaryDirectory() as place, Catalogue.open(Path(place, "catalogue.db")) as rebuilt:
        rebuilt.add_volume(volume)
        with rebuilt.statements() as statements:
            recall.everything(statements, forged)
        rebuilt.points(volume.id)
        jobs.recent(rebuilt, 99)
        export.exports(rebuilt)
        identity.identifiers(rebuilt, volume.id)
        past.deleted_since(rebuilt, volume.id, 0, 99)
        assert not [
            each for each in consistency.contradictions(rebuilt) if not each.startswith("job")
        ]


def test_columns_of_a_later_schema_are_not_looked_at(recorded: tuple[Volume, Excerpt]) -> None:
    volume, taken = recorded
    document = json.loads(excerpt.encode(taken))
    document["schema"] = "99"
    document["tables"]["moons"] = {"columns": ["id"], "rows": [["x"]]}
    part = document["tables"]["point"]
    part["columns"].append("phase")
    for row in part["rows"]:
        row.append({"full": True})
    later = excerpt_reader.decode(json.dumps(document).encode(), volume.id, "/dev/sdb")
    assert later.rows == taken.rows


def test_columns_that_an_earlier_schema_did_not_have(recorded: tuple[Volume, Excerpt]) -> None:
    volume, taken = recorded
    document = json.loads(excerpt.encode(taken))
    part = document["tables"]["point"]
    for name in ("deleted_by", "temporary"):
        at = part["columns"].index(name)
        part["columns"].pop(at)
        for row in part["rows"]:
            row.pop(at)
    earlier = excerpt_reader.decode(json.dumps(document).encode(), volume.id, "/dev/sdb")
    assert {row["deleted_by"] for row in earlier.of("point")} == {None}
    assert {row["temporary"] for row in earlier.of("point")} == {False}
