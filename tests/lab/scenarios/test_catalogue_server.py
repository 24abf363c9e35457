"""The catalogue on a PostgreSQL server that goes away in the middle of a job."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    Lab,
    checkered,
    configured,
    dm_devices,
    dmsnap,
    refused,
    run,
    sha256,
    suspended,
)
from harness.kernels import EVERYDAY
from harness.postgresql_server import INSTALLED, PostgresqlServer
from lost_state import lose_stack
from test_jobs import SIZE, Bench, command

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode, UnreachableError

# On the kernel that all scenarios run on a tree without PostgreSQL is a mistake.
pytestmark = pytest.mark.skipif(
    not INSTALLED and os.environ.get("LAB_KERNEL") != EVERYDAY,
    reason="the tree of this kernel has no PostgreSQL",
)

# Steps of a sync in which the server is stopped, and what becomes of it.
STOPPED_AT = {
    "window": "undone",
    "apply": "undone",
    "remove-point": "done",
}


@pytest.fixture(scope="module")
def running() -> Iterator[PostgresqlServer]:
    assert INSTALLED, f"the tree of {EVERYDAY} has no PostgreSQL"
    with PostgresqlServer.make() as made:
        yield made


@pytest.fixture
def server(running: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A server that may be stopped and is to be started again: it has this host's catalogue."""
    with configured(f'catalogue = "{running.new_database().reveal()}"'):
        yield running


def stopping_at(step: str, server: PostgresqlServer, patch: pytest.MonkeyPatch) -> None:
    """Stop the server as soon as it is recorded that a step has begun: it does not wait for us."""
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
    ) -> None:
        recorded(catalogue, job_id, position, state, seconds)
        begun = state is StepState.BEGUN
        if begun and jobs.job(catalogue, job_id).steps[position].name == step:
            server.stop()

    patch.setattr(jobs, "record_step", record_step)


def test_it_goes_away_during_a_sync(
    server: PostgresqlServer, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume goes on, the replica is a point; the next command after its return does the rest.

    Begun are: the record of the point, the replica's new content, and what follows when that is
    whole.
    """
    bench = Bench(lab)
    former = sha256(bench.recovery, SIZE)
    for step, state in STOPPED_AT.items():
        bench.write(f"before {step}")
        with monkeypatch.context() as patch:
            stopping_at(step, server, patch)
            said = refused(ExitCode.UNREACHABLE, "sync", bench.name)
        assert "cannot be reached" in said, step
        assert suspended() == [], step
        bench.write(f"after {step}")
        assert bench.note == f"after {step}"
        label = dmsnap("inspect", "label", bench.recovery)
        assert label["state"] == "consistent", step
        assert (sha256(bench.recovery, SIZE) == former) is (state == "undone"), step
        assert "cannot be reached" in refused(ExitCode.UNREACHABLE, "status")
        server.start()
        after = command("sync", bench.name)
        assert after.code == 0, after
        assert f"sync of {bench.name} was cut off at {step}: it is {state} now" in after.stderr
        former = sha256(bench.recovery, SIZE)
        assert [each for each in dm_devices() if "-point-" in each] == []
        (status,) = dmsnap("status", bench.name)
        assert status["problems"] == []
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name, "--audit", "full")
    assert sha256(bench.recovery, SIZE) == sha256(f"/dev/mapper/{bench.name}")
    assert dmsnap("catalogue", "check")["problems"] == []


def test_it_goes_away_during_a_swap(
    server: PostgresqlServer, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was unmounted is mounted again, over the volume as it was; and who uses it since is not
    in the way of what the next command has to record.
    """
    bench = Bench(lab)
    bench.write("second")
    with monkeypatch.context() as patch:
        stopping_at("load-front", server, patch)
        assert "cannot be reached" in refused(ExitCode.UNREACHABLE, "swap", bench.name)
    assert suspended() == []
    assert bench.note == "second"
    bench.write("third")
    server.start()
    with (bench.mount_point / "note").open():
        after = command("sync", bench.name)
    assert after.code == 0, after
    assert f"swap of {bench.name} was cut off at load-front: it is undone now" in after.stderr
    (status,) = dmsnap("status", bench.name)
    assert (status["state"], status["problems"]) == ("protected", [])
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name, "--audit", "full")
    assert sha256(bench.recovery, SIZE) == sha256(f"/dev/mapper/{bench.name}")


def doubtful(server: PostgresqlServer, state: VolumeState, patch: pytest.MonkeyPatch) -> None:
    """The server goes when it has committed that the volume is in that state, and cannot say so."""
    recorded = Catalogue.update_volume

    def update_volume(catalogue: Catalogue, volume: Volume, *more: Any, **also: Any) -> None:
        recorded(catalogue, volume, *more, **also)
        if volume.state is state:
            server.stop()
            raise UnreachableError("the catalogue cannot be reached: the connection was lost")

    patch.setattr(Catalogue, "update_volume", update_volume)


IN_DOUBT = "in doubt"


@pytest.mark.parametrize(
    ("operation", "step", "boots"),
    checkered(("swap", "swap revert"), (IN_DOUBT, "record", "load-front", "mount"), (True, False)),
)
def test_it_goes_away_during_a_swap_and_the_host_as_well(
    server: PostgresqlServer,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    step: str,
    boots: bool,
) -> None:
    """What was taken back is what the next boot shows, with all that was written since: whatever
    the record says, which could not be taken back.
    """
    bench = Bench(lab)
    bench.write("second")
    if operation == "swap revert":
        dmsnap("swap", bench.name)
        bench.write("in trial")
    words = (*operation.split(), bench.name)
    with monkeypatch.context() as patch:
        if step == IN_DOUBT:
            after = VolumeState.TRIAL if operation == "swap" else VolumeState.PROTECTED
            doubtful(server, after, patch)
        else:
            stopping_at(step, server, patch)
        assert "cannot be reached" in refused(ExitCode.UNREACHABLE, *words)
    assert suspended() == []
    former = "second" if operation == "swap" else "in trial"
    assert bench.note == former
    bench.write("third")
    before = "protected" if operation == "swap" else "trial"
    if boots:
        lose_stack(lab, bench.mount_point)
        run("rm", "-rf", "/run/dmsnap")
        server.start()
        dmsnap("assemble", "--boot", bench.name)
        run("mount", f"/dev/mapper/{bench.name}", bench.mount_point)
        assert bench.note == "third"
        dmsnap("job", "resume", "--all")
    else:
        server.start()
        dmsnap("job", "resume", "--all")
    assert bench.note == "third"
    (status,) = dmsnap("status", bench.name)
    assert (status["state"], status["problems"]) == (before, [])
    jobs_of_it = [each for each in dmsnap("job", "list") if each["operation"] == operation]
    assert jobs_of_it[0]["state"] == "undone"
    in_order_to_the_end(bench, operation)


def in_order_to_the_end(bench: Bench, operation: str) -> None:
    """What follows is what it would be without all that."""
    if operation == "swap revert":
        dmsnap("swap", "revert", bench.name)
        assert bench.note == "second"
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name, "--audit", "full")
    assert sha256(bench.recovery, SIZE) == sha256(f"/dev/mapper/{bench.name}")
    assert [each for each in dm_devices() if "-origin-" not in each] == [bench.name]
    assert list(Path("/var/lib/dmsnap").glob("*/*.json")) == []
    assert dmsnap("catalogue", "check")["problems"] == []
