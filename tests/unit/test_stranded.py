"""What a killed command left suspended is seen to, and what is suspended for a moment is not."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.export import ExportKind, Source
from dmsnap.catalogue.model import Job, JobState, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.daemon import duties
from dmsnap.daemon import stranded as watching
from dmsnap.daemon.stranded import Stranded
from dmsnap.errors import NoSpaceError, NotPermittedError, UnreachableError, WrongStateError
from dmsnap.host import orphans, systemd, watchdog_process
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.service import journal, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import export_source
from dmsnap.service.health import stranded
from dmsnap.service.health.stranded import Left
from dmsnap.service.hydrations import crossing
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns import luns
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.reaper import Reaped
from dmsnap.service.schedules import cut_off_hooks
from dmsnap.service.swaps import owed_record
from dmsnap.snapshot import stack

FRONT = DmInfo("srv", "LVM-front", 1, 0, True, True, False, False, 0)
A, B, OTHER = Left("srv", "a"), Left("srv", "b"), Left("data", "c")


def test_what_is_found_twice_is_concluded() -> None:
    found = [{A}, {B}, {A, B}, {B}, set[Left]()]
    begun: list[int] = []
    watch = Stranded(
        lambda: True, lambda: frozenset(found.pop(0)), lambda _volume: begun.append(len(found))
    )
    while found:
        watch.look()
    assert begun == [2, 1]


def test_whose_it_is_is_asked_only_of_what_is_suspended() -> None:
    """A look in five seconds must not cost a question to a catalogue that is on another host."""
    asked: list[int] = []
    suspended = [True, False, True, True]

    def find() -> frozenset[Left]:
        asked.append(len(suspended))
        return frozenset({A})

    begun: list[str] = []
    watch = Stranded(lambda: suspended.pop(0), find, begun.append)
    for _ in range(3):
        watch.look()
    assert (asked, begun) == ([3, 1], [])  # what went on in between had its time anew
    watch.look()
    assert begun == ["srv"]


def test_a_look_that_fails_is_told_and_made_again(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[frozenset[Left] | None] = [frozenset({A}), None, frozenset({A})]

    def find() -> frozenset[Left]:
        if (answer := answers.pop(0)) is None:
            raise UnreachableError("the catalogue's server is away")
        return answer

    begun: list[str] = []
    watch = Stranded(lambda: True, find, begun.append)
    for _ in range(3):
        watch.look()
    assert begun == ["srv"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "server is away" in caplog.messages[0]


def test_a_volume_that_cannot_be_concluded_keeps_no_other_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one whose unit is masked, which comes first at every look."""
    begun: list[str] = []

    def begin(volume: str) -> None:
        if volume == "data":
            raise WrongStateError("its unit is masked")
        begun.append(volume)

    watch = Stranded(lambda: True, lambda: frozenset({A, OTHER}), begin)
    for _ in range(3):
        watch.look()
    assert begun == ["srv", "srv"]
    assert "of data may be left so: its unit is masked" in caplog.text


def test_looking_goes_on_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0)
    looks: list[int] = []

    def is_any() -> bool:
        looks.append(1)
        return False

    async def some() -> None:
        watch = Stranded(is_any, lambda: frozenset({A}), lambda _volume: None)
        duty = asyncio.create_task(watch.run())
        while len(looks) < 3:
            await asyncio.sleep(0)
        duty.cancel()

    asyncio.run(some())


def test_each_volume_is_concluded_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit for all would not be begun again while it waits for one volume's disk."""
    begun: list[str] = []
    watch = Stranded(lambda: True, lambda: frozenset({A, B, OTHER}), begun.append)
    watch.look()
    watch.look()
    assert begun == ["data", "srv"]
    units: list[str] = []
    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(systemd, "begin", units.append)
    for volume in ("data", "my-srv"):
        duties.conclude(volume)
    assert units == ["dmsnap-resume@data.service", r"dmsnap-resume@my\x2dsrv.service"]
    unit = Path(__file__).parents[2] / "systemd" / "dmsnap-resume@.service"
    assert "ExecStart=/usr/local/bin/dmsnap job resume --volume %I" in unit.read_text()


@pytest.fixture
def no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_process, "stands_by", lambda _uuid: False)


class House:
    """A volume with a catalogue that is real, and devices that are made up."""

    def __init__(self, directory: Path, catalogue: Catalogue) -> None:
        self.directory = directory
        self.catalogue = catalogue
        self.volume: Volume = a_volume()
        catalogue.add_volume(self.volume)
        uuid = f"DMSNAP-{self.volume.id}-origin"
        self.origin = DmInfo("dmsnap-srv-origin", uuid, 2, 0, True, True, False, False, 0)
        self.devices: list[DmInfo] = []
        self.holders: list[str | None] = []
        self.session: Any = SimpleNamespace(
            catalogue=catalogue,
            configuration=Configuration(run_directory=directory),
            running=lambda _name: self.holders.pop(0) if self.holders else None,
        )

    def suspend(self) -> None:
        self.devices = [self.origin]

    def go_on(self, _name: str = "") -> None:
        self.devices = []

    def job(self, does: Callable[[], None], *, forward: bool = False, fails: bool = True) -> None:
        """One that does that, and then ``fails``; ``forward``: it is cut off by that."""

        def do() -> None:
            does()
            if fails:
                raise WrongStateError("it failed")

        step = Step("window", "suspend and resume", do)
        with pytest.raises(WrongStateError) if fails else nullcontext():
            journal.run(self.catalogue, Plan("sync", [self.volume.id], [step], forward=forward))

    def found(self) -> set[str]:
        """What the service finds."""
        return {each.device for each in stranded.devices(self.session)}

    def command(self, does: Callable[[], object] = lambda: None) -> None:
        """What a command does first, and what it does then; what is cut off stays so."""
        reaped = self.begun()
        with reaper.seen_to(self.session, self.volume, reaped):
            does()

    def begun(self) -> Reaped:
        """A command that is killed when it has come so far."""
        cut_off = jobs.unfinished(self.catalogue, self.volume.id)
        reaper.clear_suspended(self.session, self.volume, cut_off)
        return Reaped(frozenset((each.operation, each.state) for each in cut_off))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        house = House(tmp_path, catalogue)
        monkeypatch.setattr(dm, "list_devices", lambda _prefix: house.devices)
        monkeypatch.setattr(dm, "info", lambda **_: None)
        monkeypatch.setattr(dm, "resume_past_era", house.go_on)
        yield house


@pytest.mark.usefixtures("no_watchdog")
@pytest.mark.parametrize(
    ("holders", "is_found"),
    [([None, None], True), (["sync"], False), ([None, "sync"], False)],
)
@pytest.mark.parametrize("forward", [False, True])
def test_what_a_job_left_that_is_held_by_nobody(
    house: House, forward: bool, holders: list[str | None], is_found: bool
) -> None:
    """Of one that failed and left it to its watchdog, and of one that was cut off."""
    house.job(house.suspend, forward=forward)
    house.holders = list(holders)
    assert house.found() == ({house.origin.name} if is_found else set())


@pytest.mark.usefixtures("no_watchdog")
def test_only_of_volumes_with_jobs_that_are_cut_off_more_is_asked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service looks at each event, and a server may be far away."""
    for number in range(5):
        house.catalogue.add_volume(a_volume(f"other-{number}"))
    asked: list[object] = []
    unfinished = jobs.unfinished

    def counted(catalogue: Catalogue, volume_id: UUID) -> list[Job]:
        asked.append(volume_id)
        return unfinished(catalogue, volume_id)

    monkeypatch.setattr(jobs, "unfinished", counted)
    monkeypatch.setattr(stack, "front", lambda _: SimpleNamespace(uuid="LVM-front"))
    assert house.found() == set()
    assert asked == []
    house.job(lambda: None, forward=True)
    monkeypatch.setattr(
        dm, "list_devices", lambda prefix: [house.origin] if str(house.volume.id) in prefix else []
    )
    assert house.found() == {house.origin.name}
    assert asked == [house.volume.id]


@pytest.mark.usefixtures("no_watchdog")
def test_a_front_that_is_an_lv_is_found_where_a_job_was_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "front", lambda _: SimpleNamespace(uuid="LVM-front"))
    monkeypatch.setattr(dm, "info", lambda *, uuid: FRONT if uuid == FRONT.uuid else None)
    house.job(lambda: None)
    assert house.found() == set()  # LVM's
    house.job(lambda: None, forward=True)
    assert house.found() == {FRONT.name}


@pytest.mark.usefixtures("no_watchdog")
def test_what_an_administrator_suspended_stays_so(house: House) -> None:
    """Before a job that failed for it, after one that failed, or while one waits to be concluded.

    Once each thing that a job has left was seen to, what is suspended is somebody else's.
    """
    house.job(lambda: None)
    house.suspend()
    for fails in (False, True):
        if fails:
            house.job(lambda: None)
        house.command()
        assert house.devices
        assert house.found() == set()
    house.go_on()
    house.job(lambda: None, forward=True)
    house.command()
    house.suspend()
    house.command()
    assert house.devices
    assert house.found() == set()
    # Another one that is cut off may have suspended it.
    house.job(lambda: None, forward=True)
    assert house.found() == {house.origin.name}
    house.command()
    assert not house.devices


@pytest.mark.usefixtures("no_watchdog")
def test_what_whoever_looks_at_a_job_that_is_cut_off_leaves_goes_on(house: House) -> None:
    """It is killed while it concludes that, or as it does what it was begun for: in a job, or in a
    window of its own, of which nothing is recorded. Also where the last one had come to its end.
    """
    house.job(lambda: None, forward=True)
    for _ in range(2):
        house.command()
        house.begun()
        house.suspend()
        assert house.found() == {house.origin.name}
        house.command()
        assert not house.devices
    house.command(lambda: house.job(house.suspend, forward=True))
    assert house.found() == {house.origin.name}
    house.command()
    assert not house.devices


@pytest.fixture
def reaping(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off cannot be concluded; nothing else is to be cleared."""

    def fail(*_job: object) -> bool:
        raise UnreachableError("the session is lost")

    for module in (owed_record, crossing):
        monkeypatch.setattr(module, "settle", lambda _session, volume: volume)
    for module, name in (
        (luns, "release_strays"),
        (luns, "attach_all"),
        (orphans, "wait_for_lvm"),
        (cut_off_hooks, "close_pairs"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(reaper, "clear", lambda *_, **__: None)
    monkeypatch.setattr(reaper, "has_come_to_its_end", fail)
    house.session.locked = lambda *_, **__: nullcontext()


@pytest.mark.usefixtures("no_watchdog", "reaping")
@pytest.mark.parametrize("kinds", [[ExportKind.FRONT], [ExportKind.FRONT, ExportKind.POINT]])
def test_what_an_administrator_suspends_behind_an_export_stays_so(
    house: House, kinds: list[ExportKind]
) -> None:
    """Before the next one, too, which is for two that are of one volume."""
    house.job(lambda: None, forward=True)
    sources = [Source(kind, house.volume.id, None, None, 0) for kind in kinds]
    for _ in range(2):
        with export_source.held(house.session, *sources, wanted=Wanted.SERVING):
            pass
        house.suspend()
        assert house.found() == set()
    assert house.devices


@pytest.mark.usefixtures("no_watchdog", "reaping")
def test_what_concluding_a_job_leaves_to_its_watchdog_is_not_seen_to(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a window of no job, so that no outcome names it; and the watchdog may be killed."""
    fail = reaper.has_come_to_its_end

    def leave(*job: Any) -> bool:
        house.suspend()
        return fail(*job)

    house.job(lambda: None, forward=True)
    with monkeypatch.context() as patched:
        patched.setattr(reaper, "has_come_to_its_end", leave)
        with reaper.held(house.session, house.volume.name):
            pass
    assert house.found() == {house.origin.name}
    for _ in range(2):  # and what somebody else suspends from then on is his
        with reaper.held(house.session, house.volume.name):
            pass
        house.suspend()
        assert house.found() == set()


@pytest.mark.usefixtures("no_watchdog")
@pytest.mark.parametrize("waiting", [1, 3])
def test_a_job_of_a_catalogue_that_was_made_again_is_another_one(
    house: House, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is that of one that was seen to, or a lower one; the volume is the same. So it is
    in a catalogue that was restored as it had been.
    """
    for _ in range(waiting):
        house.job(lambda: None, forward=True)
    house.command()
    house.suspend()
    assert house.found() == set()
    with Catalogue.open(house.directory / "again.db") as again:
        again.add_volume(house.volume)
        monkeypatch.setattr(house, "catalogue", again)
        house.session.catalogue = again
        house.job(lambda: None, forward=True)
        (job,) = jobs.unfinished(again, house.volume.id)
        assert job.id == 1
        assert house.found() == {house.origin.name}
        house.command()
        assert not house.devices


@pytest.mark.usefixtures("no_watchdog")
def test_what_a_job_has_left_goes_on_once(house: House) -> None:
    house.job(house.suspend)
    (job,) = jobs.recent(house.catalogue, 1)
    assert job.outcome == f"it failed; left suspended: {house.origin.uuid}"
    house.command()
    assert not house.devices
    (job,) = jobs.recent(house.catalogue, 1)
    assert (job.outcome or "").endswith(f"left suspended, and resumed since: {house.origin.uuid}")
    house.suspend()
    house.command()
    assert house.devices


@pytest.mark.usefixtures("no_watchdog")
def test_what_is_suspended_while_a_job_is_done_is_somebody_elses(house: House) -> None:
    """It may take hours, and has resumed what it suspended."""
    house.job(house.suspend, fails=False)
    house.command()
    assert house.devices
    assert house.found() == set()


@pytest.mark.usefixtures("no_watchdog")
@pytest.mark.parametrize("forward", [False, True])
def test_what_cannot_be_recorded_keeps_no_command_out(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forward: bool
) -> None:
    """A boot shows the volume whatever the catalogue takes."""

    def refuse(*_what: object) -> None:
        raise NoSpaceError("the catalogue takes nothing")

    house.job(house.suspend, forward=forward)
    monkeypatch.setattr(jobs, "note", refuse)
    (house.directory / "stranded").write_text("no directory")
    house.command()
    assert not house.devices
    house.suspend()
    house.command()
    assert not house.devices
    assert "resumed is not recorded" in caplog.text


@pytest.mark.usefixtures("no_watchdog")
@pytest.mark.parametrize("fails", [True, False])
def test_what_a_job_has_left_is_not_the_next_ones_finding(house: House, fails: bool) -> None:
    """It may fail because of it, or have to do with the history alone: it is still ours, and nobody
    has resumed it.
    """
    house.job(house.suspend)
    for _ in range(2):
        house.job(lambda: None, fails=fails)
    assert house.found() == {house.origin.name}
    house.command()
    assert not house.devices


def test_what_a_watchdog_is_at_work_on_is_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang with the device; who hung beside it would keep a swap from the volume."""
    at_work = {house.origin.uuid}
    monkeypatch.setattr(watchdog_process, "stands_by", lambda uuid: uuid in at_work)
    house.job(house.suspend)
    assert house.found() == set()
    at_work.clear()
    assert house.found() == {house.origin.name}


def test_where_device_mapper_does_not_answer_jobs_run_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_prefix: str) -> list[DmInfo]:
        raise NotPermittedError("no")

    monkeypatch.setattr(dm, "list_devices", refuse)
    house.job(lambda: None)
    (job,) = jobs.recent(house.catalogue, 1)
    assert (job.state, job.outcome) == (JobState.UNDONE, "it failed")


def test_the_last_job_is_what_counts(tmp_path: Path) -> None:
    volume, other = a_volume("a"), a_volume("b")
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(volume)
        catalogue.add_volume(other)
        assert jobs.last(catalogue, volume.id) is None
        for state in (JobState.FAILED, JobState.DONE, JobState.UNDONE):
            ids = [volume.id, uuid4()]
            number = jobs.begin(catalogue, "sync", ids, arguments={}, pid=1, steps=["window"])
            jobs.end(catalogue, number, state, "")
            last = jobs.last(catalogue, volume.id)
            assert last is not None
            assert (last.id, last.state) == (number, state)
        assert jobs.last(catalogue, other.id) is None


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts what has the name of a watchdog, or another, and waits with those arguments."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        program = tmp_path / name
        program.symlink_to(sys.executable)
        words = [str(program), "-c", "import sys; sys.stdin.read()", *arguments]
        begun.append(subprocess.Popen(words, stdin=subprocess.PIPE))

    yield start
    for process in begun:
        process.communicate()


def test_a_watchdog_is_known_by_its_command_line(watchdog: Callable[..., None]) -> None:
    """As a window writes it, and as work does that takes longer."""
    one, two, three = (f"DMSNAP-{uuid4()}-front" for _ in range(3))
    assert not watchdog_process.stands_by(one)
    watchdog("dmsnap-watchdog", f"16384,2048,253,4,0:{one}", f"!32:{two}")
    watchdog("dmsnap-other", f"!32:{three}")
    assert watchdog_process.stands_by(one)
    assert watchdog_process.stands_by(two)
    assert not watchdog_process.stands_by(three)


def test_of_other_programs_not_even_the_command_line_is_read(tmp_path: Path) -> None:
    """One in a page fault of a suspended device shows it to nobody until that is resumed."""
    uuid = f"DMSNAP-{uuid4()}-front"
    for pid, name in (("7", "mysqld"), ("8", "dmsnap-watchdog")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
    words = ["/usr/libexec/dmsnap-watchdog", "3", "500", f"!32:{uuid}"]
    (tmp_path / "8" / "cmdline").write_text("\0".join(words))
    os.mkfifo(tmp_path / "7" / "cmdline")  # opening it to read would wait for a writer
    asking = threading.Thread(
        target=lambda: watchdog_process.stands_by("DMSNAP-no", proc=tmp_path), daemon=True
    )
    asking.start()
    asking.join(10)
    assert not asking.is_alive()
    assert watchdog_process.stands_by(uuid, proc=tmp_path)
