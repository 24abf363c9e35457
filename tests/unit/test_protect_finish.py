"""A protect that was cut off while a recovery volume that was there before is brought up to date.

Whether that was through is told by the label: whatever a clock said when either point was taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_volume
from test_history import a_label

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes import protect, unprotect
from dmsnap.service.volumes.admission import Admitted

FORMER, NEW = uuid4(), uuid4()
A_DAY = 86400 * 10**9


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as found:
        yield found


class CutOff:
    """A protect that had begun to apply, and what its recovery volume says."""

    def __init__(self, catalogue: Catalogue, patched: pytest.MonkeyPatch) -> None:
        self.catalogue = catalogue
        self.volume = a_volume()
        catalogue.add_volume(self.volume)
        self.session = Session(Configuration(), catalogue)
        self.taken_back: list[Volume] = []
        self.label = a_label()
        patched.setattr(replica, "label_of", lambda _: self.label)
        patched.setattr(unprotect, "take_back", lambda _, volume: self.taken_back.append(volume))
        patched.setattr(Session, "note_replica", lambda *_: None)

    def job(self, arguments: Mapping[str, object], *begun: str) -> Job:
        number = jobs.begin(
            self.catalogue, "protect", [self.volume.id], arguments=arguments, pid=1,
            steps=["write-undo", "apply"],
        )  # fmt: skip
        for position, _ in enumerate(begun):
            jobs.record_step(self.catalogue, number, position, StepState.BEGUN, None)
        return jobs.job(self.catalogue, number)

    def says(self, point: UUID, off_ns: int, state: LabelState = LabelState.CONSISTENT) -> Label:
        """The label: of a point that was taken so much later than the volume was recorded."""
        time_ns = self.volume.created_ns + off_ns
        self.label = replace(a_label(), state=state, point_uuid=point, point_time_ns=time_ns)
        return self.label

    def is_done(self, job: Job) -> bool:
        return protect.finish(self.session, self.volume, job)

    @property
    def state(self) -> VolumeState:
        return self.catalogue.volume_by_id(self.volume.id).state


@pytest.fixture
def cut_off(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> CutOff:
    return CutOff(catalogue, monkeypatch)


@pytest.mark.parametrize("off_ns", [-A_DAY, 0, A_DAY])
def test_one_at_the_former_point_is_taken_back(cut_off: CutOff, off_ns: int) -> None:
    """Its clock may have been ahead when that was taken."""
    job = cut_off.job({"former_point": str(FORMER)}, "write-undo", "apply")
    cut_off.says(FORMER, off_ns)
    assert not cut_off.is_done(job)
    assert (cut_off.state, len(cut_off.taken_back)) == (VolumeState.BUILDING, 1)


@pytest.mark.parametrize("off_ns", [-A_DAY, 0, A_DAY])
def test_one_at_another_point_is_done(cut_off: CutOff, off_ns: int) -> None:
    """Its clock may have been set back between the record and the point."""
    job = cut_off.job({"former_point": str(FORMER)}, "write-undo", "apply")
    cut_off.says(NEW, off_ns)
    assert cut_off.is_done(job)
    assert (cut_off.state, cut_off.taken_back) == (VolumeState.PROTECTED, [])


def test_half_of_it_is_taken_back(cut_off: CutOff) -> None:
    job = cut_off.job({"former_point": str(FORMER)}, "write-undo", "apply")
    cut_off.says(FORMER, A_DAY, LabelState.APPLYING)
    assert not cut_off.is_done(job)


def test_of_a_job_of_an_earlier_version_only_times_are_known(cut_off: CutOff) -> None:
    job = cut_off.job({}, "write-undo", "apply")
    cut_off.says(FORMER, -1)
    assert not cut_off.is_done(job)
    cut_off.says(NEW, 0)
    assert cut_off.is_done(job)


def test_what_is_recorded_is_the_point_of_the_admitted_label() -> None:
    label = a_label()
    for found, expected in (
        (None, None),
        (label, str(label.point_uuid)),
        (replace(label, point_uuid=None), None),  # a first copy that was not through
    ):
        admitted = cast(Admitted, SimpleNamespace(label=found))
        assert protect.former_point(admitted) == expected
