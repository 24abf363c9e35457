"""Runs of policies: what fails of one volume stops no other, and hides nothing else of its own."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_volume

from dmsnap._native.io_priority import IoClass, IoPriority
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, DmsnapError, ExitCode, LockedError, of_volume
from dmsnap.host import reach, systemd
from dmsnap.host.blockdev import BlockDevice
from dmsnap.policy.copying import WaitingPoint
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import Declarations, Policy, Subclient
from dmsnap.service.points import point
from dmsnap.service.points.prune import PruneResult
from dmsnap.service.replicas import sync
from dmsnap.service.replicas.audit import SYNC_SAMPLE_BYTES, Audit, AuditResult
from dmsnap.service.schedules import policy_run
from dmsnap.service.schedules.policy_run import Part, PolicyRun, RunPlan
from dmsnap.service.session import Session
from dmsnap.snapshot import live
from dmsnap.tracking.choice import Tracker

NAMES = ["home", "pg", "wal"]


class Points:
    """Points are taken of volumes as ``point.create`` does, but for those that fail."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.failures: dict[str, DmsnapError] = {}
        self.taken: dict[str, UUID] = {}

    def create(self, _session: Session, names: Sequence[str], **_asked: object) -> Any:
        self.asked.append(list(names))
        for name in names:
            if name in self.failures:
                raise self.failures[name]
        found = [SimpleNamespace(volume=name, id=uuid4()) for name in names]
        self.taken.update({each.volume: each.id for each in found})
        return found


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    found = Points()
    monkeypatch.setattr(point, "create", found.create)
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[PolicyRun]:
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        for name in NAMES:
            catalogue.add_volume(replace(a_volume(name), state=VolumeState.PROTECTED))
        session = Session(Configuration(), catalogue)
        yield PolicyRun(session, "hourly", Policy(), [("all", NAMES)], UTC)


def locked(name: str) -> DmsnapError:
    return LockedError(f"{name} is locked by 'dmsnap sync'", volume=name)


def test_one_that_is_locked_keeps_no_other_from_its_point(
    points: Points, running: PolicyRun
) -> None:
    points.failures = {"home": locked("home"), "wal": locked("wal")}
    running.take_points()
    assert points.asked == [NAMES, ["pg", "wal"], ["pg"]]
    codes = {name: each.exit_code for name, each in running.volumes.items()}
    assert codes == {"home": ExitCode.LOCKED, "pg": 0, "wal": ExitCode.LOCKED}
    assert [bool(each.point) for each in running.volumes.values()] == [False, True, False]
    assert running.volumes["wal"].error == "wal is locked by 'dmsnap sync'"


def test_what_fails_of_nobody_in_particular_fails_of_all(
    points: Points, running: PolicyRun
) -> None:
    points.failures = {"pg": DeadlineError("a hook took too long")}
    running.take_points()
    assert points.asked == [NAMES]
    assert {each.error for each in running.volumes.values()} == {"a hook took too long"}


def test_what_waits_is_copied_though_no_point_was_taken(
    points: Points, running: PolicyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    points.failures = {"home": locked("home")}
    monkeypatch.setattr(PolicyRun, "_copy", lambda _, volume, _run: copied.append(volume.name))
    running.take_points()
    running.copy()
    assert copied == NAMES


def hanging(monkeypatch: pytest.MonkeyPatch, *paths: str) -> list[float]:
    """Have devices not answer; returns how long each was given that asked."""
    given: list[float] = []

    def probe(path: Path) -> SimpleNamespace:
        return SimpleNamespace(path=path, devno=hash(path))

    def silent(devices: Sequence[Path], seconds: float) -> list[Path]:
        given.append(seconds)
        return [each for each in devices if str(each) in paths]

    monkeypatch.setattr(BlockDevice, "probe", probe)
    monkeypatch.setattr(reach, "silent", silent)
    return given


def on_disks_of_its_own(running: PolicyRun, name: str) -> None:
    """The devices are called after the volume."""
    volume = running.session.catalogue.volume(name)
    changed = replace(volume, backing=f"/dev/{name}", recovery=f"/dev/{name}-copy")
    running.session.catalogue.update_volume(changed)


def test_one_whose_disk_hangs_keeps_no_other_from_its_point(
    points: Points, running: PolicyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could end what would wait for it, and the others with it."""
    on_disks_of_its_own(running, "pg")
    hanging(monkeypatch, "/dev/pg")
    running.take_points()
    assert points.asked == [["home", "wal"]]
    failed = running.volumes["pg"]
    assert failed.exit_code == DeadlineError.exit_code
    assert "/dev/pg, which pg lies on, does not answer" in str(failed.error)


def test_a_recovery_volume_that_hangs_keeps_nobody_from_a_point(
    points: Points, running: PolicyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disks_of_its_own(running, "pg")
    hanging(monkeypatch, "/dev/pg-copy")
    running.take_points()
    assert points.asked == [NAMES]
    assert running.volumes["pg"].error is None


@pytest.mark.parametrize("path", ["/dev/pg", "/dev/pg-copy"])
def test_one_whose_disk_hangs_keeps_no_other_from_its_copy(
    running: PolicyRun, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Nor from what is pruned behind that. A disk that sleeps has the time to wake up."""
    done: list[str] = []
    on_disks_of_its_own(running, "pg")
    given = hanging(monkeypatch, path)
    monkeypatch.setattr(PolicyRun, "_copy", lambda _, volume, _run: done.append(volume.name))
    monkeypatch.setattr(policy_run, "turn", lambda *_: nullcontext())

    def prune(_session: Session, names: Sequence[str]) -> list[PruneResult]:
        done.append(f"prune {names[0]}")
        return [PruneResult(names[0])]

    monkeypatch.setattr("dmsnap.service.points.prune.prune", prune)
    running.copy()
    assert done == ["home", "wal"]
    assert set(given) == {policy_run.WAKING_SECONDS}
    running.prune()
    assert done[2:] == ["prune home", "prune wal"]
    assert "does not answer" in str(running.volumes["pg"].error)


def test_a_disk_that_began_to_hang_while_it_was_waited_for(
    running: PolicyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn may have taken hours to come."""
    on_disks_of_its_own(running, "pg")
    hanging(monkeypatch)

    def turn(*_: object) -> nullcontext[None]:
        hanging(monkeypatch, "/dev/pg")
        return nullcontext()

    def synced(*_: object, **_asked: object) -> None:
        raise AssertionError("it would hang")

    waits = [WaitingPoint(uuid4(), 1)]
    monkeypatch.setattr("dmsnap.service.points.waiting.waiting_points", lambda *_: waits)
    monkeypatch.setattr(policy_run, "turn", turn)
    monkeypatch.setattr(sync, "sync", synced)
    pg = running.session.catalogue.volume("pg")
    cast(Any, running)._copy(pg, running.volumes["pg"])
    assert "does not answer" in str(running.volumes["pg"].error)


def test_a_window_that_fails_says_of_which_volume(running: PolicyRun) -> None:
    """The core knows devices by their UUIDs alone."""
    volumes = running.session.catalogue.volumes()
    blaming = cast(Any, live)._of_their_volume
    for volume in volumes:
        device = f"DMSNAP-{volume.id}-front"
        with pytest.raises(DeadlineError) as caught, blaming(volumes):
            raise DeadlineError(f"step 2, suspend of {device}; everything was resumed")
        assert caught.value.fields["volume"] == volume.name
    with pytest.raises(DeadlineError) as caught, blaming(volumes):
        raise DeadlineError("no memory")
    assert "volume" not in caught.value.fields


def test_whose_an_error_is_stays() -> None:
    with pytest.raises(LockedError) as caught, of_volume("home"), of_volume("pg"):
        raise locked("wal")
    assert caught.value.fields["volume"] == "wal"


@pytest.fixture
def begun(running: PolicyRun, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The units that systemd was told to begin; what else a run does is noted among them."""
    found: list[str] = []
    declared = Declarations(
        policy={"an hour": Policy()},
        subclient={"all": Subclient(policy="an hour", volumes=tuple(NAMES))},
    )
    monkeypatch.setattr("dmsnap.service.volumes.membership.declared_now", lambda _: declared)
    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(systemd, "begin", found.append)
    monkeypatch.setattr(PolicyRun, "copy", lambda _: found.append("copied"))

    def prune(_session: Session, names: Sequence[str], **asked: Any) -> list[PruneResult]:
        found.extend(f"{name} {','.join(asked.get('sides', ['all']))}" for name in names)
        return [PruneResult(name) for name in names]

    monkeypatch.setattr("dmsnap.service.points.prune.prune", prune)
    return found


def test_points_wait_for_no_copy(points: Points, running: PolicyRun, begun: list[str]) -> None:
    """What they leave to another unit may last for days; live points that are due go meanwhile."""
    points.failures = {"pg": locked("pg")}
    done = policy_run.run(running.session, "an hour", part=Part.POINTS, dry_run=False)
    assert isinstance(done, list)
    assert [bool(each.point) for each in done] == [True, False, True]
    unit = r"dmsnap-copy@an\x20hour.service"
    assert begun == ["home primary", "wal primary", unit]
    plan = policy_run.run(running.session, "an hour", part=Part.POINTS, dry_run=True)
    assert isinstance(plan, RunPlan)
    assert plan.descriptions()[1:] == [f"begin {unit}, which copies and prunes"]


@pytest.mark.parametrize(("part", "taken"), [(Part.COPIES, 0), (Part.ALL, 1)])
def test_what_comes_behind_points(
    part: Part, taken: int, points: Points, running: PolicyRun, begun: list[str]
) -> None:
    policy_run.run(running.session, "an hour", part=part, dry_run=False)
    assert len(points.asked) == taken
    assert begun == ["copied", "home all", "pg all", "wal all"]


class Copies:
    """What is taken is copied as ``sync.sync`` does it, as far as a run can tell."""

    def __init__(self, points: Points, directory: Path) -> None:
        self.points = points
        self.directory = directory
        self.asked: list[tuple[str, UUID | None]] = []
        self.how: list[dict[str, Any]] = []

    def declares(self, *lines: str) -> None:
        """The keys of the policy p, which is that of all volumes."""
        path = self.directory / "tables.toml"
        subclient = ["[subclient.all]", f"volumes = {json.dumps(NAMES)}", 'policy = "p"']
        path.write_text("\n".join(["[policy.p]", *lines, *subclient]) + "\n")
        path.chmod(0o644)

    def waiting(self, _session: Session, volume: Volume) -> list[WaitingPoint]:
        waits = self.points.taken.get(volume.name)
        return [WaitingPoint(waits, 0)] if waits else []

    def sync(
        self, _session: Session, name: str, *, source: str | None, **how: Any
    ) -> sync.SyncResult:
        self.asked.append((name, UUID(source) if source else None))
        self.how.append(how)
        copied = self.points.taken.pop(name) if source else None
        return sync.SyncResult(
            name, uuid4(), Tracker.ERA, None, 0, 0, 0, 0.0, 0.0, AuditResult(Audit.NONE), {}, copied
        )


@pytest.fixture
def copies(
    points: Points, running: PolicyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Copies:
    """No device is looked at, and nobody waits for a disk."""
    tmp_path.chmod(0o755)
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    monkeypatch.setenv("DMSNAP_CONFIG", str(directory))
    found = Copies(points, directory)
    monkeypatch.setattr(sync, "sync", found.sync)
    monkeypatch.setattr("dmsnap.service.points.waiting.waiting_points", found.waiting)
    monkeypatch.setattr("dmsnap.service.points.copyable.require_nothing_beside", lambda *_: None)
    monkeypatch.setattr("dmsnap.service.schedules.policy_run.turn", lambda *_: nullcontext())
    monkeypatch.setattr(
        "dmsnap.service.points.prune.prune", lambda _, names: [PruneResult(names[0])]
    )
    return found


@pytest.mark.parametrize(
    ("make", "takes", "copied"),
    [("snapshot", True, False), ("recovery-volume", False, True), ("both", True, True)],
)
def test_what_is_made_is_what_the_policy_says(
    make: str, takes: bool, copied: bool, points: Points, copies: Copies, running: PolicyRun
) -> None:
    """A recovery volume alone is made of the volume as it is, by a sync's own point."""
    copies.declares(f'make = "{make}"')
    plan = policy_run.run(running.session, "p", dry_run=True)
    assert isinstance(plan, RunPlan)
    planned = {each.split()[0] for each in plan.descriptions()}
    assert planned == {"prune"} | ({"take"} if takes else set()) | ({"sync"} if copied else set())
    done = policy_run.run(running.session, "p", dry_run=False)
    assert isinstance(done, list)
    assert points.asked == ([NAMES] if takes else [])
    assert [each.volume for each in done if each.point] == (NAMES if takes else [])
    made = [(each.volume, each.point) for each in done]
    assert copies.asked == (made if copied else [])
    assert [each.volume for each in done if each.synced] == (NAMES if copied else [])
    assert [each.error for each in done] == [None] * len(NAMES)


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        ((), (Audit.SAMPLE, SYNC_SAMPLE_BYTES, 0, None)),
        (('audit = "none"', 'io_class = "idle"'),
         (Audit.NONE, SYNC_SAMPLE_BYTES, 0, IoPriority(IoClass.IDLE))),
        (('audit = "full"', 'bandwidth = "3MiB"'),
         (Audit.FULL, SYNC_SAMPLE_BYTES, 3 * 2**20, None)),
        (('audit_size = "2MiB"', 'io_class = "best-effort"', "io_level = 7"),
         (Audit.SAMPLE, 2 * 2**20, 0, IoPriority(IoClass.BEST_EFFORT, 7))),
    ],
)  # fmt: skip
def test_copies_are_made_as_the_policy_says(
    lines: Sequence[str], how: tuple[object, ...], copies: Copies, running: PolicyRun
) -> None:
    copies.declares(*lines)
    policy_run.run(running.session, "p", dry_run=False)
    names = ("audit", "sample_bytes", "bandwidth", "io_priority")
    assert copies.how == [dict(zip(names, how, strict=True))] * len(NAMES)


@pytest.mark.parametrize(("default", "looks"), [(True, ["looked"]), (False, [])])
@pytest.mark.parametrize("part", Part)
def test_runs_of_the_default_sub_clients_policy_look_around_behind_all_else(
    part: Part,
    default: bool,
    looks: list[str],
    points: Points,
    running: PolicyRun,
    begun: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subclient = Subclient(policy="an hour", volumes=("home",), default=default)
    declared = Declarations(policy={"an hour": Policy()}, subclient={"all": subclient})
    monkeypatch.setattr("dmsnap.service.volumes.membership.declared_now", lambda _: declared)
    monkeypatch.setattr(PolicyRun, "welcome", lambda *_: begun.append("looked"))
    policy_run.run(running.session, "an hour", part=part, dry_run=False)
    assert begun[2:] == ([] if part is Part.POINTS else looks)
