"""The hooks of policies: which are chosen, and that a pair is closed whatever comes between."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume

from dmsnap._native.label import LabelState
from dmsnap.catalogue import hook_runs, jobs
from dmsnap.catalogue.model import JobState, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import (
    BusyError,
    ConfigurationError,
    DeadlineError,
    InterruptedBySignal,
    NoSpaceError,
    NotFoundError,
    NotPermittedError,
    ProgramError,
)
from dmsnap.recovery import replica
from dmsnap.service import journal, reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.journal import Plan, Step
from dmsnap.service.replicas.audit import Audit
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.schedules import cut_off_hooks, hooks
from dmsnap.service.schedules.hooks import Hooks, Phase, hooks_of
from dmsnap.service.session import Session

SCRIPT = """#!/bin/sh
echo "$DMSNAP_PHASE $DMSNAP_HOOK $DMSNAP_VOLUMES $DMSNAP_OUTCOME" | sed 's/ *$//' >>"$1"
echo "$2"
eval "$3"
"""


class House:
    """A configuration with hooks that write down that they ran."""

    def __init__(self, directory: Path, catalogue: Catalogue) -> None:
        directory.chmod(0o755)
        self.script = directory / "hook"
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        self.log = directory / "log"
        self.place = directory / "etc"
        self.place.mkdir(mode=0o755)
        self.session = Session(Configuration(), catalogue)
        self.tables = ""

    def declares(self, text: str) -> None:
        self.tables += text + "\n"
        path = self.place / "tables.toml"
        path.write_text(self.tables)
        path.chmod(0o644)

    def hook(
        self, name: str, phase: str, does: str = "", *, says: str = "", more: str = ""
    ) -> None:
        command = json.dumps([str(self.script), str(self.log), says, does])
        self.declares(f'[hook.{name}]\nphase = "{phase}"\ncommand = {command}\n{more}')

    def policy(self, *names: str) -> None:
        """The hooks of the only policy, which is that of the volumes pg and wal."""
        self.declares(f"[policy.p]\nhooks = {json.dumps(names)}")
        self.declares('[subclient.s]\nvolumes = ["pg", "wal"]\npolicy = "p"')

    def of(self, *volumes: str) -> Hooks:
        return hooks_of(self.session, volumes)

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def take_point(self, window: Callable[[], None] = lambda: None) -> None:
        """A plan as that of a point: its window between the hooks."""
        bracket = self.of("pg").bracket(Phase.PRESNAPSHOT)
        between = Step("window", "take it", lambda: self.happens("window", window), self.forget)
        after = Step("after", "go on", lambda: self.happens("after", lambda: None), self.forget)
        steps = [*bracket.opening(), between, *bracket.closing(), after]
        journal.run(self.session.catalogue, Plan("point create", (), steps))

    def happens(self, what: str, then: Callable[[], None]) -> None:
        with self.log.open("a") as log:
            log.write(f"{what}\n")
        then()

    def forget(self) -> None:
        self.happens("undo", lambda: None)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        made = House(tmp_path, catalogue)
        monkeypatch.setenv("DMSNAP_CONFIG", str(made.place))
        yield made


def fails() -> None:
    raise BusyError("the disk is in use")


PAIR = ["presnapshot stop pg", "window", "postsnapshot start pg done", "after"]


@pytest.fixture
def paired(house: House) -> House:
    house.hook("stop", "presnapshot")
    house.hook("start", "postsnapshot")
    house.policy("stop", "start")
    return house


def test_they_run_around_the_window(paired: House) -> None:
    paired.take_point()
    assert paired.ran == PAIR


def test_volumes_without_a_policy_have_none(paired: House) -> None:
    assert paired.of("other").named == {}
    assert paired.of("other").bracket(Phase.PRESNAPSHOT).opening() == []
    assert paired.of("other").step(Phase.UNSNAP) == []


def test_each_is_chosen_once_in_the_order_of_the_policies(house: House) -> None:
    for name in "abcd":
        house.hook(name, "presnapshot")
    house.declares('[policy.points]\nmake = "snapshot"\nhooks = ["b", "a"]')
    house.declares('[policy.copies]\nmake = "recovery-volume"\nhooks = ["c", "a"]')
    house.declares('[subclient.one]\nvolumes = ["pg"]\npolicy = "points"')
    house.declares('[subclient.all]\ninclude = ["one"]\nvolumes = ["srv"]\npolicy = "copies"')
    assert list(house.of("pg").named) == ["b", "a", "c"]
    assert list(house.of("srv").named) == ["c", "a"]
    assert list(house.of("srv", "pg").named) == ["b", "a", "c"]
    house.of("srv", "pg").before(Phase.PRESNAPSHOT)
    assert house.ran == [f"presnapshot {name} srv pg" for name in "bac"]


def test_one_that_is_required_and_fails_prevents_the_point(house: House) -> None:
    house.hook("stop", "presnapshot", "exit 3", says="no such database")
    house.hook("more", "presnapshot")
    house.hook("start", "postsnapshot")
    house.policy("stop", "more", "start")
    with pytest.raises(ProgramError) as caught:
        house.take_point()
    assert str(caught.value) == "the presnapshot hook stop failed with 3: no such database"
    assert caught.value.fields["output"] == "no such database\n"
    assert house.ran == ["presnapshot stop pg", "postsnapshot start pg undone"]


def test_one_that_is_not_required_is_told_of(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hook("stop", "presnapshot", "kill -9 $$", more="required = false")
    house.hook("start", "postsnapshot")
    house.policy("stop", "start")
    house.take_point()
    assert house.ran == PAIR
    assert caplog.messages == ["the presnapshot hook stop was killed by signal 9: it wrote nothing"]


def test_one_that_hangs_prevents_the_point_at_its_deadline(house: House) -> None:
    house.hook("stop", "presnapshot", "sleep 1000", says="\x1b[31mwaiting", more='deadline = "5s"')
    house.policy("stop")
    with pytest.raises(DeadlineError) as caught:
        house.take_point()
    assert str(caught.value) == (
        "the presnapshot hook stop did not end within 5s and was killed: \\x1b[31mwaiting"
    )
    assert house.ran == ["presnapshot stop pg"]


def test_one_that_others_can_write_to_is_not_run(paired: House) -> None:
    paired.script.chmod(0o777)
    with pytest.raises(NotPermittedError, match="has the mode 0777"):
        paired.take_point()
    assert paired.ran == []


def test_the_second_of_a_pair_runs_when_the_window_fails(paired: House) -> None:
    with pytest.raises(BusyError):
        paired.take_point(fails)
    assert paired.ran == ["presnapshot stop pg", "window", "undo", "postsnapshot start pg undone"]


def test_the_second_of_a_pair_takes_nothing_back(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hook("stop", "presnapshot")
    house.hook("start", "postsnapshot", "exit 1")
    house.hook("mail", "postsnapshot")
    house.policy("stop", "start", "mail")
    house.take_point()
    assert house.ran == [*PAIR[:3], "postsnapshot mail pg done", "after"]
    assert caplog.messages == ["the postsnapshot hook start failed with 1: it wrote nothing"]


def test_the_second_alone_runs_too(house: House) -> None:
    house.hook("start", "postsnapshot")
    house.policy("start")
    house.take_point()
    assert house.ran == PAIR[1:]


def test_a_signal_ends_the_first_and_the_second_runs(house: House) -> None:
    house.hook("stop", "presnapshot", "kill -INT $PPID; sleep 1000")
    house.hook("start", "postsnapshot")
    house.policy("stop", "start")
    with pytest.raises(InterruptedBySignal):
        house.take_point()
    assert house.ran == ["presnapshot stop pg", "postsnapshot start pg undone"]


def test_a_signal_waits_for_the_second_which_runs_once(house: House) -> None:
    house.hook("stop", "presnapshot")
    house.hook("start", "postsnapshot", 'kill -INT $PPID; sleep 0.2; echo awake >>"$1"')
    house.policy("stop", "start")
    with pytest.raises(InterruptedBySignal):
        house.take_point()
    assert house.ran == [*PAIR[:3], "awake", "undo"]


def test_mistakes_in_the_tables_prevent_points_only_where_there_are_hooks(house: House) -> None:
    house.declares("[policy.p]\nkeeep = 1")
    assert house.of("pg").named == {}
    house.hook("stop", "presnapshot")
    with pytest.raises(ConfigurationError, match="keeep"):
        house.of("pg")


@pytest.mark.parametrize(
    ("states", "runs"),
    [
        ({}, False),
        ({"presnapshot": StepState.BEGUN}, True),
        ({"presnapshot": StepState.DONE, "window": StepState.BEGUN}, True),
        ({"presnapshot": StepState.DONE, "postsnapshot": StepState.BEGUN}, True),
        ({"presnapshot": StepState.DONE, "postsnapshot": StepState.DONE}, False),
        ({"presnapshot": StepState.UNDONE}, False),
    ],
)
def test_what_a_killed_command_had_to_run_is_run_once(
    paired: House, states: dict[str, StepState], runs: bool
) -> None:
    catalogue = paired.session.catalogue
    volumes = [a_volume("pg"), a_volume("wal"), a_volume("other")]
    for volume in volumes:
        catalogue.add_volume(volume)
    steps = ["create-cow", "presnapshot", "window", "postsnapshot"]
    ids = [volume.id for volume in volumes[:2]]
    job = jobs.begin(catalogue, "point create", ids, arguments={}, pid=os.getpid(), steps=steps)
    for name, state in states.items():
        jobs.record_step(catalogue, job, steps.index(name), state, None)
    for _ in range(2):
        cut_off_hooks.close_pairs(paired.session, jobs.job(catalogue, job), "pg")
    assert paired.ran == (["postsnapshot start pg wal cut off"] if runs else [])
    kept = hook_runs.of_job(catalogue, job)
    assert [(run.hook, run.step) for run in kept] == [("start", "postsnapshot")] * runs


REMOVALS = {
    "sync": ["apply", "remove-point", "unsnap"],
    "point delete": ["remove-live", "unsnap", "forget"],
    "prune": ["remove-live", "unsnap", "drop-history"],
}


class Removal:
    """A job on pg that was killed while a live point of it was being removed."""

    def __init__(self, house: House, operation: str) -> None:
        house.hook("gone", "unsnap")
        house.policy("gone")
        self.session = house.session
        self.volume = replace(a_volume("pg"), recovery=None, state=VolumeState.PROTECTED)
        self.point = a_point(self.volume)
        self.steps = REMOVALS[operation]
        asked: dict[str, dict[str, object]] = {
            "sync": {"name": "pg", "point": str(self.point.id)},
            "point delete": {"text": str(self.point.id), "keep": False},
            "prune": {"name": "pg", "live": [str(self.point.id)], "earlier": []},
        }
        catalogue, ids = house.session.catalogue, [self.volume.id]
        catalogue.add_volume(self.volume)
        arguments = asked[operation]
        self.job = jobs.begin(
            catalogue, operation, ids, arguments=arguments, pid=os.getpid(), steps=self.steps
        )

    def come_to(self, *states: StepState) -> None:
        for position, state in enumerate(states):
            jobs.record_step(self.session.catalogue, self.job, position, state, None)

    def conclude(self) -> JobState:
        """As whoever holds the volume next."""
        job = jobs.job(self.session.catalogue, self.job)
        return reaper.conclude(self.session, self.volume, job)


@pytest.fixture(params=REMOVALS)
def removal(house: House, request: pytest.FixtureRequest) -> Removal:
    return Removal(house, request.param)


@pytest.mark.parametrize(
    ("removing", "unsnap"),
    [
        (StepState.BEGUN, StepState.PLANNED),
        (StepState.DONE, StepState.PLANNED),
        (StepState.DONE, StepState.BEGUN),
    ],
)
def test_what_runs_behind_a_removal_runs_once_though_it_was_cut_off(
    house: House, removal: Removal, removing: StepState, unsnap: StepState
) -> None:
    before = [StepState.DONE] * removal.steps.index("unsnap")
    removal.come_to(*before[:-1], removing, unsnap)
    for _ in range(2):
        assert removal.conclude() is JobState.DONE
    assert house.ran == ["unsnap gone pg cut off"]
    (run,) = hook_runs.of_job(house.session.catalogue, removal.job)
    assert (run.hook, run.step, run.output) == ("gone", "unsnap", "\n")


def test_what_ran_behind_a_removal_does_not_run_again(house: House, removal: Removal) -> None:
    removal.come_to(*[StepState.DONE] * (removal.steps.index("unsnap") + 1))
    assert removal.conclude() is JobState.DONE
    assert house.ran == []


@pytest.mark.parametrize("operation", ["point delete", "prune"])
def test_nothing_runs_behind_a_removal_that_had_not_begun(house: House, operation: str) -> None:
    removal = Removal(house, operation)
    removal.come_to()
    removal.conclude()
    assert house.ran == []


def test_nothing_runs_behind_a_sync_that_came_to_nothing(house: House) -> None:
    removal = Removal(house, "sync")
    removal.come_to(StepState.BEGUN)
    assert removal.conclude() is JobState.UNDONE
    assert house.ran == []


def test_what_was_synced_is_removed_though_that_had_not_begun(house: House) -> None:
    """Whoever comes after a sync that was cut off has removed its snapshot, before it concludes."""
    removal, catalogue = Removal(house, "sync"), house.session.catalogue
    catalogue.add_point(replace(removal.point, temporary=True))
    removal.come_to(StepState.DONE)
    assert removal.conclude() is JobState.RUNNING
    catalogue.update_point(replace(removal.point, temporary=False, area_id=None))
    for _ in range(2):
        assert removal.conclude() is JobState.DONE
    assert house.ran == ["unsnap gone pg cut off"]


@pytest.mark.parametrize("reached", [True, False])
def test_what_has_reached_the_replica_is_synced_though_that_is_not_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch, *, reached: bool
) -> None:
    """The plug was pulled between the label and the journal."""
    removal = Removal(house, "sync")
    removal.volume = replace(removal.volume, recovery="/dev/replica")
    house.session.catalogue.update_volume(removal.volume)
    shown = removal.point.id if reached else uuid4()
    label = SimpleNamespace(state=LabelState.CONSISTENT, point_uuid=shown, history=())
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    removal.come_to(StepState.BEGUN)
    for _ in range(2):
        assert removal.conclude() is (JobState.DONE if reached else JobState.UNDONE)
    assert house.ran == ["unsnap gone pg cut off"] * reached


@pytest.mark.parametrize("state", [LabelState.APPLYING, LabelState.CONSISTENT])
def test_what_was_taken_back_from_the_replica_is_not_synced_though_it_was_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch, state: LabelState
) -> None:
    """Killed while an audit that had failed was being undone; what it was told by is compared."""
    removal = Removal(house, "sync")
    removal.volume = replace(removal.volume, recovery="/dev/replica")
    house.session.catalogue.update_volume(removal.volume)
    label = SimpleNamespace(state=state, point_uuid=uuid4(), history=())
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    removal.come_to(StepState.DONE)
    assert removal.conclude() is JobState.UNDONE
    assert house.ran == []
    recorded = house.session.catalogue.volume_by_id(removal.volume.id)
    assert recorded.tracking_id != removal.volume.tracking_id


@pytest.mark.parametrize("state", [LabelState.MERGING, LabelState.PRIMARY])
def test_a_sync_of_before_a_commit_is_what_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch, state: LabelState
) -> None:
    """Its snapshot was busy for that long; the label is about something else by now."""
    removal = Removal(house, "sync")
    removal.volume = replace(removal.volume, recovery="/dev/replica")
    house.session.catalogue.update_volume(removal.volume)
    label = SimpleNamespace(state=state, point_uuid=None, history=())
    monkeypatch.setattr(replica, "label_of", lambda _: label)
    removal.come_to(StepState.DONE)
    assert removal.conclude() is JobState.DONE


def test_what_cannot_be_looked_at_is_what_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Volume) -> None:
        raise NotFoundError("there is no /dev/replica")

    removal = Removal(house, "sync")
    removal.volume = replace(removal.volume, recovery="/dev/replica")
    house.session.catalogue.update_volume(removal.volume)
    monkeypatch.setattr(replica, "label_of", unreadable)
    removal.come_to(StepState.BEGUN)
    assert removal.conclude() is JobState.UNDONE
    removal.come_to(StepState.DONE)
    assert removal.conclude() is JobState.DONE


@pytest.mark.parametrize("operation", ["point delete", "prune"])
def test_nothing_runs_for_what_is_to_be_kept_since(house: House, operation: str) -> None:
    removal = Removal(house, operation)
    house.session.catalogue.add_point(replace(removal.point, keep=True))
    removal.come_to(StepState.BEGUN)
    removal.conclude()
    assert house.ran == []
    assert jobs.job(house.session.catalogue, removal.job).state is not JobState.RUNNING


def test_what_runs_behind_a_sync_waits_for_its_snapshot_to_go(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    removal, catalogue = Removal(house, "sync"), house.session.catalogue
    catalogue.add_point(replace(removal.point, temporary=True))
    removal.come_to(StepState.DONE, StepState.BEGUN)
    assert removal.conclude() is JobState.RUNNING
    assert "is still there" in caplog.text
    assert house.ran == []
    catalogue.update_point(replace(removal.point, temporary=False, area_id=None))
    assert removal.conclude() is JobState.DONE
    assert house.ran == ["unsnap gone pg cut off"]


def test_what_they_wrote_is_kept_with_the_job(house: House) -> None:
    house.hook("stop", "presnapshot", "echo more >&2; exit 3", says="no such \x1bdatabase")
    house.hook("start", "postsnapshot", says="started")
    house.policy("stop", "start")
    with pytest.raises(ProgramError):
        house.take_point()
    (job,) = jobs.recent(house.session.catalogue, 9)
    stop, start = hook_runs.of_job(house.session.catalogue, job.id)
    assert (stop.hook, stop.phase, stop.step) == ("stop", "presnapshot", "presnapshot")
    assert (stop.outcome, stop.failed) == ("failed with 3", True)
    assert stop.output == "no such \\x1bdatabase\nmore\n"
    # What an undo runs is reported by the step that is undone.
    assert (start.hook, start.phase, start.step) == ("start", "postsnapshot", "presnapshot")
    assert (start.outcome, start.failed, start.output) == ("is done", False, "started\n")


def test_one_that_is_not_run_is_kept_too(paired: House) -> None:
    paired.script.chmod(0o777)
    with pytest.raises(NotPermittedError):
        paired.take_point()
    (job,) = jobs.recent(paired.session.catalogue, 9)
    first, second = hook_runs.of_job(paired.session.catalogue, job.id)
    for run in (first, second):
        assert run.outcome.startswith("was not run: ")
        assert (run.failed, run.seconds, run.output) == (True, None, "")


def test_bytes_that_are_no_text_take_no_more_room(house: House) -> None:
    house.hook("talk", "postsnapshot", "head -c 1000000 /dev/zero; echo; echo end", says="begin")
    house.policy("talk")
    house.take_point()
    (job,) = jobs.recent(house.session.catalogue, 9)
    (run,) = hook_runs.of_job(house.session.catalogue, job.id)
    assert len(run.output) < hooks.MAX_CHARACTERS + 100
    assert run.output.startswith("begin\n\\x00")
    assert run.output.endswith("\\x00\nend\n")
    assert "left out" in run.output


def test_a_catalogue_that_takes_nothing_more_fails_no_job(
    paired: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_arguments: object) -> None:
        raise NoSpaceError("the catalogue's disk is full")

    monkeypatch.setattr(hook_runs, "record", full)
    paired.take_point()
    assert paired.ran == PAIR
    assert "is not kept" in caplog.text


def test_clearing_goes_on_when_nobody_knows_the_hooks(
    paired: House, caplog: pytest.LogCaptureFixture
) -> None:
    paired.declares("[policy.q]\nkeeep = 1")
    catalogue = paired.session.catalogue
    steps = ["presnapshot", "postsnapshot"]
    job = jobs.begin(catalogue, "sync", [uuid4()], arguments={}, pid=1, steps=steps)
    jobs.record_step(catalogue, job, 0, StepState.DONE, None)
    cut_off_hooks.close_pairs(paired.session, jobs.job(catalogue, job), "pg")
    assert f"the postsnapshot hooks of job {job} were not run" in caplog.text


def test_a_sync_has_a_step_for_each_phase(house: House) -> None:
    for phase in Phase:
        house.hook(f"on-{phase}", phase)
    house.policy(*(f"on-{phase}" for phase in Phase))
    session = cast(Session, SimpleNamespace(plan_cow=lambda *_: SimpleNamespace()))
    volume = replace(a_volume("pg"), id=uuid4())

    def names(**options: Any) -> list[str]:
        return [step.name for step in Sync(session, volume, audit=Audit.FULL, **options).steps()]

    plain = names()
    hooked = names(hooks=house.of("pg"))
    assert [name for name in hooked if name not in set(Phase)] == plain
    assert hooked == [
        "repair", "create-cow", "prepare-point", "presnapshot", "window", "postsnapshot",
        "precopy", "track", "write-undo", "apply", "audit", "postcopy", "remove-point", "unsnap",
    ]  # fmt: skip


def test_copying_a_live_point_takes_none_and_gives_none_up(house: House) -> None:
    for phase in Phase:
        house.hook(f"on-{phase}", phase)
    house.policy(*(f"on-{phase}" for phase in Phase))
    session = cast(Session, SimpleNamespace())
    volume = replace(a_volume("pg"), id=uuid4())
    found = Sync(session, volume, hooks=house.of("pg"), source=a_point(volume)).steps()
    assert [step.name for step in found] == [
        "repair", "record-copy", "precopy", "track", "write-undo", "apply", "postcopy", "settle",
    ]  # fmt: skip
