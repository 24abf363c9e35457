"""dmsnapd and policies beside a disk that hangs under one volume: the other's go on."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from conftest import MIB, Lab, configured, dmsnap, rarely, run, sha256
from faulty_disk import FaultyDisk, faulty_disk
from patience import until
from raw_volume import write_direct
from test_service import UNIT, eventually, journal, live_points, shown
from test_silence import Hung, answered, problems_of, with_primary, with_recovery

pytestmark = pytest.mark.systemd

SIZE = 32 * MIB
DISK_SIZE = 96 * MIB
METRICS = Path("/run/dmsnap-lab-metrics.prom")
WATCHDOG_SECONDS = 10
# Between two runs of a policy; a run starts Python twice, which takes a guest some seconds.
PERIOD_SECONDS = 15
# A disk is given ten seconds, systemd its own time, and a guest is slow.
ON_TIME_SECONDS = 100
# Of what has no event the service looks every minute, and a disk is given ten seconds.
CURRENT_SECONDS = 90
STOP_SECONDS = 20
START_SECONDS = 40
# Long enough for a watchdog that is not fed, for several runs, and for a look.
HANGS_SECONDS = 120


def policy(name: str) -> str:
    return (
        f'[policy.{name}]\nschedule = "*:*:0/{PERIOD_SECONDS}"\nspread = "0s"\n'
        'audit = "none"\nprimary = { minimum = 2 }\n'
    )


def in_one_set(hung: str, other: str) -> str:
    """One moment for both."""
    both = f'[subclient.both]\nvolumes = ["{hung}", "{other}"]\npolicy = "often"\n'
    return policy("often") + both


def apart(hung: str, other: str) -> str:
    """A policy for each."""
    tables = [
        f'{policy(f"p{at}")}[subclient.s{at}]\nvolumes = ["{name}"]\npolicy = "p{at}"\n'
        for at, name in enumerate((hung, other))
    ]
    return "".join(tables)


@pytest.fixture
def watched() -> Iterator[None]:
    """The service, started when the scenario says so, whose watchdog is soon at its end."""
    drop_in = Path(f"/run/systemd/system/{UNIT}.d/lab.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    run("systemctl", "daemon-reload")
    yield
    run("systemctl", "stop", UNIT)
    run("systemctl", "reset-failed", UNIT, expected=None)
    drop_in.unlink()
    drop_in.parent.rmdir()
    METRICS.unlink(missing_ok=True)


SETTINGS = (f'metrics_file = "{METRICS}"', "lock_wait_seconds = 1")


@contextmanager
def scheduled(tables: str) -> Iterator[None]:
    """Timers of the policies, within the block."""
    path = Path("/etc/dmsnap/dmsnap.toml")
    before = path.read_text()
    path.write_text(before + tables)
    try:
        dmsnap("config", "apply")
        yield
    finally:
        path.write_text(before)
        dmsnap("config", "apply")
        until(lambda: not running_units(), "the last runs end")
        run("systemctl", "reset-failed", "dmsnap-*@*.service", expected=None)


def running_units() -> list[str]:
    words = ("--no-legend", "--plain", "--state=activating,deactivating,active")
    units = ("dmsnap-policy@*.service", "dmsnap-copy@*.service")
    return run("systemctl", "list-units", *words, *units).splitlines()


def metrics_age() -> float:
    found = re.search(r"^dmsnap_metrics_timestamp_seconds\S* (\S+)$", METRICS.read_text(), re.M)
    assert found
    return time.time() - float(found[1])


def copied_at(recovery: str) -> float:
    """When the content of a recovery volume is of, as its label says."""
    return datetime.fromisoformat(dmsnap("inspect", "label", recovery)["point_time"]).timestamp()


class Pace:
    """The longest that a volume was without a new point, and without a new copy, in seconds, and
    how old metrics became; while it is written to.
    """

    def __init__(self, name: str, recovery: str) -> None:
        self.name = name
        self.recovery = recovery
        self.longest = dict.fromkeys(("points", "copies", "metrics"), 0.0)
        self._last: dict[str, object] = {}
        self._at = dict.fromkeys(self.longest, time.monotonic())

    def follow(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            write_direct(Path("/dev/mapper", self.name), os.urandom(MIB), MIB)
            self._look("points", frozenset(live_points(self.name)))
            self._look("copies", copied_at(self.recovery))
            self.longest["metrics"] = max(self.longest["metrics"], metrics_age())
            time.sleep(1)

    def _look(self, what: str, now: object) -> None:
        moment = time.monotonic()
        self.longest[what] = max(self.longest[what], moment - self._at[what])
        if now != self._last.setdefault(what, now):
            self._last[what], self._at[what] = now, moment


@pytest.mark.parametrize("tables", [in_one_set, rarely(apart)])
@pytest.mark.parametrize("make", [rarely(with_recovery), with_primary])
def test_the_other_volume_goes_on(
    lab: Lab,
    watched: None,
    make: Callable[[Lab, FaultyDisk], Hung],
    tables: Callable[[str, str], str],
) -> None:
    with configured(*SETTINGS), faulty_disk(lab, DISK_SIZE) as disk:
        hung, recovery = make(lab, disk), lab.disk(DISK_SIZE)
        other = lab.protect(lab.disk(SIZE), recovery)
        run("systemctl", "start", UNIT)
        eventually(METRICS.exists, "metrics")
        with hung.hanging(), scheduled(tables(hung.name, other)):
            pace = Pace(other, recovery)
            pace.follow(HANGS_SECONDS)
            print(pace.longest)
            told_of(hung, other)
            restarted_in_time()
            assert max(pace.longest["points"], pace.longest["copies"]) < ON_TIME_SECONDS
            assert pace.longest["metrics"] < CURRENT_SECONDS
        with scheduled(tables(hung.name, other)):
            well_again(hung, other)
        for name in (hung.name, other):
            dmsnap("sync", name, "--audit", "full")
            (seen,) = dmsnap("status", name)
            assert sha256(f"/dev/mapper/{name}") == sha256(
                seen["replica"]["device"], seen["size_bytes"]
            )
            dmsnap("unprotect", name, "--forget")
        lab.take_down()


def told_of(hung: Hung, other: str) -> None:
    """By the service, by its metrics, and by who asks now; it was not killed for that."""
    begun = time.monotonic()
    found = answered("status")
    took = time.monotonic() - begun
    print(f"status took {took:.1f} s")
    problems = problems_of(found, hung.name)
    assert any(hung.disk.name in problem for problem in problems), problems
    assert but_late(problems_of(found, other)) == []
    assert re.search(rf'dmsnap_problems{{volume="{other}"}} [01]\n', METRICS.read_text())
    assert f'dmsnap_problems{{volume="{hung.name}"}} 0' not in METRICS.read_text()
    lines = journal(f"DMSNAP_VOLUME={hung.name}")
    assert any("does not answer" in line for line in lines), lines
    assert shown("NRestarts") == "0"


def but_late(problems: list[str]) -> list[str]:
    """A schedule is of seconds here, and a run gives a disk ten: on a busy machine it is late."""
    return [problem for problem in problems if " is late: " not in problem]


def restarted_in_time() -> None:
    for words, seconds in ((("stop",), STOP_SECONDS), (("start",), START_SECONDS)):
        begun = time.monotonic()
        run("systemctl", *words, UNIT)
        took = time.monotonic() - begun
        print(f"{words[0]} took {took:.1f} s")
        if words == ("stop",):
            assert (shown("ActiveState"), shown("Result")) == ("inactive", "success")
        assert took < seconds
    assert shown("ActiveState") == "active"


def all_problems() -> list[str]:
    """Asked at leisure: the guest has one processor, and the runs are to get on."""
    time.sleep(2)
    return [problem for each in dmsnap("status", expected=None) for problem in each["problems"]]


def well_again(hung: Hung, other: str) -> None:
    """By the next runs, with nobody's help."""
    since = time.time()
    (seen,) = dmsnap("status", hung.name, expected=None)
    recovery = seen["replica"]["device"]
    eventually(lambda: copied_at(recovery) > since, "it is copied again")
    eventually(lambda: not but_late(all_problems()), "no problem")
    for name in (hung.name, other):
        assert live_points(name)
    assert shown("NRestarts") == "0"
