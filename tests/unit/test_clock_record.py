"""The clock's former readings: kept as long as they count, and replaced as a whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_point, a_volume
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.catalogue.store import Catalogue
from dmsnap.cli.main import main
from dmsnap.host import synchronisation
from dmsnap.host.locks import LOCK_FILE
from dmsnap.host.sysfs import Sysfs
from dmsnap.policy import chronology
from dmsnap.policy.chronology import APART_NS, SETTLING_NS, TOLERANCE_NS, Reading
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.points import clock_record
from dmsnap.service.points.point import PointSet
from dmsnap.service.session import Session
from dmsnap.snapshot import live

CHECKOUT = Path(__file__).parents[2]
VOLUME = a_volume()
MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
START = 1_790_000_000 * 10**9

# What passes between two readings, what the clock is set by, whether the host boots (and its own
# clock had lost the time), whether others tell the time.
steps = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 30 * HOUR), st.integers(1, 20 * MINUTE)),
        st.sampled_from([0, 0, 0, 0, HOUR, -HOUR, 400 * 24 * HOUR]),
        st.sampled_from([None, None, None, False, True]),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps, st.booleans())
def test_what_is_kept_says_as_much_as_all(
    passing: list[tuple[int, int, bool | None, bool]], own_clock: bool
) -> None:
    """Short of readings that are close: those of the time between count as if they were not."""
    wall, boottime, boot, lost = START, HOUR, 0, False
    everything: list[Reading] = []
    kept: list[Reading] = []
    for passed, jumped, boots, synchronised in passing:
        wall += passed + jumped
        boottime = boottime + passed if boots is None else 30 * 10**9
        boot += boots is not None
        lost = boots if boots is not None else lost and not synchronised
        now = Reading(wall, boottime, f"boot {boot}", lost)
        is_same = kept and kept[-1].boot_id == now.boot_id
        if is_same and not chronology.has_jumped(kept[-1], now) and passed < APART_NS:
            continue
        by_kept, by_all = (
            chronology.trusted_now(each, now, own_clock=own_clock, synchronised=synchronised)
            for each in (kept, everything)
        )
        assert by_kept == by_all
        kept = chronology.worth_keeping(kept, now, own_clock=own_clock)
        everything.append(now)
        assert kept[-1] == now


def test_a_steady_clock_leaves_a_day() -> None:
    kept: list[Reading] = []
    for number in range(4 * 1440):
        now = Reading(START + number * MINUTE, number * MINUTE, "boot")
        kept = chronology.worth_keeping(kept, now, own_clock=True)
    assert len(kept) <= SETTLING_NS // APART_NS + 2
    assert kept[-1].wall_ns - kept[0].wall_ns >= SETTLING_NS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> "Clock":
    """That of a host that has one of its own; but :func:`clockless`."""
    sys = tmp_path_factory.mktemp("sys")
    rtc = sys / "class" / "rtc" / "rtc0"
    rtc.mkdir(parents=True)
    (rtc / "hctosys").write_text("1\n")
    clock = Clock(rtc / "since_epoch")
    monkeypatch.setattr(clock_record, "reading", lambda: clock.now)
    monkeypatch.setattr(clock_record, "SYSFS", Sysfs(sys))
    monkeypatch.setattr(synchronisation, "is_synchronised", lambda: clock.synchronised)
    return clock


@pytest.fixture
def clockless(clock: "Clock", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Clock":
    monkeypatch.setattr(clock_record, "SYSFS", Sysfs(tmp_path / "another"))
    return clock


class Clock:
    """A clock that runs, and can be set. The host's own says what ``own`` has been told."""

    def __init__(self, own: Path) -> None:
        self.now = Reading(START, HOUR, "boot")
        self.own = own
        self.synchronised = False

    def own_says(self, time_ns: int) -> None:
        self.own.write_text(f"{time_ns // 10**9}\n")

    def passes(self, passed_ns: int, jumped_ns: int = 0) -> None:
        now = self.now
        self.now = Reading(
            now.wall_ns + passed_ns + jumped_ns, now.boottime_ns + passed_ns, now.boot_id
        )

    def boots(self, boot_id: str, off_ns: int) -> None:
        self.now = Reading(self.now.wall_ns + off_ns, 30 * 10**9, boot_id)


def trusted(directory: Path, *, recording: bool = True) -> bool:
    return clock_record.trusted_now(directory, recording=recording) is not None


def test_a_clock_that_was_set_is_in_doubt_for_a_day(tmp_path: Path, clock: Clock) -> None:
    assert trusted(tmp_path)
    clock.passes(HOUR, jumped_ns=48 * HOUR)
    assert not trusted(tmp_path)
    clock.passes(23 * HOUR)
    assert not trusted(tmp_path)
    clock.passes(HOUR)
    assert trusted(tmp_path)


def test_a_policy_that_runs_once_a_month_on_a_host_that_boots_as_often(
    tmp_path: Path, clock: Clock
) -> None:
    """Between two prunings there is always another boot, and more than a week."""
    assert trusted(tmp_path)
    for month in range(6):
        for _ in range(15 * 24):
            clock.passes(HOUR)
            clock_record.note(tmp_path)  # dmsnapd
        clock.boots(f"boot {month}", 10 * MINUTE)
        clock_record.note(tmp_path)  # assemble --boot
        clock.passes(15 * 24 * HOUR)
        assert trusted(tmp_path)


def test_without_the_service_the_boot_is_what_is_known(tmp_path: Path, clock: Clock) -> None:
    assert trusted(tmp_path)
    for month in range(6):
        clock.passes(15 * 24 * HOUR)
        clock.boots(f"boot {month}", 10 * MINUTE)
        clock_record.note(tmp_path)
        clock.passes(15 * 24 * HOUR)
        assert trusted(tmp_path)


def test_a_host_without_a_clock_of_its_own_prunes_although_it_is_off_each_night(
    tmp_path: Path, clockless: Clock
) -> None:
    """Its clock goes on where it stood, and is set a minute later."""
    clock = clockless
    for night in range(5):
        clock.passes(12 * HOUR)
        assert trusted(tmp_path)
        clock.boots(f"boot {night}", 0)
        clock_record.note(tmp_path)
        clock.passes(MINUTE, jumped_ns=12 * HOUR)
        assert trusted(tmp_path)


@pytest.mark.parametrize("served", [True, False])
def test_one_whose_own_is_dead_prunes_as_soon_as_others_tell_the_time(
    tmp_path: Path, clock: Clock, served: bool
) -> None:
    """It is off each night, so that its clock never runs steadily for a day. ``served``: dmsnapd
    looks, before the time is known and after.
    """
    for night in range(5):
        clock.passes(12 * HOUR)
        if night:
            assert trusted(tmp_path)
        clock_record.note(tmp_path)  # assemble --shutdown
        clock.boots(f"boot {night}", 0)
        clock.synchronised = False
        clock.own_says(946_684_800 * 10**9)  # 2000
        clock_record.note(tmp_path)  # assemble --boot
        clock.passes(MINUTE)
        if served:
            clock_record.note(tmp_path)
        clock.passes(20 * MINUTE, jumped_ns=12 * HOUR)
        clock.own_says(clock.now.wall_ns)  # the kernel has it follow
        if served:
            clock_record.note(tmp_path)
        assert not trusted(tmp_path, recording=False)
        clock.synchronised = True
        assert trusted(tmp_path)


def test_one_whose_own_is_dead_does_not_when_it_is_set_by_hand(
    tmp_path: Path, clock: Clock
) -> None:
    """Nobody knows whether that was right."""
    clock.passes(12 * HOUR)
    clock_record.note(tmp_path)
    clock.boots("next", 0)
    clock.own_says(0)
    clock_record.note(tmp_path)
    clock.passes(MINUTE, jumped_ns=5 * 24 * HOUR)
    clock.own_says(clock.now.wall_ns)
    for _ in range(3):
        assert not trusted(tmp_path)
        clock.passes(7 * HOUR)
    clock.passes(3 * HOUR)
    assert trusted(tmp_path)


def test_one_that_has_its_own_does_not_when_it_is_set_while_it_boots(
    tmp_path: Path, clock: Clock
) -> None:
    """By days that it was not off: points would go that are younger than it says."""
    clock.passes(12 * HOUR)
    assert trusted(tmp_path)
    clock.boots("next", MINUTE)
    clock_record.note(tmp_path)
    clock.passes(MINUTE, jumped_ns=5 * 24 * HOUR)
    for synchronised in (False, True):
        clock.synchronised = synchronised
        assert not trusted(tmp_path)


def test_a_clock_set_before_a_shutdown_is_known_after_the_boot(
    tmp_path: Path, clock: Clock
) -> None:
    """The next boot begins with it, as if the host had been off for so long: nothing else tells."""
    assert trusted(tmp_path)
    clock.passes(HOUR, jumped_ns=48 * HOUR)
    clock_record.note(tmp_path)  # assemble --shutdown
    clock.boots("second", MINUTE)
    clock_record.note(tmp_path)  # assemble --boot
    clock.passes(30 * MINUTE)
    assert not trusted(tmp_path)
    clock.passes(24 * HOUR)
    assert trusted(tmp_path)


def test_the_unit_reads_the_clock_as_the_host_goes_down(
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where the catalogue is on a server that has been stopped by then."""
    unit = (CHECKOUT / "systemd" / "dmsnap-assemble@.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStop=")]
    server = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    settings = Configuration(state_directory=tmp_path, catalogue=server)
    monkeypatch.setattr(configuration, "load", lambda: settings)
    words = line.removeprefix("ExecStop=/usr/local/bin/dmsnap ").replace("%I", "srv").split()
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    assert clock_record.recorded(tmp_path / "clock.json") == [clock.now]


def test_taking_a_point_reads_the_clock(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a first pruning, years after the first point, would have nothing to judge it by."""
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_volume(VOLUME)
        session = Session(Configuration(state_directory=tmp_path), catalogue)
        taken = replace(a_point(VOLUME), area_id=None)
        monkeypatch.setattr(live, "take", lambda *_, **__: [live.TakenPoint(taken, None)])
        PointSet(session, [VOLUME])._take()
        assert [each.id for each in catalogue.points()] == [taken.id]
    clock.passes(HOUR, jumped_ns=10_000 * HOUR)
    assert not trusted(tmp_path)


def test_a_reading_that_is_no_news_writes_nothing(tmp_path: Path, clock: Clock) -> None:
    clock_record.note(tmp_path)
    inode = (tmp_path / "clock.json").stat().st_ino
    clock.passes(MINUTE)
    clock_record.note(tmp_path)
    assert (tmp_path / "clock.json").stat().st_ino == inode


def test_what_cannot_be_recorded_keeps_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock_record.note(tmp_path / "none")
    assert "what the clock says is not recorded: " in caplog.text


def test_who_only_looks_records_nothing(tmp_path: Path, clock: Clock) -> None:
    assert trusted(tmp_path, recording=False)
    assert list(tmp_path.iterdir()) == []
    assert trusted(tmp_path)
    recorded = (tmp_path / "clock.json").read_bytes()
    clock.passes(HOUR, jumped_ns=HOUR)
    assert not trusted(tmp_path, recording=False)
    assert (tmp_path / "clock.json").read_bytes() == recorded
    assert {path.name for path in tmp_path.iterdir()} == {LOCK_FILE, "clock.json"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"7",
        b"[7]",
        b"\xff",
        b'[{"wall_ns": 1}]',
        b"[" * 100_000,
        b'{"a": 1}',
        b'[{"wall_ns": 1e999, "boottime_ns": 0, "boot_id": ""}]',
        b'[{"wall_ns": NaN, "boottime_ns": 0, "boot_id": ""}]',
    ],
)
def test_a_damaged_record_is_as_good_as_a_jump(tmp_path: Path, clock: Clock, text: bytes) -> None:
    (tmp_path / "clock.json").write_bytes(text)
    assert not trusted(tmp_path)
    assert len(json.loads((tmp_path / "clock.json").read_text())) == 2
    clock.passes(HOUR)
    assert not trusted(tmp_path)
    clock.passes(24 * HOUR)
    assert trusted(tmp_path)


def test_the_kernels_clocks_are_read() -> None:
    first, second = clock_record.reading(), clock_record.reading()
    assert first.boot_id == second.boot_id
    assert second.boottime_ns >= first.boottime_ns
    assert abs(second.wall_ns - first.wall_ns) < TOLERANCE_NS
