"""Ages that policies did not promise: what status says of them."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_point, a_volume
from test_history import a_label

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ProgramError
from dmsnap.host import systemd
from dmsnap.report.content import Verdict
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import look, metrics, recoverable, status
from dmsnap.service.health.recoverable import RecoverablePoint
from dmsnap.service.health.status import LivePointStatus, VolumeStatus
from dmsnap.service.resizing import sizes
from dmsnap.service.schedules import lateness
from dmsnap.service.schedules import promises as promised
from dmsnap.service.session import Session
from dmsnap.service.volumes import spare
from dmsnap.snapshot import stack

SECOND = 10**9
HOUR = 3600 * SECOND
VOLUME = replace(a_volume(), state=VolumeState.PROTECTED)
TEXT = """
[policy.a-b]
schedule = "hourly"
[subclient.s]
volumes = ["srv"]
policy = "a-b"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration, and a systemd that knows only whole hours."""

    def hourly(_expression: str, after_seconds: int, count: int) -> list[int]:
        first = after_seconds // 3600 + 1
        return [(first + number) * 3600 for number in range(count)]

    monkeypatch.setattr(systemd, "elapses", hourly)
    path = tmp_path / "dmsnap.toml"
    path.write_text(TEXT)
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))
    promised._elapses.cache_clear()
    yield path
    promised._elapses.cache_clear()


@pytest.fixture
def session(catalogue_of_file: Catalogue) -> Session:
    return Session(Configuration(), catalogue_of_file)


@pytest.fixture
def catalogue_of_file(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        yield opened


def found(session: Session, newest_ns: int | None) -> tuple[Verdict, list[str]]:
    judged = lateness.judged(lateness.promises(session), VOLUME, newest_ns)
    return judged.verdict, lateness.problems(VOLUME, judged)


def test_late_is_wrong_and_due_is_not(place: Path, session: Session) -> None:
    assert found(session, now_ns()) == (Verdict.IN_TIME, [])
    this_hour = now_ns() // HOUR * HOUR
    verdict, none = found(session, this_hour - 1)
    assert verdict in (Verdict.IN_TIME, Verdict.DUE)
    assert none == []
    verdict, (problem,) = found(session, now_ns() - 3 * HOUR)
    assert verdict is Verdict.LATE
    assert problem.startswith("late: runs of a-b have brought no newer point since 20")
    assert "dmsnap run a-b takes one now" in problem
    assert "journalctl -u dmsnap-policy@a\\x2db -u dmsnap-copy@a\\x2db says" in problem
    # It does not change while it is so: the service says it once.
    assert found(session, now_ns() - 3 * HOUR)[1] == [problem]


def test_none_at_all_is_wrong(place: Path, session: Session) -> None:
    verdict, (problem,) = found(session, None)
    assert verdict is Verdict.MISSING
    assert problem.startswith("no point can be recovered, which runs of a-b should have brought: ")


def test_a_trial_is_what_holds_points_up(place: Path, session: Session) -> None:
    judged = lateness.judged(lateness.promises(session), VOLUME, now_ns() - 9 * HOUR)
    (problem,) = lateness.problems(replace(VOLUME, state=VolumeState.TRIAL), judged)
    assert "dmsnap swap commit srv or dmsnap swap revert srv ends" in problem


def test_mistakes_are_wrong_for_everybody(place: Path, session: Session) -> None:
    for text in (TEXT.replace("schedule", "shedule"), TEXT + "\n["):
        place.write_text(text)
        verdict, (problem,) = found(session, now_ns())
        assert verdict is Verdict.UNKNOWN
        assert "dmsnap config check" in problem


def test_no_policy_promises_nothing(
    place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_text("cow_percent = 30\n[hook.x]\n")
    assert lateness.promises(session) is None
    assert found(session, None) == (Verdict.UNSCHEDULED, [])
    place.write_text(TEXT.replace("srv", "other"))
    assert found(session, None) == (Verdict.UNSCHEDULED, [])


def test_a_systemd_that_says_nothing_is_no_finding(
    place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_asked: object) -> list[int]:
        raise ProgramError("systemd-analyze is not installed")

    monkeypatch.setattr(systemd, "elapses", fail)
    assert found(session, 1) == (Verdict.UNKNOWN, [])


def test_systemd_is_asked_once_about_a_point(
    place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def elapses(_expression: str, after_seconds: int, _count: int) -> list[int]:
        asked.append(after_seconds)
        return []

    monkeypatch.setattr(systemd, "elapses", elapses)
    for newest_ns in (5 * SECOND, 5 * SECOND, 6 * SECOND):
        assert found(session, newest_ns)[0] is Verdict.IN_TIME
    assert asked == [5, 6]


@pytest.mark.parametrize("running", [None, "sync"])
def test_status_has_it_among_what_is_wrong(
    place: Path, session: Session, monkeypatch: pytest.MonkeyPatch, running: str | None
) -> None:
    """A command that works on the volume does not make its points newer; but the replica may hold
    none meanwhile.
    """
    monkeypatch.setattr(status, "stack_problems", lambda *_: [])
    monkeypatch.setattr(status, "replica_status", lambda *_: None)
    monkeypatch.setattr(status, "live_points", lambda *_: ())
    monkeypatch.setattr(status, "mount_points", lambda *_: ())
    monkeypatch.setattr(Session, "running", lambda *_: running)
    monkeypatch.setattr(spare, "reason_without", lambda *_: None)
    monkeypatch.setattr(stack, "live_front", lambda *_: None)
    monkeypatch.setattr(look, "label_or_error", lambda _: None)
    ages: list[int | None] = [now_ns() - 9 * HOUR, None]

    def looked_at(newest_ns: int | None) -> VolumeStatus:
        newest = None
        if newest_ns is not None:
            newest = RecoverablePoint("x", newest_ns, 0.0)
        monkeypatch.setattr(recoverable, "newest", lambda *_: newest)
        ((found, _),) = status.statuses(session, [VOLUME], lateness.promises(session))
        return found

    late, missing = map(looked_at, ages)
    assert (late.punctuality.verdict, len(late.problems)) == (Verdict.LATE, 1)
    assert missing.punctuality.verdict is Verdict.MISSING
    assert len(missing.problems) == (0 if running else 1)


def test_what_checks_configurations_is_not_imported_for_nothing() -> None:
    text = "import dmsnap.service.health.status, sys; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


HALF = HOUR // 2


@pytest.mark.parametrize(
    ("keys", "hours", "verdict"),
    [
        ("", 0, Verdict.IN_TIME),
        ("", 3, Verdict.LATE),
        ('make = "recovery-volume"', 3, Verdict.LATE),
        ('make = "snapshot"', 3, Verdict.UNSCHEDULED),
        ("copy = { delay = '6h' }", 4, Verdict.IN_TIME),
        ("copy = { delay = '6h' }", 9, Verdict.LATE),
        ("copy = { let_pass = 4 }", 4, Verdict.IN_TIME),
        ("copy = { let_pass = 4 }", 8, Verdict.LATE),
        ("copy = { hours = '22:00-06:00' }", 23, Verdict.DUE),
        ("copy = { hours = '22:00-06:00' }", 51, Verdict.LATE),
        ("spread = '4h'", 4, Verdict.IN_TIME),
    ],
)
def test_what_the_replica_was_promised(
    place: Path, session: Session, keys: str, hours: int, verdict: Verdict
) -> None:
    text = TEXT.replace("[subclient", f"{keys}\n[subclient")
    place.write_text(text)
    promise = lateness.promises(session)
    assert promise is not None
    noon_ns = 1_770_000_000 // 86400 * 86400 * SECOND + 12 * HOUR
    assert promise.replica_judged("srv", noon_ns, noon_ns + hours * HOUR + HALF).verdict is verdict


def test_a_fresh_live_point_does_not_make_the_replica_young(
    place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies on the disk that the recovery volume is there for."""
    live_point = replace(a_point(VOLUME, now_ns()), invalid_reason=None)
    session.catalogue.add_volume(VOLUME)
    session.catalogue.add_point(live_point)
    seen = LivePointStatus(str(live_point.id), "", "OK", 1, 2)
    label = replace(a_label(), point_time_ns=now_ns() - 60 * 24 * HOUR)
    monkeypatch.setattr(status, "stack_problems", lambda *_: [])
    monkeypatch.setattr(status, "label_faults", lambda *_: [])
    monkeypatch.setattr(status, "live_points", lambda *_: (seen,))
    monkeypatch.setattr(status, "mount_points", lambda *_: ())
    monkeypatch.setattr(sizes, "of_volume", lambda _: None)
    monkeypatch.setattr(spare, "reason_without", lambda *_: None)
    monkeypatch.setattr(stack, "live_front", lambda *_: None)
    monkeypatch.setattr(look, "label_or_error", lambda _: label)
    ((found, _),) = status.statuses(session, [VOLUME], lateness.promises(session))
    assert found.punctuality.verdict is Verdict.IN_TIME
    assert found.replica_punctuality.verdict is Verdict.LATE
    (problem,) = found.problems
    assert problem.startswith("the recovery volume is late: runs of a-b have brought no newer")
    facts = metrics.Facts(found, None, [])
    (age,) = [
        sample.value
        for each in metrics.metrics([facts], now_ns())
        if each.name == "dmsnap_replica_age_seconds"
        for sample in each.samples
    ]
    assert age > 59 * 86400
