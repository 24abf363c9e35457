"""What is recorded is counted: a change that was not would leave the backup as it was."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_area, an_export

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue import (
    excerpt,
    export,
    hook_runs,
    identity,
    jobs,
    past,
    released,
    rows,
    schema,
    skipped,
)
from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import IdentifierKind, JobState, StepState
from dmsnap.catalogue.released import Released
from dmsnap.catalogue.skipped import Skipped
from dmsnap.catalogue.store import Catalogue


def counted(catalogue: Catalogue, change: Callable[[], object]) -> int:
    before = catalogue.changes
    change()
    return catalogue.changes - before


def test_whatever_is_recorded_is_counted(catalogue: Catalogue) -> None:
    """By this it is known whether there is something to back up: nothing may be left out."""
    volume = replace(a_volume(), recovery="/dev/sdr")
    area, point = an_area(volume), a_point(volume)
    ran = HookRecord("x", "precopy", "done", False, 0.1, "")
    gone = Released("/dev/sdx", "srv", 2**30, "mark", 1)
    left_out = Skipped(uuid4(), (point.id,), ExtentSet())
    left_out.extents.add(0, 4096)
    by = [(IdentifierKind.LINK, "/dev/disk/by-uuid/3f1c")]
    begun: list[int] = []

    def begin() -> None:
        begun.append(jobs.begin(catalogue, "prune", [volume.id], arguments={}, pid=1, steps=["a"]))

    def begin_of_nothing() -> None:
        jobs.begin(catalogue, "prune", [], arguments={}, pid=1, steps=[])

    changes: list[Callable[[], object]] = [
        lambda: catalogue.add_volume(volume),
        lambda: catalogue.update_volume(replace(volume, generation=9)),
        lambda: catalogue.add_area(area),
        lambda: catalogue.update_area(replace(area, size_bytes=2**20)),
        lambda: catalogue.add_point(replace(point, area_id=area.id)),
        lambda: catalogue.update_point(replace(point, keep=True, area_id=None)),
        lambda: catalogue.record_replica(volume, [point.id]),
        lambda: catalogue.delete_point(point.id, "point delete"),
        lambda: catalogue.remove_area(area.id),
        begin,
        begin_of_nothing,
        lambda: jobs.record_step(catalogue, begun[0], 0, StepState.DONE, 0.5),
        lambda: hook_runs.record(catalogue, begun[0], "a", [ran]),
        lambda: jobs.settle(catalogue, begun[0], volume.id, JobState.UNDONE, ""),
        lambda: jobs.end(catalogue, begun[0], JobState.DONE, ""),
        lambda: export.record(catalogue, an_export(volume)),
        lambda: identity.record(catalogue, volume.id, by),
        lambda: skipped.record(catalogue, left_out),
        lambda: skipped.forget(catalogue, left_out.recovery_id),
        lambda: released.record(catalogue, gone),
        lambda: catalogue.add_whole(volume, [area], []),
        lambda: catalogue.remove_volume(volume.id),
        lambda: composed_change(catalogue),
    ]
    assert [number for number, each in enumerate(changes) if not counted(catalogue, each)] == []


def composed_change(catalogue: Catalogue) -> None:
    with catalogue.transaction() as connection:
        connection.execute(schema.volume.update().values(generation=3))


def test_what_is_asked_or_changes_no_row_is_not_counted(catalogue: Catalogue) -> None:
    catalogue.add_volume(a_volume())
    job_id = jobs.begin(catalogue, "prune", [], arguments={}, pid=1, steps=[])

    def ask() -> None:
        volume = catalogue.volume("srv")
        _ = catalogue.points(), catalogue.areas(volume.id), catalogue.name_of(volume.id)
        _ = jobs.job(catalogue, job_id), jobs.recent(catalogue, 5), past.deleted(catalogue, "0")
        _ = export.exports(catalogue), hook_runs.of_job(catalogue, job_id)
        _ = released.find(catalogue, "/dev/sdx"), excerpt.take(catalogue, volume.id)

    assert counted(catalogue, ask) == 0
    assert counted(catalogue, lambda: catalogue.remove_area(uuid4())) == 0
    assert counted(catalogue, lambda: export.forget(catalogue, uuid4())) == 0


def test_what_was_undone_is_counted_too(catalogue: Catalogue) -> None:
    """Rather a backup too many than one too few."""

    def fail() -> None:
        with catalogue.statements() as statements:
            statements.insert("volume", [rows.columns(a_volume())])
            raise RuntimeError("killed")

    before = catalogue.changes
    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert catalogue.changes == before + 1
    assert catalogue.volumes() == []
