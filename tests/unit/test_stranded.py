"""What a killed command left suspended is seen to, and what is suspended for a moment is not."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import JobState
from dmsnap.catalogue.store import Catalogue
from dmsnap.daemon import duties
from dmsnap.daemon import stranded as watching
from dmsnap.daemon.stranded import Stranded
from dmsnap.errors import UnreachableError
from dmsnap.host import systemd, watchdog_process
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.service.health import stranded
from dmsnap.service.health.stranded import Left
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

FRONT = DmInfo("srv", "LVM-front", 1, 0, True, True, False, False, 0)
ORIGIN = DmInfo("dmsnap-srv-origin", "DMSNAP-x-origin", 2, 0, False, True, False, False, 0)
HELD = DmInfo("dmsnap-srv-origin", "DMSNAP-x-origin", 2, 0, True, True, False, False, 0)
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


@pytest.mark.usefixtures("no_watchdog")
@pytest.mark.parametrize(
    ("cut_off", "holders", "expected"),
    [
        (["a job"], [None, None], {"srv"}),
        ([], [None, None], set()),  # somebody else's, with whom nothing of ours was cut off
        (["a job"], ["sync"], set()),
        (["a job"], [None, "sync"], set()),  # it has begun since
    ],
)
def test_only_what_was_cut_off_and_is_held_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
    cut_off: list[str],
    holders: list[str | None],
    expected: set[str],
) -> None:
    answers = iter(holders)
    running: Callable[[str], str | None] = lambda _name: next(answers)  # noqa: E731
    volumes = [SimpleNamespace(name="srv", id="x")]
    session = SimpleNamespace(catalogue=SimpleNamespace(volumes=lambda: volumes), running=running)
    monkeypatch.setattr(jobs, "unfinished", lambda *_: cut_off)
    monkeypatch.setattr(jobs, "last_state", lambda *_: JobState.DONE)
    monkeypatch.setattr(stack, "front", lambda _: SimpleNamespace(uuid="LVM-front"))
    monkeypatch.setattr(dm, "list_devices", lambda _: [ORIGIN])
    monkeypatch.setattr(dm, "info", lambda *, uuid: FRONT if uuid == FRONT.uuid else None)
    found = stranded.devices(cast(Session, session))
    assert {each.device for each in found} == expected


@pytest.mark.parametrize(
    ("state", "holders", "expected"),
    [
        (JobState.FAILED, [None, None], {HELD.name}),
        (JobState.UNDONE, [None, None], {HELD.name}),
        (JobState.DONE, [None], set()),  # somebody else's
        (JobState.ABANDONED, [None], set()),
        (None, [None], set()),
        (JobState.FAILED, ["hydrate"], set()),
        (JobState.FAILED, [None, "hydrate"], set()),
    ],
)
@pytest.mark.usefixtures("no_watchdog")
def test_what_a_job_left_to_its_watchdog_when_it_failed(
    monkeypatch: pytest.MonkeyPatch,
    state: JobState | None,
    holders: list[str | None],
    expected: set[str],
) -> None:
    """Such a job is at its end, and its watchdog may have been killed since."""
    answers = iter(holders)
    volumes = [SimpleNamespace(name="srv", id="x")]
    session = SimpleNamespace(
        catalogue=SimpleNamespace(volumes=lambda: volumes), running=lambda _name: next(answers)
    )
    monkeypatch.setattr(jobs, "unfinished", lambda *_: [])
    monkeypatch.setattr(jobs, "last_state", lambda *_: state)
    monkeypatch.setattr(dm, "list_devices", lambda _: [HELD])
    monkeypatch.setattr(dm, "info", lambda **_: FRONT)  # an LV's own may be suspended by LVM
    found = stranded.devices(cast(Session, session))
    assert {each.device for each in found} == expected


def test_what_a_watchdog_is_at_work_on_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang with the device; who hung beside it would keep a swap from the volume."""
    session = cast(Session, SimpleNamespace(catalogue=None))
    volume = a_volume()
    at_work = {HELD.uuid}
    monkeypatch.setattr(jobs, "last_state", lambda *_: JobState.FAILED)
    monkeypatch.setattr(dm, "list_devices", lambda _: [HELD])
    monkeypatch.setattr(watchdog_process, "stands_by", lambda uuid: uuid in at_work)
    assert stranded.by_failure(session, volume) == set()
    at_work.clear()
    assert stranded.by_failure(session, volume) == {HELD.name}


def test_the_last_job_is_what_counts(tmp_path: Path) -> None:
    volume, other = a_volume("a"), a_volume("b")
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(volume)
        catalogue.add_volume(other)
        assert jobs.last_state(catalogue, volume.id) is None
        for state in (JobState.FAILED, JobState.DONE, JobState.UNDONE):
            ids = [volume.id, uuid4()]
            number = jobs.begin(catalogue, "sync", ids, arguments={}, pid=1, steps=["window"])
            assert jobs.last_state(catalogue, volume.id) is JobState.RUNNING
            jobs.end(catalogue, number, state, "")
            assert jobs.last_state(catalogue, volume.id) is state
        assert jobs.last_state(catalogue, other.id) is None


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
