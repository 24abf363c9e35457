"""A swap that was taken back while the catalogue took nothing: what is recorded after all."""

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import AreaRole, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, UnreachableError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.swaps import owed_record
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import plan_area
from dmsnap.units import MIB

BEFORE = replace(
    a_volume(), state=VolumeState.PROTECTED, generation=4, trial_point=None, trial_live=False
)
TRIAL = replace(
    BEFORE,
    state=VolumeState.TRIAL,
    generation=5,
    trial_point=uuid4(),
    trial_live=True,
    tracking_id="boot:2",
)


@pytest.fixture
def session(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(stack, "exists", lambda _: False)  # as a boot finds it
    return Session(Configuration(state_directory=tmp_path), catalogue)


def away(*_asked: object) -> None:
    raise UnreachableError("the server is away")


def taken_back(
    session: Session, before: Volume, after: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an operation records it, and cannot take it back."""
    session.catalogue.add_volume(before)
    owed_record.record(session, before, after)
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "update_volume", away)
        with pytest.raises(UnreachableError):
            owed_record.take_back(session, before)
    assert session.catalogue.volume_by_id(before.id) == after


def notes(session: Session) -> list[str]:
    """What is in the state directory besides the catalogue."""
    directory = session.configuration.state_directory / owed_record.DIRECTORY
    return sorted(path.suffix for path in directory.iterdir())


@pytest.mark.parametrize(("before", "after"), [(BEFORE, TRIAL), (TRIAL, BEFORE)])
def test_what_it_was_taken_back_to_is_recorded_when_that_can_be(
    session: Session, monkeypatch: pytest.MonkeyPatch, before: Volume, after: Volume
) -> None:
    taken_back(session, before, after, monkeypatch)
    assert owed_record.expected(session, after) == before
    assert owed_record.settle(session, after) == before
    assert session.catalogue.volume_by_id(before.id) == before
    assert notes(session) == []
    assert owed_record.settle(session, before) == before


def test_nothing_is_owed_where_the_catalogue_takes_it(session: Session) -> None:
    session.catalogue.add_volume(BEFORE)
    owed_record.record(session, BEFORE, TRIAL)
    assert notes(session) == [".prepared"]
    assert owed_record.expected(session, TRIAL) == TRIAL  # killed here it goes on
    owed_record.take_back(session, BEFORE)
    assert session.catalogue.volume_by_id(BEFORE.id) == BEFORE
    assert notes(session) == []


def test_what_is_found_prepared_goes(session: Session) -> None:
    session.catalogue.add_volume(BEFORE)
    owed_record.record(session, BEFORE, TRIAL)
    assert owed_record.settle(session, TRIAL) == TRIAL
    assert notes(session) == []


@pytest.mark.parametrize(
    "by_now", [BEFORE, replace(TRIAL, generation=7), replace(TRIAL, state=VolumeState.PROMOTED)]
)
def test_a_note_about_another_record_says_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, by_now: Volume
) -> None:
    """Another command was faster, or the catalogue is another one."""
    taken_back(session, BEFORE, TRIAL, monkeypatch)
    session.catalogue.update_volume(by_now)
    assert owed_record.settle(session, by_now) == by_now
    assert notes(session) == []


def test_a_note_of_before_is_no_note_of_what_is_recorded_now(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same generation, as that of the next swap is: it would take back that one."""
    taken_back(session, BEFORE, TRIAL, monkeypatch)
    owed_record.record(session, BEFORE, TRIAL)
    assert owed_record.settle(session, TRIAL) == TRIAL


def a_note(**otherwise: object) -> str:
    """One of the swap, with some of its members otherwise."""
    return json.dumps(asdict(owed_record.Owed.of(BEFORE, TRIAL)) | otherwise)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"instead_of": ["trial", 5]}',
        "\udcff",
        a_note(state="on fire"),
        a_note(generation="5"),
        a_note(generation=None),
        a_note(trial_point="5"),
        a_note(more=1),
    ],
)
def test_a_damaged_note_is_decided_by_nobody(
    session: Session, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    taken_back(session, BEFORE, TRIAL, monkeypatch)
    (path,) = (session.configuration.state_directory / owed_record.DIRECTORY).glob("*.json")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CorruptError, match=r"\.json is damaged"):
        owed_record.settle(session, TRIAL)
    assert session.catalogue.volume_by_id(BEFORE.id) == TRIAL
    assert path.exists()


def test_what_can_be_noted_nowhere_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session.catalogue.add_volume(BEFORE)
    owed_record.record(session, BEFORE, TRIAL)
    owed_record.is_recorded(session, BEFORE.id)
    monkeypatch.setattr(Catalogue, "update_volume", away)
    with pytest.raises(UnreachableError):
        owed_record.take_back(session, BEFORE)
    assert "no boot knows of it" in caplog.text


def test_where_nothing_can_be_noted_recovery_goes_on(
    session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / owed_record.DIRECTORY).write_text("no directory")
    session.catalogue.add_volume(BEFORE)
    owed_record.record(session, BEFORE, TRIAL)
    assert session.catalogue.volume_by_id(BEFORE.id) == TRIAL
    assert "by the record" in caplog.text
    assert owed_record.settle(session, TRIAL) == TRIAL


METADATA, OVERLAY = (AreaRole.ERA_METADATA, 4), (AreaRole.OVERLAY, 5)


@pytest.mark.parametrize(
    ("there", "operation", "was_taken_back"),
    [
        ([METADATA], "swap", True),
        ([METADATA, OVERLAY], "swap", False),
        ([], "swap", False),  # the store is not mounted
        ([METADATA], "swap commit", False),
    ],
)
def test_a_trial_whose_overlay_was_removed_is_none(
    session: Session,
    tmp_path: Path,
    there: Collection[tuple[AreaRole, int]],
    operation: str,
    was_taken_back: bool,
) -> None:
    """Where neither record nor note could be written, what undoing removes tells of it."""
    trial = replace(TRIAL, store=str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    session.catalogue.add_volume(trial)
    for role, generation in (METADATA, OVERLAY):
        area = plan_area(replace(trial, generation=generation), role, MIB)
        session.catalogue.add_area(area)
        if (role, generation) in there:
            Path(area.path).touch()
    jobs.begin(session.catalogue, operation, [trial.id], arguments={}, pid=1, steps=["record"])
    expected = owed_record.before_swap(trial) if was_taken_back else trial
    assert owed_record.settle(session, trial) == expected
    assert session.catalogue.volume_by_id(trial.id) == expected
