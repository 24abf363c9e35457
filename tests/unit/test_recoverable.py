"""What a volume can be recovered to, and how long that took."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume
from test_pruning import a_label

from dmsnap._native.label import LabelTwin
from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import JobState, Point, StepState, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError, PointInvalidError
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import recoverable, status
from dmsnap.service.health.status import LivePointStatus, ReplicaStatus
from dmsnap.service.session import Session

VOLUME = a_volume()


def point(created_ns: int, reason: str | None = None) -> Point:
    return replace(a_point(VOLUME, created_ns), invalid_reason=reason)


def test_the_newest_that_holds() -> None:
    old, new, wrong, gone = point(1), point(2), point(3, "byte 5 differs"), point(4)
    standing = [str(each.id) for each in (old, new, wrong)]
    found = recoverable.newest([old, new, wrong, gone], standing)
    assert found is not None
    assert (found.point, found.created_ns) == (str(new.id), 2)
    assert recoverable.newest([wrong, gone], standing) is None
    assert recoverable.newest([], standing) is None


def test_a_point_of_the_future_is_not_the_newest() -> None:
    """Else nothing would ever be late until then."""
    yesterday, tomorrow = (point(now_ns() + days * 86400 * 10**9) for days in (-1, 1))
    standing = [str(yesterday.id), str(tomorrow.id)]
    found = recoverable.newest([tomorrow, yesterday], standing)
    assert found is not None
    assert found.point == str(yesterday.id)
    assert recoverable.newest([tomorrow], standing) is None
    (problem,) = recoverable.of_the_future([tomorrow, yesterday], standing)
    assert str(tomorrow.id) in problem
    assert "which is yet to come" in problem
    assert recoverable.of_the_future([tomorrow], []) == []


def test_no_age_is_negative() -> None:
    """What time synchronisation may set a clock by is no future."""
    soon = point(now_ns() + 60 * 10**9)
    found = recoverable.newest([soon], [str(soon.id)])
    assert found is not None
    assert found.age_seconds == 0
    assert recoverable.of_the_future([soon], [str(soon.id)]) == []


def test_places_that_hold() -> None:
    replica = ReplicaStatus("/dev/sdb", "consistent", "r", "", 1.0, 2, 4096, 1024)
    live = [LivePointStatus(*each, 1, 2) for each in (("a", "", "OK"), ("b", "", "Invalid"))]
    assert status.standing(replica, live) == {"r", "a"}
    assert status.standing(replace(replica, point=None), live[1:]) == frozenset()
    assert status.standing(None, []) == frozenset()


@pytest.fixture
def session(catalogue: Catalogue) -> Session:
    return Session(Configuration(), catalogue)


def measured(session: Session) -> float | None:
    return recoverable.measured_seconds(jobs.newest_done(session.catalogue, VOLUME.id, "swap"))


def swapped(
    session: Session,
    volume: Volume,
    *seconds: float | None,
    state: JobState = JobState.DONE,
    operation: str = "swap",
) -> None:
    steps = [f"step-{number}" for number in range(len(seconds))]
    job = jobs.begin(session.catalogue, operation, [volume.id], arguments={}, pid=1, steps=steps)
    for position, each in enumerate(seconds):
        jobs.record_step(session.catalogue, job, position, StepState.DONE, each)
    jobs.end(session.catalogue, job, state, "")


def test_the_last_swap_that_ended_well_is_the_measure(session: Session) -> None:
    other = a_volume("other")
    assert measured(session) is None
    swapped(session, VOLUME, 9.0)
    swapped(session, VOLUME, 1.5, 2.0)
    swapped(session, VOLUME, 7.0, state=JobState.UNDONE)
    swapped(session, VOLUME, 7.0, operation="swap revert")
    swapped(session, other, 8.0)
    assert measured(session) == 3.5
    swapped(session, VOLUME, 1.5, None)
    assert measured(session) is None


def test_a_problem_says_what_to_do() -> None:
    assert status.with_hint(DmsnapError("it is so")) == "it is so"
    assert status.with_hint(PointInvalidError("it is so", hint="do this")) == "it is so: do this"
    assert status.put_right(VOLUME, ["x is missing"]) == [
        "x is missing: dmsnap assemble srv puts it right"
    ]
    assert status.put_right(VOLUME, []) == []


def test_the_way_to_another_recovery_volume_is_one_that_is_there(tmp_path: Path) -> None:
    former = tmp_path / "former"
    volume = replace(VOLUME, previous_backing=str(former))
    for each in (VOLUME, volume):
        assert replica.way_to_another(each).startswith("dmsnap attach srv --recovery DEVICE")
    former.touch()
    assert f"dmsnap failback srv goes back to the former device {former}, dmsnap attach" in (
        replica.way_to_another(volume)
    )


def test_a_label_that_is_not_right_says_what_to_do() -> None:
    path, label = Path("/dev/sdc"), a_label(1)
    assert status.label_faults(path, label) == []
    for twin, way in ((LabelTwin.DAMAGED, "the next sync"), (LabelTwin.DOUBTFUL, "unprotect")):
        (fault,) = status.label_faults(path, replace(label, twin=twin))
        assert "label sectors" in fault
        assert way in fault
    (claim,) = status.label_faults(path, replace(label, host_uuid=uuid4(), host="other"))
    assert "dmsnap sync srv --force" in claim
