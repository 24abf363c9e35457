"""A volume that goes over to another device, whatever becomes of the record of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Hydration, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    CorruptError,
    DeadlineError,
    OperatingSystemError,
    UnreachableError,
    WrongStateError,
)
from dmsnap.host import watchdog
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Table
from dmsnap.service.hydrations import crossing
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.replicas import rolling
from dmsnap.service.session import Session
from dmsnap.snapshot import stack, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.units import MIB

VOLUME = replace(
    a_volume(),
    backing="/dev/old",
    hydration=Hydration("/dev/old", "/dev/new", 64 * MIB, 3, "boot:1", 0),
    left_behind=("/dev/older", "/dev/new"),
    live=None,
)
OLD = BlockDevice(Path("/dev/old"), 1, 128 * MIB, 512, False)
NEW = BlockDevice(Path("/dev/new"), 2, 128 * MIB, 512, False)
GONE = UnreachableError("the server is gone")
LATE = DeadlineError("was resumed by its watchdog")


class Origin:
    """The origin, as the kernel keeps it; ``resumed`` is what users found, time after time."""

    def __init__(self) -> None:
        self.there = True
        self.live: Table = stack.origin_table(VOLUME, OLD)
        self.inactive: Table | None = None
        self.suspended = False
        self.failing: str | None = None
        self.resumed: list[Table] = []

    @property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace(
            suspended=self.suspended,
            inactive_table=self.inactive is not None,
            live_table=True,
        )

    def table(self, _name: str, *, inactive: bool = False) -> Table:
        return (self.inactive or ()) if inactive else self.live

    def load(self, _name: str, table: Table) -> None:
        if self.failing == "load":
            raise OperatingSystemError("no table")
        if self.failing in ("late", "late-and-not-told"):
            self.resume("origin")
        self.inactive = table
        if self.failing == "late":
            raise LATE

    def clear(self, _name: str) -> None:
        self.inactive = None

    def resume(self, _name: str, **_how: object) -> None:
        self.live, self.inactive = self.inactive or self.live, None
        self.suspended = False
        self.resumed.append(self.live)


class Guard:
    """A watchdog beside an origin."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def start(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def require(self, _seconds: float = 0) -> None:
        if self.origin.resumed:
            raise LATE

    def hush(self) -> None:
        pass

    def join(self) -> None:
        pass


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Origin:
    found = Origin()
    for call in ("load", "clear", "resume", "table"):
        monkeypatch.setattr(dm, call, getattr(found, call))
    monkeypatch.setattr(dm, "existing", lambda _name: found.state)
    monkeypatch.setattr(stack, "exists", lambda _device: found.there)
    monkeypatch.setattr(write_count, "remember", lambda *_: None)
    monkeypatch.setattr(write_count, "bytes_beside", lambda *_: 0)

    def held(*_of: object) -> WriteCounts:
        found.suspended = True
        return WriteCounts(0, 0, 0)

    monkeypatch.setattr(rolling, "held", held)
    return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    place = SimpleNamespace(
        state_directory=tmp_path / "state",
        run_directory=tmp_path / "run",
        window_deadline_ms=1000,
    )
    (tmp_path / "state").mkdir()
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(VOLUME)
        yield Session(place, catalogue)  # type: ignore[arg-type]


@pytest.fixture
def copying(session: Session, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Copying:
    """A move that is at its last step."""

    @contextmanager
    def watched(*_what: object) -> Iterator[Guard]:
        yield Guard(origin)

    monkeypatch.setattr(watchdog, "watched", watched)
    monkeypatch.setattr(BlockDevice, "probe", lambda _path: OLD)
    monkeypatch.setattr(Copying, "_copy_held", lambda *_: None)
    assert VOLUME.hydration is not None
    assert origin.live != stack.origin_table(VOLUME, NEW)
    return Copying(session, VOLUME, NEW, VOLUME.hydration, bandwidth=0, progress=None)


def recorded(session: Session) -> Volume:
    return session.catalogue.volume_by_id(VOLUME.id)


def failing(
    monkeypatch: pytest.MonkeyPatch, *errors: Exception | None, committed: bool = False
) -> None:
    """The server answers with these to what records the new device, and to all after them well."""
    left, update = list(errors), Catalogue.update_volume

    def updated(self: Catalogue, volume: Volume) -> None:
        error = left.pop(0) if left and volume.hydration is None else None
        if error is None or committed:
            update(self, volume)
        if error is not None:
            raise error

    monkeypatch.setattr(Catalogue, "update_volume", updated)


def test_it_goes_over_and_nothing_is_noted_afterwards(
    copying: Copying, session: Session, origin: Origin
) -> None:
    after = copying.switch(None)
    assert after == recorded(session)
    assert (after.backing, after.hydration) == ("/dev/new", None)
    assert after.left_behind == ("/dev/older", "/dev/old")
    assert origin.resumed == [stack.origin_table(VOLUME, NEW)]
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("error", [GONE, LATE])
def test_a_commit_in_doubt_is_made_good_when_the_volume_goes_on(
    copying: Copying,
    session: Session,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
    error: Exception,
) -> None:
    """As when the server's data lie on the volume: it answers as soon as that goes on."""
    failing(monkeypatch, error, committed=committed)
    assert copying.switch(None) == recorded(session)
    assert recorded(session).backing == "/dev/new"
    assert origin.resumed == [stack.origin_table(VOLUME, NEW)]
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


@pytest.mark.parametrize("booted", [True, False])
@pytest.mark.parametrize("committed", [True, False])
def test_without_the_record_the_note_decides(
    copying: Copying,
    session: Session,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
    booted: bool,
) -> None:
    failing(monkeypatch, GONE, GONE, committed=committed)
    with pytest.raises(UnreachableError) as raised:
        copying.switch(None)
    assert "no boot goes on over /dev/old" in raised.value.__notes__[0]
    assert origin.resumed == [stack.origin_table(VOLUME, NEW)]
    now = recorded(session)
    assert now.backing == ("/dev/new" if committed else "/dev/old")
    assert crossing.expected(session, now).backing == "/dev/new"
    origin.there = not booted
    assert crossing.settle(session, now) == recorded(session)
    assert recorded(session).backing == "/dev/new"
    assert recorded(session).left_behind == ("/dev/older", "/dev/old")
    assert crossing.expected(session, VOLUME) == VOLUME


def test_what_fails_before_the_table_is_loaded_leaves_nothing(
    copying: Copying, session: Session, origin: Origin
) -> None:
    origin.failing = "load"
    with pytest.raises(OperatingSystemError, match="no table"):
        copying.switch(None)
    assert origin.resumed == [stack.origin_table(VOLUME, OLD)]
    assert recorded(session) == VOLUME
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


@pytest.mark.parametrize("when", ["before it was held", "since"])
def test_what_somebody_wrote_past_the_front_keeps_it_where_it_is(
    copying: Copying,
    session: Session,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """What came before that the window alone tells: what waits in the origin may hide it now."""

    def bytes_beside(_directory: Path, _volume: Volume, counts: WriteCounts | None = None) -> int:
        return 4096 if (counts is not None) == (when == "before it was held") else 0

    monkeypatch.setattr(write_count, "bytes_beside", bytes_beside)
    copying.untouched = True
    with pytest.raises(WrongStateError, match="written to past"):
        copying.switch(None)
    assert origin.resumed == [stack.origin_table(VOLUME, OLD)]
    found = recorded(session)
    assert (found.backing, found.hydration) == (VOLUME.backing, VOLUME.hydration)
    assert found.tracking_id != VOLUME.tracking_id
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None
    # A run that knows of it from its beginning has compared what it copied.
    copying.untouched = False
    moved = copying._moved(WriteCounts(0, 0, 0))
    assert moved.tracking_id not in (VOLUME.tracking_id, found.tracking_id)


@pytest.mark.parametrize("failing", ["late", "late-and-not-told"])
def test_a_table_that_is_loaded_when_the_watchdog_had_resumed_is_dropped(
    copying: Copying, session: Session, origin: Origin, failing: str
) -> None:
    """What was held is written to the old device by then."""
    origin.failing = failing
    with pytest.raises(DeadlineError):
        copying.switch(None)
    assert origin.resumed == [stack.origin_table(VOLUME, OLD)]
    assert origin.inactive is None
    assert recorded(session) == VOLUME
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


def test_too_late_for_the_table_it_is_not_loaded(
    copying: Copying, session: Session, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(_guard: Guard, seconds: float = 0) -> None:
        assert seconds > 0
        raise LATE

    monkeypatch.setattr(Guard, "require", late)
    monkeypatch.setattr(dm, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(DeadlineError):
        copying.switch(None)
    assert origin.resumed == [stack.origin_table(VOLUME, OLD)]
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


def test_killed_when_it_had_loaded_too_late_it_stays_on_the_old_device(
    copying: Copying, session: Session, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.failing = "late-and-not-told"
    killed(copying, monkeypatch, (Guard, "join"))
    assert origin.inactive is not None
    assert crossing.settle(session, recorded(session)) == VOLUME
    assert origin.resumed == [stack.origin_table(VOLUME, OLD)]
    assert origin.inactive is None
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


def killed(copying: Copying, monkeypatch: pytest.MonkeyPatch, at: Any) -> None:
    """Stop where ``at`` is called first, with nothing done after that."""

    class KilledError(BaseException):
        pass

    def die(*_arguments: object, **_options: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Copying, "_went_over", die)
        patched.setattr(at[0], at[1], die)
        with pytest.raises(KilledError):
            copying.switch(None)


@pytest.mark.parametrize("resumed", [True, False], ids=["by-its-watchdog", "by-nobody"])
@pytest.mark.parametrize(
    ("at", "device"),
    [
        ((crossing, "begin"), "/dev/old"),
        ((dm, "load"), "/dev/old"),
        ((Catalogue, "update_volume"), "/dev/new"),
        ((dm, "resume"), "/dev/new"),
    ],
    ids=["before-the-note", "before-the-table", "before-the-record", "before-the-resume"],
)
def test_killed_anywhere_it_is_recorded_what_it_goes_on_over(
    copying: Copying,
    session: Session,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    at: Any,
    device: str,
    resumed: bool,
) -> None:
    killed(copying, monkeypatch, at)
    if resumed:
        origin.resume("origin")
    volume = crossing.settle(session, recorded(session))
    assert volume == recorded(session)
    assert volume.backing == device
    # The reaper resumes what is not on its way.
    assert origin.suspended == (at == (crossing, "begin") and not resumed)
    new = device == "/dev/new"
    assert origin.live == stack.origin_table(VOLUME, NEW if new else OLD)
    assert origin.inactive is None
    assert crossing.noted(session.configuration.state_directory, VOLUME.id) is None


def test_a_watchdog_that_was_faster_is_no_failure(
    copying: Copying, session: Session, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, LATE)

    def resumed(name: str, **_how: object) -> None:
        origin.resume(name)
        raise OperatingSystemError("Invalid argument", errnum=22)

    monkeypatch.setattr(dm, "resume", resumed)
    assert copying.switch(None) == recorded(session)
    assert recorded(session).backing == "/dev/new"
    assert not origin.suspended


def test_a_note_that_cannot_be_read_is_no_note_of_nothing(session: Session) -> None:
    directory = session.configuration.state_directory / "crossings"
    directory.mkdir()
    for text in ("{", "[]", '{"source": "/dev/old"}', "\udcff"):
        (directory / f"{VOLUME.id}.json").write_text(text, errors="surrogateescape")
        with pytest.raises(CorruptError, match="on which of two devices"):
            crossing.settle(session, VOLUME)
