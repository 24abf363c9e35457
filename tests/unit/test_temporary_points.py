"""Points that a command took for itself, and was cut off: what the replica has of them stays."""

from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume
from test_history import a_label

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import jobs, past
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, PlaceKind, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, NotFoundError
from dmsnap.host import counting
from dmsnap.recovery import replica
from dmsnap.service import reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import boot
from dmsnap.service.replicas import attach
from dmsnap.service.session import Session
from dmsnap.service.swaps import handover, primary
from dmsnap.service.volumes import first_copy
from dmsnap.snapshot import live, stack

PROTECTED = replace(a_volume(), state=VolumeState.PROTECTED)
PROMOTED = replace(
    PROTECTED, state=VolumeState.PROMOTED, recovery=None, recovery_id=None, device_bytes=2**44
)
MADE = uuid4()
# As the boot leaves it: its snapshot was not there while the volume was in use.
TAKEN = replace(a_point(PROTECTED), temporary=True, area_id=None, invalid_reason="it is gone")


@pytest.fixture
def session(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(live, "remove", lambda *_: None)
    monkeypatch.setattr(stack, "find", lambda _device: None)
    monkeypatch.setattr(boot, "hide", lambda *_: None)
    return Session(Configuration(), catalogue)


def recorded(session: Session, volume: Volume) -> None:
    session.catalogue.add_volume(volume)
    session.catalogue.add_point(TAKEN)


def labelled(monkeypatch: pytest.MonkeyPatch, state: LabelState, point_id: UUID) -> Label:
    label = replace(a_label(), state=state, point_uuid=point_id, recovery_uuid=MADE)
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    monkeypatch.setattr(attach, "_label_of", lambda *_: label)
    return label


def require_on_replica(session: Session) -> None:
    """A good point, and where it can be recovered from."""
    (one,) = past.as_of(session.catalogue, now_ns(), PROTECTED.id)
    assert one.point == replace(TAKEN, temporary=False, invalid_reason=None)
    assert [place.kind for place in one.places] == [PlaceKind.REPLICA]


def test_what_became_of_the_snapshot_is_nothing_to_the_replica(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power was lost after the label, and before the record: swap would refuse a good point."""
    recorded(session, PROTECTED)
    labelled(monkeypatch, LabelState.CONSISTENT, TAKEN.id)
    reaper.remove_temporary_points(session, PROTECTED)
    require_on_replica(session)


def test_what_did_not_come_to_the_replica_goes(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(session, PROTECTED)
    labelled(monkeypatch, LabelState.CONSISTENT, uuid4())
    reaper.remove_temporary_points(session, PROTECTED)
    assert session.catalogue.points(PROTECTED.id) == []


def under_way(monkeypatch: pytest.MonkeyPatch, requests: int, *, counted: bool = True) -> None:
    """What the origin has been given and not completed."""
    monkeypatch.setattr(stack, "find", lambda _device: SimpleNamespace(devno=1))
    monkeypatch.setattr(primary, "SYSFS", SimpleNamespace(in_flight=lambda _devno: requests))
    monkeypatch.setattr(counting, "is_counted", lambda _devno: counted)


@pytest.mark.parametrize(("requests", "counted"), [(3, True), (0, False)])
def test_a_point_stays_that_the_kernel_could_not_let_go(
    session: Session, monkeypatch: pytest.MonkeyPatch, requests: int, counted: bool
) -> None:
    """Its removal would wait for the primary, and hold the volume as long as that hangs."""
    recorded(session, PROTECTED)
    labelled(monkeypatch, LabelState.CONSISTENT, uuid4())
    under_way(monkeypatch, requests, counted=counted)
    monkeypatch.setattr(primary, "is_read", lambda *_: False)
    monkeypatch.setattr(live, "remove", lambda *_: pytest.fail("it is removed"))
    with pytest.raises(DeadlineError, match=r"does not answer.*waits for it"):
        reaper.remove_temporary_points(session, PROTECTED)
    assert session.catalogue.points(PROTECTED.id) == [TAKEN]
    monkeypatch.setattr(primary, "is_read", lambda *_: True)
    monkeypatch.setattr(live, "remove", lambda *_: None)
    reaper.remove_temporary_points(session, PROTECTED)
    assert session.catalogue.points(PROTECTED.id) == []


def test_where_nothing_waits_the_primary_is_not_asked(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(session, PROTECTED)
    labelled(monkeypatch, LabelState.CONSISTENT, uuid4())
    under_way(monkeypatch, 0)
    monkeypatch.setattr(primary, "is_read", lambda *_: pytest.fail("it is asked"))
    reaper.remove_temporary_points(session, PROTECTED)
    assert session.catalogue.points(PROTECTED.id) == []


@pytest.mark.parametrize(
    ("volume", "stays"),
    [
        (PROTECTED, True),
        (replace(PROTECTED, state=VolumeState.BUILDING), False),
        (PROMOTED, False),
    ],
    ids=["protected", "first-copy", "promoted"],
)
def test_while_the_label_cannot_be_read_the_point_may_be_what_the_replica_is(
    session: Session, monkeypatch: pytest.MonkeyPatch, volume: Volume, stays: bool
) -> None:
    """Its disk is away, or its LUN not logged in to; a volume without a replica waits for none."""

    def away(_volume: Volume) -> Label:
        raise NotFoundError("the disk is away")

    recorded(session, volume)
    monkeypatch.setattr(replica, "label_of", away)
    reaper.remove_temporary_points(session, volume)
    assert session.catalogue.points(volume.id) == ([TAKEN] if stays else [])
    if stays:
        labelled(monkeypatch, LabelState.CONSISTENT, TAKEN.id)
        reaper.remove_temporary_points(session, volume)
        require_on_replica(session)


def cut_off(session: Session) -> Job:
    """An attach that had come to the label of the new recovery volume."""
    arguments = {"made": "/dev/new", "made_id": str(MADE)}
    job_id = jobs.begin(
        session.catalogue, "attach", [PROMOTED.id], arguments=arguments, pid=1, steps=["copy"]
    )
    return jobs.job(session.catalogue, job_id)


@pytest.mark.parametrize("by_now", [PROMOTED, replace(PROTECTED, recovery_id=MADE)])
def test_a_new_recovery_volume_keeps_the_point_that_was_copied(
    session: Session, monkeypatch: pytest.MonkeyPatch, by_now: Volume
) -> None:
    """Recorded as the recovery volume, or whole and not recorded yet."""
    recorded(session, by_now)
    labelled(monkeypatch, LabelState.CONSISTENT, TAKEN.id)
    monkeypatch.setattr(attach, "attached", lambda *_: replace(PROTECTED, recovery_id=MADE))
    monkeypatch.setattr(handover, "is_unfinished", lambda *_: False)
    job = cut_off(session)
    if not reaper.is_being_attached(by_now, [job]):
        reaper.remove_temporary_points(session, by_now)
    assert attach.finish(session, by_now, job)
    assert session.catalogue.volume_by_id(PROTECTED.id).recovery_id == MADE
    require_on_replica(session)


def test_half_a_copy_keeps_no_point(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[UUID] = []
    recorded(session, PROMOTED)
    labelled(monkeypatch, LabelState.COPYING, TAKEN.id)
    monkeypatch.setattr(first_copy, "wipe_part", lambda _session, _made, made: wiped.append(made))
    assert not attach.finish(session, PROMOTED, cut_off(session))
    assert wiped == [MADE]
    assert session.catalogue.points(PROMOTED.id) == []
