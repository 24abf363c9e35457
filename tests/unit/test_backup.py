"""From the catalogue to the recovery volume and back, on an image file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area

from dmsnap._native import label as labels
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.catalogue import consistency, database, excerpt, jobs, past
from dmsnap.catalogue.model import JobState, Point, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli.actions.catalogue import describe_backups, describe_rebuilt
from dmsnap.cli.actions.inspect import describe_label
from dmsnap.errors import DmsnapError, ExitCode, InterruptedBySignal
from dmsnap.host import reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import backup_area, history, replica
from dmsnap.recovery.replica import Replica
from dmsnap.service import jobs as jobs_service
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.inspection.inspect_label import inspect_label
from dmsnap.service.records import backup, catalogue_backup, published, rebuild
from dmsnap.service.records.published import Published
from dmsnap.service.records.reconstruction import Known
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition
from dmsnap.snapshot import survey
from dmsnap.units import MIB

SIZE_BYTES = 4 * MIB
DEVICE_BYTES = 24 * MIB
NOTHING_LIVE = Published((), ())


class Host:
    """A catalogue and a recovery volume that is a file; the catalogue can be lost."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "recovery.img"
        self.image.write_bytes(b"")
        os.truncate(self.image, DEVICE_BYTES)
        self.device = BlockDevice(self.image, 0, DEVICE_BYTES, 512, False)
        self.volume = replace(
            a_volume(),
            state=VolumeState.PROTECTED,
            size_bytes=SIZE_BYTES,
            recovery=str(self.image),
            units=("a.service",),
        )
        self.catalogue = Catalogue.open(directory / "catalogue.db")
        self.lost = 0

    @property
    def session(self) -> Session:
        return Session(Configuration(run_directory=self.directory / "run"), self.catalogue)

    @contextmanager
    def opened(self, volume: Volume, **_: bool) -> Iterator[Replica]:
        fd = os.open(self.image, os.O_RDWR)
        try:
            current = labels.read(fd, DEVICE_BYTES, "recovery.img")
            replica.check_identity(volume, self.device, current)
            yield Replica(self.device, fd, current, volume)
        finally:
            os.close(fd)

    def label(self) -> Label:
        with self.opened(self.volume) as current:
            return current.label

    def write_label(self, **changes: object) -> None:
        with self.opened(self.volume) as current:
            current.write_label(replace(current.label, **changes))  # type: ignore[arg-type]

    def lose_catalogue(self) -> None:
        self.catalogue.close()
        self.lost += 1
        self.catalogue = Catalogue.open(self.directory / f"catalogue-{self.lost}.db")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    region = history.region(SIZE_BYTES, labels.offset(DEVICE_BYTES))
    volume = made.volume
    assert volume.recovery_id is not None
    first = Label(
        generation=0, size_bytes=SIZE_BYTES, volume_uuid=volume.id,
        recovery_uuid=volume.recovery_id, state=LabelState.CONSISTENT, flags=HistoryFlag(0),
        point_uuid=uuid4(), point_time_ns=9, next_point_uuid=None, next_point_time_ns=0,
        history_offset_bytes=region.offset_bytes, history_length_bytes=region.length_bytes,
        name=volume.name, fs_type="", fs_uuid="", host="",
    )  # fmt: skip
    with made.image.open("r+b") as file:
        labels.write(file.fileno(), DEVICE_BYTES, first, "recovery.img")
    monkeypatch.setattr(replica, "opened_for_label", made.opened)
    monkeypatch.setattr(replica, "label_of", lambda _: made.label())
    monkeypatch.setattr(BlockDevice, "probe", lambda _: made.device)
    monkeypatch.setattr(recognition, "note", lambda *_: None)
    yield made
    made.catalogue.close()


def with_a_past(host: Host) -> list[Point]:
    """A volume with one point deleted, one on the replica, and one that lives."""
    catalogue, volume = host.catalogue, host.volume
    catalogue.add_volume(volume)
    area = an_area(volume)
    catalogue.add_area(area)
    points = [
        replace(a_point(volume, n), area_id=None, invalid_reason=None, keep=False)
        for n in (10**18, 2 * 10**18)
    ]
    live = replace(a_point(volume, 3 * 10**18), area_id=area.id, invalid_reason=None)
    catalogue.add_points([*points, live])
    catalogue.delete_point(points[0].id, "no rule keeps it")
    job_id = jobs.begin(catalogue, "sync", [volume.id], arguments={}, pid=1, steps=["apply"])
    jobs.end(catalogue, job_id, JobState.DONE, "")
    host.write_label(point_uuid=points[1].id, point_time_ns=points[1].created_ns)
    host.session.note_replica(volume)
    backup.keep(catalogue, volume.name)
    return [points[1], live]


def found(host: Host, points: list[Point], area_path: str) -> Known:
    """As labels and stacks show it."""
    area = replace(an_area(host.volume), path=area_path, id=points[1].area_id or uuid4())
    bare = [replace(each, era_since=0, tracking_id="", window_seconds=0.0) for each in points]
    volume = replace(host.volume, tracking_id="new")
    return Known(volume, (area,), tuple(bare), (), backup.read(host.device, host.label()))


def test_there_and_back(host: Host) -> None:
    points = with_a_past(host)
    before = excerpt.take(host.catalogue, host.volume.id)
    path = next(row["device"] for row in before.of("place") if row["kind"] == "live")
    host.lose_catalogue()
    known = found(host, points, path)
    assert known.recalled.excerpt == before
    problems: list[str] = []
    assert rebuild.record(host.session, known, NOTHING_LIVE, problems)
    assert problems == []
    assert excerpt.take(host.catalogue, host.volume.id) == before
    assert list(consistency.contradictions(host.catalogue)) == []
    (gone,) = past.deleted_since(host.catalogue, host.volume.id, 0, 9)
    assert gone.deletion is not None
    assert gone.deletion.deleted_reason == "no rule keeps it"
    # A second one records nothing, and says so.
    assert not rebuild.record(host.session, known, NOTHING_LIVE, problems)
    assert "is recorded already" in problems[0]
    shown = list(describe_rebuilt(rebuild.result(None, [known], [], recorded=True)))
    assert any("with what was backed up at" in str(line) for line in shown)


def test_what_is_there_is_shown(host: Host) -> None:
    shown = "\n".join(str(line) for line in describe_label(inspect_label(host.image)))
    assert "backup           none yet" in shown
    with_a_past(host)
    found = inspect_label(host.image).backup
    assert found is not None
    assert (found.generation, found.problem) == (1, None)
    assert found.offset_bytes == labels.offset(DEVICE_BYTES) - MIB
    with host.image.open("r+b") as file:
        file.seek(found.offset_bytes + 4096)
        file.write(b"\xff\xff\xff")
    spoiled = inspect_label(host.image)
    assert spoiled.backup is not None
    assert "its checksum is wrong" in (spoiled.backup.problem or "")
    assert "its checksum is wrong" in "\n".join(str(each) for each in describe_label(spoiled))
    host.write_label(history_length_bytes=labels.offset(DEVICE_BYTES) - SIZE_BYTES)
    whole = inspect_label(host.image)
    assert whole.backup is None
    assert "no room for one" in "\n".join(str(each) for each in describe_label(whole))


@pytest.mark.parametrize("spoil", [b"\xff" * 16, b""])
def test_a_rebuild_goes_on_without(host: Host, spoil: bytes) -> None:
    points = with_a_past(host)
    offset = labels.offset(DEVICE_BYTES) - MIB
    with host.image.open("r+b") as file:
        for slot in (0, backup_area.SLOT_BYTES):
            file.seek(offset + slot)
            file.write(bytes(8) if not spoil else b"")
            file.seek(offset + slot + 4100)
            file.write(spoil)
    host.lose_catalogue()
    known = found(host, points, "/store/live.img")
    assert known.recalled.excerpt is None
    assert bool(known.recalled.reason) == bool(spoil)
    assert rebuild.record(host.session, known, NOTHING_LIVE, [])
    assert {point.id for point in host.catalogue.points(host.volume.id)} == {p.id for p in points}
    assert jobs.recent(host.catalogue, 9) == []


def test_room_is_made_where_there_was_none(host: Host) -> None:
    whole = labels.offset(DEVICE_BYTES) - SIZE_BYTES
    host.write_label(history_length_bytes=whole)
    with_a_past(host)
    assert host.label().history_length_bytes == whole - MIB
    assert backup.read(host.device, host.label()).excerpt is not None


def test_an_undo_store_is_not_written_over(host: Host) -> None:
    whole = labels.offset(DEVICE_BYTES) - SIZE_BYTES
    last = HistoryEntry(uuid4(), 1, SIZE_BYTES + whole - MIB, MIB, 8, HistoryFlag(0))
    host.write_label(history_length_bytes=whole, history=(last,))
    content = host.image.read_bytes()[last.store_offset_bytes :][:MIB]
    with_a_past(host)
    assert host.image.read_bytes()[last.store_offset_bytes :][:MIB] == content
    assert host.label().history == (last,)
    assert backup.read(host.device, host.label()) == backup.NOTHING
    result = catalogue_backup.written(host.session, host.volume)
    assert (result.written_ns, result.exit_code) == (None, ExitCode.NO_SPACE)
    assert catalogue_backup.forecast_one(host.session, host.volume) == result
    (line,) = describe_backups([result])
    assert "no room for a backup" in str(line)


def test_on_demand(host: Host) -> None:
    with_a_past(host)
    result = catalogue_backup.written(host.session, host.volume)
    assert (result.generation, result.error, result.exit_code) == (1, None, ExitCode.OK)
    (line,) = describe_backups([result])
    assert str(line).startswith(f"srv is backed up on {host.image} as of ")
    promoted = replace(host.volume, state=VolumeState.PROMOTED, recovery=None)
    without = catalogue_backup.written(host.session, promoted)
    assert without.exit_code is ExitCode.WRONG_STATE
    assert "has no recovery volume" in (without.error or "")


def test_what_would_be_backed_up_is_told_and_not_written(host: Host) -> None:
    with_a_past(host)
    written = catalogue_backup.written(host.session, host.volume)
    before = host.image.read_bytes()
    result = catalogue_backup.forecast_one(host.session, host.volume)
    assert (result.packed_bytes, result.error) == (written.packed_bytes, None)
    assert (result.device, result.written_ns) == (written.device, None)
    (line,) = describe_backups([result])
    assert str(line).startswith(f"srv would be backed up on {host.image}, in ")
    assert host.image.read_bytes() == before
    promoted = replace(host.volume, state=VolumeState.PROMOTED, recovery=None)
    without = catalogue_backup.forecast_one(host.session, promoted)
    assert without.exit_code is ExitCode.WRONG_STATE


def test_locks_are_let_go_after_the_backup(host: Host) -> None:
    """While they are held nobody else writes to the recovery volume."""
    with_a_past(host)
    session = host.session
    with session.locked(["srv"]):
        host.catalogue.update_volume(replace(host.volume, units=("b.service",)))
    recalled = backup.read(host.device, host.label())
    assert recalled.excerpt is not None
    assert recalled.excerpt.volume["units"] == ["b.service"]
    written_ns = recalled.written_ns
    with session.locked(["srv"]):
        host.catalogue.volumes()
    assert backup.read(host.device, host.label()).written_ns == written_ns


def failing(error: BaseException) -> Callable[..., object]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [DmsnapError("the disk is gone"), OSError(5, "no"), None])
def test_whatever_fails_the_work_is_done(
    host: Host, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_past(host)
    if error is not None:
        monkeypatch.setattr(backup, "write", failing(error))
    with host.session.locked(["srv"]):
        host.catalogue.update_volume(replace(host.volume, units=()))
    assert host.catalogue.volume("srv").units == ()


def test_a_signal_takes_nothing_away_from_what_is_done(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_a_past(host)
    monkeypatch.setattr(backup, "write", failing(InterruptedBySignal(2)))
    with host.session.locked(["srv"]):
        host.catalogue.update_volume(replace(host.volume, units=()))
    assert "is not backed up" in caplog.text


def test_a_boot_puts_it_off_until_what_was_cut_off_is_resumed(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mounts wait for the boot, and the recovery volume may hang: it is not even opened."""
    with_a_past(host)
    session, before = host.session, host.image.read_bytes()
    asked: list[Path] = []
    answers = iter([False, True])

    def reads(path: Path, _seconds: float) -> bool:
        asked.append(path)
        return next(answers)

    monkeypatch.setattr(reach, "reads", reads)
    for number in range(2):
        with session.locked(["srv"], at_boot=True):
            host.catalogue.update_volume(replace(host.volume, units=(f"{number}.service",)))
        assert (host.image.read_bytes(), asked) == (before, [host.image] * number)
        assert jobs_service.resume_all(session) == []
    assert asked == [host.image] * 2
    assert "does not answer within" in caplog.text
    recalled = backup.read(host.device, host.label()).excerpt
    assert recalled is not None
    assert recalled.volume["units"] == ["1.service"]
    # It is made up for, once.
    assert jobs_service.resume_all(session) == []
    assert asked == [host.image] * 2


def test_what_is_recorded_is_what_was_seen_under_the_lock(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was at work while the devices were looked at has ended by then."""
    points = with_a_past(host)
    host.lose_catalogue()
    early = found(host, points, "/store/live.img")
    late = replace(early, volume=replace(early.volume, generation=9))
    other = replace(a_volume("other"), id=uuid4(), recovery=None)
    came = Known(other, (), (), ())
    session = host.session
    looks: list[bool] = []

    def look(settings: Configuration, recorded: list[UUID]) -> tuple[list[Known], list[str]]:
        assert (settings, recorded) == (session.configuration, [])
        looks.append(session.is_held_by("srv", os.getpid()))
        return ([late, came] if looks[-1] else [early]), []

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(configuration, "load", lambda: session.configuration)
    monkeypatch.setattr(database, "at", lambda _: SimpleNamespace(damage=lambda: None))
    monkeypatch.setattr(Session, "open", lambda: session)
    monkeypatch.setattr(Session, "__exit__", lambda *_: None)
    monkeypatch.setattr(survey, "live_stacks", list)
    monkeypatch.setattr(published, "look", lambda _: NOTHING_LIVE)
    monkeypatch.setattr(rebuild, "look", look)
    planned = rebuild.rebuild(dry_run=True)
    assert (planned.recorded, [each.volume for each in planned.volumes]) == (False, ["srv"])
    done = rebuild.rebuild(dry_run=False)
    assert looks == [False, False, True]
    assert [each.volume for each in done.volumes] == ["srv"]
    assert done.problems == ("other has come up meanwhile: dmsnap catalogue rebuild records it",)
    assert host.catalogue.volume("srv").generation == 9
    assert host.catalogue.find_volume("other") is None
