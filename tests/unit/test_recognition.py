"""What is recorded while devices are there: places on a recovery volume, names of a device."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume
from test_history import a_label

from dmsnap._native.label import Label
from dmsnap.catalogue import past
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import IdentifierKind, PlaceKind, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    DmsnapError,
    ForeignDeviceError,
    NotFoundError,
    OperatingSystemError,
    UnreachableError,
)
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition


@pytest.fixture
def session(catalogue: Catalogue) -> Session:
    return Session(Configuration(), catalogue)


def places(session: Session, volume: Volume) -> list[list[PlaceKind]]:
    found = past.as_of(session.catalogue, now_ns(), volume.id)
    return [[place.kind for place in one.places] for one in found]


def test_a_label_that_cannot_be_read_leaves_what_is_recorded(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_volume()
    session.catalogue.add_volume(volume)
    point = a_point(volume)
    session.catalogue.add_point(point)
    label = replace(a_label(), point_uuid=point.id)
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    session.note_replica(volume)
    assert places(session, volume) == [[PlaceKind.REPLICA]]

    def unreachable(_: Volume) -> Label:
        raise UnreachableError("the session is lost")

    monkeypatch.setattr(replica, "label_of", unreachable)
    session.note_replica(volume)
    assert places(session, volume) == [[PlaceKind.REPLICA]]
    monkeypatch.setattr(replica, "label_of", lambda _: replace(label, point_uuid=uuid4()))
    session.note_replica(volume)
    assert places(session, volume) == [[]]


def test_a_device_that_is_gone_is_no_error(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    volume = replace(a_volume(), backing="/dev/gone-since")
    session.catalogue.add_volume(volume)
    with caplog.at_level(logging.INFO):
        recognition.note(session, volume)
    recorded = recognition.recorded(session, "srv")
    assert recorded.identifiers == ()
    assert (recorded.id, recorded.mounts) == (volume.id, volume.mounts)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFoundError("there is no such LUN"), False),
        (UnreachableError("the session is lost"), False),
        (FileNotFoundError("it went meanwhile"), False),
        (ForeignDeviceError("another device answers"), True),
        (OperatingSystemError("the ioctl failed"), True),
        (PermissionError("a directory is not to be read"), True),
    ],
)
def test_only_a_device_that_is_away_is_passed_over_in_silence(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: DmsnapError | OSError,
    told: bool,
) -> None:
    """Whatever it is, the command goes on, and nothing is recorded by halves."""
    volume = a_volume()
    session.catalogue.add_volume(volume)

    def seen(_: Volume) -> Iterator[tuple[IdentifierKind, str]]:
        yield IdentifierKind.WWID, "naa.6001405"
        raise error

    monkeypatch.setattr(recognition, "seen", seen)
    recognition.note(session, volume)
    assert recognition.recorded(session, "srv").identifiers == ()
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warned == [f"by what srv is known is not recorded: {error}"] * told
