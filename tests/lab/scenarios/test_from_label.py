"""Recovery by a recovery volume's label alone: no catalogue, no state directory, no primary."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import (
    MIB,
    PATIENCE_SECONDS,
    Lab,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    dmsnap_process,
    forked,
    locks_held,
    refused,
    run,
    sha256,
    world,
)
from hosts import HERE, THERE, become
from lost_state import (
    label_of,
    lose_boot_files,
    lose_catalogue,
    lose_disk,
    lose_stack,
    lose_state_directory,
    points_on,
    write_label,
)
from raw_volume import Protected, protected, write_direct

from dmsnap._native import label as labels
from dmsnap._native.label import LabelState
from dmsnap.errors import ExitCode
from dmsnap.service.swaps.from_label import LabelTrial

SIZE = 32 * MIB


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    become(monkeypatch, HERE)
    return monkeypatch


def lost(lab: Lab, volume: Protected, *, primary: bool) -> None:
    """All that dmsnap knew is gone, and the primary if it is to be."""
    lose_stack(lab)
    lose_state_directory()
    lose_boot_files(volume.name)
    run("rm", "-rf", lab.store())
    if primary:
        lose_disk(lab, volume.primary)


def from_label(lab: Lab, recovery: str, *options: object) -> dict[str, object]:
    result = dmsnap("swap", "--from-label", recovery, "--store", lab.store(), *options)
    assert result["state"] == "trial"
    return dict(result)


def synced(lab: Lab) -> tuple[Protected, list[str], list[str]]:
    """A volume with three points; their ids and contents, the newest first."""
    volume = protected(lab, SIZE)
    contents = [sha256(volume.front)]
    for number in range(2):
        write_direct(volume.front, os.urandom(256 * 1024), (3 + number) * MIB)
        volume.sync()
        contents.insert(0, sha256(volume.front))
    return volume, points_on(volume.name), contents


@pytest.mark.parametrize("steps_back", [0, 2])
def test_equals_the_point(lab: Lab, steps_back: int) -> None:
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=True)
    wanted = ["--to", points[steps_back][:8]] if steps_back else []
    result = from_label(lab, volume.recovery, *wanted)
    assert (result["volume"], result["point"]) == (volume.name, points[steps_back])
    assert sha256(volume.front) == contents[steps_back]
    replica = volume.replica_sha256()
    write_direct(volume.front, os.urandom(MIB), 7 * MIB)
    assert volume.replica_sha256() == replica == contents[0]
    sentence = refused(ExitCode.WRONG_STATE, "swap", "revert", volume.name)
    assert "no volume to go back to" in sentence
    dmsnap("unprotect", volume.name)
    assert dm_devices() == []
    assert list(Path(lab.store()).iterdir()) == []
    assert not list(Path("/etc/systemd/system").glob(f"*{volume.name}*"))
    assert volume.replica_sha256() == replica
    assert dmsnap("status") == []
    # It can be done again, and kept.
    from_label(lab, volume.recovery)
    write_direct(volume.front, os.urandom(MIB), 8 * MIB)
    shown = sha256(volume.front)
    assert dmsnap("swap", "commit", volume.name)["state"] == "promoted"
    assert sha256(volume.front) == shown == sha256(volume.recovery, SIZE)
    (point,) = dmsnap("point", "create", volume.name)
    dmsnap("point", "delete", point["id"])


def test_files_and_places(lab: Lab) -> None:
    """Mounted where the label says, or where it is asked for."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(128 * MIB)
    mount_point = lab.mounted(primary, options="noatime")
    contents: list[bytes] = []
    name = ""
    for number in range(2):
        contents.insert(0, os.urandom(300_000))
        (mount_point / "file").write_bytes(contents[0])
        name = name or lab.protect(primary, recovery)
        dmsnap("sync", name)
        assert number or name
    points = points_on(name)
    lose_stack(lab, mount_point)
    lose_state_directory()
    lose_disk(lab, primary)
    from_label(lab, recovery)
    assert (mount_point / "file").read_bytes() == contents[0]
    assert "noatime" in run("findmnt", "-no", "OPTIONS", mount_point)
    dmsnap("unprotect", name)
    place = lab.directory / "elsewhere"
    sentence = refused(
        ExitCode.NOT_FOUND, "swap", "--from-label", recovery, "--store", lab.store(),
        "--mount", place,
    )  # fmt: skip
    assert str(place) in sentence
    place.mkdir()
    lab.mounts.append(place)
    from_label(lab, recovery, "--mount", place, "--to", points[1])
    assert (place / "file").read_bytes() == contents[1]
    assert not os.path.ismount(mount_point)
    # A boot in between: it comes up as the trial it is, with what was written.
    (place / "new").write_text("new")
    lose_stack(lab, place)
    # Not over what another host has taken, nor over what that has made of it.
    for changes, code in (
        (
            {"host_uuid": THERE, "host": "host-5678", "state": LabelState.PRIMARY},
            ExitCode.FOREIGN_DEVICE,
        ),
        ({"host_uuid": HERE}, ExitCode.POINT_INVALID),
    ):
        write_label(recovery, **changes)
        refused(code, "assemble", "--boot", name)
        assert dm_devices() == []
    write_label(recovery, state=LabelState.CONSISTENT)
    dmsnap("assemble", name)
    assert (place / "new").read_text() == "new"


def test_back_to_a_primary_that_is_there(lab: Lab) -> None:
    volume, points, contents = synced(lab)
    write_direct(volume.front, os.urandom(MIB), 20 * MIB)
    primary = sha256(volume.front)
    lost(lab, volume, primary=False)
    from_label(lab, volume.recovery, "--to", points[1])
    assert sha256(volume.front) == contents[1]
    dmsnap("swap", "revert", volume.name)
    assert sha256(volume.front) == primary
    assert volume.sync()["tracker"] == "compare"
    volume.check_equal()
    assert volume.sync()["tracker"] == "era"


def test_another_host(lab: Lab, host: pytest.MonkeyPatch) -> None:
    """Refused with the other's name and its last sign of life, unless it is taken over."""
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=False)
    become(host, THERE)
    swap = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    before = world(lab, volume.recovery)
    sentence = refused(ExitCode.FOREIGN_DEVICE, *swap)
    assert "host-1234" in sentence
    assert "last sign of life" in sentence
    assert world(lab, volume.recovery) == before
    from_label(lab, volume.recovery, "--force")
    assert sha256(volume.front) == contents[0]
    found = dmsnap("inspect", "label", volume.recovery)
    assert (found["host_uuid"], found["host"]) == (str(THERE), "host-5678")
    # A path of the other host's is another device here: there is no way back to it.
    refused(ExitCode.WRONG_STATE, "swap", "revert", volume.name)
    dmsnap("unprotect", volume.name)
    found = dmsnap("inspect", "label", volume.recovery)
    assert (found["point_uuid"], found["host_uuid"]) == (points[0], None)


def test_twins(lab: Lab) -> None:
    volume, _, _ = synced(lab)
    twin = lab.disk(int(run("blockdev", "--getsize64", volume.recovery)))
    run("dd", f"if={volume.recovery}", f"of={twin}", "bs=1M", "oflag=direct", "status=none")
    lost(lab, volume, primary=True)
    before = world(lab, volume.recovery, twin)
    for disk in (volume.recovery, twin):
        sentence = refused(
            ExitCode.FOREIGN_DEVICE, "swap", "--from-label", disk, "--store", lab.store()
        )
        assert volume.recovery in sentence
        assert twin in sentence
    assert world(lab, volume.recovery, twin) == before
    lose_disk(lab, twin)
    # What hangs may be anything: it keeps nobody from recovering.
    with hanging(lab), configured("primary_wait_seconds = 0.5"):
        from_label(lab, volume.recovery)


def test_who_is_left_behind_at_a_device_that_hangs_holds_nothing(
    lab: Lab, host: pytest.MonkeyPatch
) -> None:
    """Neither the volume, nor the pipe that somebody reads the result from."""
    host.undo()  # a process of its own has its own machine
    volume, _, contents = synced(lab)
    lost(lab, volume, primary=True)
    with hanging(lab), configured("primary_wait_seconds = 0.5"):
        words = ("swap", "--from-label", volume.recovery, "--store", lab.store(), "--json")
        process = dmsnap_process(*words)
        stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, stderr
        assert "/dev/mapper/hangs does not answer" in stderr
        assert json.loads(stdout)["state"] == "trial"
        assert sha256(volume.front) == contents[0]
        assert locks_held() == []
        assert dmsnap("swap", "commit", volume.name)["state"] == "promoted"
    assert sha256(volume.front) == contents[0]


@contextmanager
def hanging(lab: Lab) -> Iterator[None]:
    """A device that answers nobody, and cannot be told by itself."""
    run("dmsetup", "create", "held", "--table", f"0 2048 linear {lab.disk(MIB, name='held')} 0")
    run("dmsetup", "create", "hangs", "--table", "0 2048 linear /dev/mapper/held 0")
    run("dmsetup", "suspend", "held")
    try:
        yield
    finally:
        run("dmsetup", "resume", "held")
        run("dmsetup", "remove", "--retry", "hangs", "held")


def exchanged(disk: str, at: int, piece: bytes) -> bytes:
    """Write a piece of a recovery volume; returns what was there."""
    with label_of(disk) as (fd, _, _):
        before = os.pread(fd, len(piece), at)
        os.pwrite(fd, piece, at)
    return before


def test_an_interrupted_sync_is_rolled_back(lab: Lab) -> None:
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=True)
    with label_of(volume.recovery) as (fd, size_bytes, current):
        entry = current.history[0]
        applying = replace(
            current,
            state=LabelState.APPLYING,
            point_uuid=entry.point_uuid,
            point_time_ns=entry.point_time_ns,
            next_point_uuid=current.point_uuid,
            next_point_time_ns=current.point_time_ns,
        )
        labels.write(fd, size_bytes, applying, volume.recovery)
    sentence = refused(
        ExitCode.NOT_FOUND, "swap", "--from-label", volume.recovery, "--store", lab.store(),
        "--to", points[0],
    )  # fmt: skip
    assert "fits 0 points" in sentence
    before = world(lab, volume.recovery)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    assert dmsnap(*words, "--dry-run")["steps"]
    header = exchanged(volume.recovery, entry.store_offset_bytes, bytes(16))
    assert str(entry.point_uuid) in refused(ExitCode.CORRUPT, *words)
    exchanged(volume.recovery, entry.store_offset_bytes, header)
    assert world(lab, volume.recovery) == before
    result = from_label(lab, volume.recovery)
    assert result["point"] == points[1]
    assert sha256(volume.front) == contents[1]


def test_what_is_no_recovery_volume(lab: Lab) -> None:
    volume, points, _ = synced(lab)
    empty = lab.disk(SIZE)
    swap = ("swap", "--from-label")
    assert "no label" in refused(ExitCode.FOREIGN_DEVICE, *swap, empty)
    assert "is protected on this host" in refused(
        ExitCode.ALREADY_PROTECTED, *swap, volume.recovery
    )
    lose_catalogue()
    assert "/dev/mapper/" in refused(ExitCode.STACK_CHANGED, *swap, volume.recovery)
    lost(lab, volume, primary=True)
    lab.store()
    refused(ExitCode.NOT_FOUND, *swap, volume.recovery, "--to", str(uuid4()))
    refused(ExitCode.USAGE, *swap, volume.recovery, volume.name)
    refused(ExitCode.USAGE, "swap", volume.name, "--store", lab.store())
    for state in (LabelState.COPYING, LabelState.MERGING, LabelState.PRIMARY):
        write_label(volume.recovery, state=state)
        assert "holds no point" in refused(ExitCode.POINT_INVALID, *swap, volume.recovery)
    write_label(volume.recovery, state=LabelState.CONSISTENT, name="../x")
    refused(ExitCode.USAGE, *swap, volume.recovery)
    assert points


@pytest.mark.exhaustive
def test_interrupted_at_every_step(lab: Lab) -> None:
    """Taken back wherever it is interrupted; the recovery volume is free again for its host."""
    volume, _, contents = synced(lab)
    lost(lab, volume, primary=True)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    steps = len(dmsnap(*words, "--dry-run")["steps"])
    before = world(lab)
    for step in range(steps):
        for state in ("begun", "done"):
            ended = forked(*words, at=(step, state), send=(signal.SIGTERM,))
            if step == steps - 1:  # from its final step on it is done first
                assert ended.code in (0, ExitCode.TERMINATED), ended
                dmsnap("unprotect", volume.name)
                # What its label says of points stays known, as after any unprotect.
                points = {"point": world(lab).catalogue["point"]}
                before = replace(before, catalogue=before.catalogue | points)
            else:
                assert ended.code == ExitCode.TERMINATED, ended
            assert world(lab) == before
            assert volume.replica_sha256() == contents[0]
    from_label(lab, volume.recovery)
    assert sha256(volume.front) == contents[0]


def test_a_recovery_that_was_cut_off_is_begun_anew_or_taken_back(lab: Lab) -> None:
    """By its job: with what it was asked for, and what is left of it is not a trial."""
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=True)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store(), "--to", points[1])
    record, show_point, create_front = 0, 3, 4
    before = world(lab)
    for step in (record, create_front):
        forked(*words, at=(step, "done"), send=(signal.SIGKILL,))
        (resumed,) = dmsnap("job", "resume", "--all")
        assert resumed["job"]["state"] == "undone"
        assert world(lab) == before
    forked(*words, at=(show_point, "done"), send=(signal.SIGKILL,))
    (job,) = (job for job in dmsnap("job", "list") if job["state"] == "cut off")
    dmsnap("job", "resume", job["id"])
    assert sha256(volume.front) == contents[1]


def test_a_claim_that_was_cut_off_is_given_up(lab: Lab, host: pytest.MonkeyPatch) -> None:
    """Nothing was taken: another host needs no --force."""
    volume, _, contents = synced(lab)
    dmsnap("unprotect", volume.name)
    lost(lab, volume, primary=True)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    for at in [(step, state) for step in (0, 1) for state in ("begun", "done")]:
        ended = forked(*words, at=at, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL, ended
        dmsnap("job", "resume", "--all")
        assert statuses() == []
        assert dmsnap("inspect", "label", volume.recovery)["host_uuid"] is None, at
    become(host, THERE)
    from_label(lab, volume.recovery)
    assert sha256(volume.front) == contents[0]


def test_another_host_may_claim_it_in_between(lab: Lab, host: pytest.MonkeyPatch) -> None:
    """After it was looked at: what the other has taken is not written to, nor given back."""
    volume, _, _ = synced(lab)
    dmsnap("unprotect", volume.name)
    lost(lab, volume, primary=True)
    record = LabelTrial._record

    def late(putting: LabelTrial) -> None:
        record(putting)
        write_label(volume.recovery, host_uuid=THERE, host="host-5678")

    host.setattr(LabelTrial, "_record", late)
    sentence = refused(
        ExitCode.FOREIGN_DEVICE, "swap", "--from-label", volume.recovery, "--store", lab.store()
    )
    assert "on the host host-5678" in sentence
    assert dmsnap("inspect", "label", volume.recovery)["host_uuid"] == str(THERE)
    assert statuses() == []


def test_a_host_that_gives_a_sign_of_life_is_not_taken_over(
    lab: Lab, host: pytest.MonkeyPatch
) -> None:
    """It says nothing else than before: it was taken as dead, and goes on writing."""
    volume, _, _ = synced(lab)
    lost(lab, volume, primary=True)
    become(host, THERE)
    record = LabelTrial._record

    def late(putting: LabelTrial) -> None:
        record(putting)
        write_label(volume.recovery, lease_time_ns=time.time_ns())

    host.setattr(LabelTrial, "_record", late)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store(), "--force")
    assert "was written to since" in refused(ExitCode.BUSY, *words)
    assert dmsnap("inspect", "label", volume.recovery)["host_uuid"] == str(HERE)
    assert statuses() == []


def test_a_device_of_a_label_that_is_none_is_not_opened(lab: Lab) -> None:
    """Whoever opened the pipe would wait for its writer, and with the lock of the volume."""
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=True)
    pipe = lab.directory / "pipe"
    os.mkfifo(pipe)
    write_label(volume.recovery, device=str(pipe))
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store(), "--json")
    with configured("primary_wait_seconds = 0.5"):
        ended = forked(*words)
    assert ended.code == 0, ended
    assert "does not answer" not in ended.stderr
    assert json.loads(ended.stdout)["point"] == points[0]
    assert sha256(volume.front) == contents[0]


def test_what_the_boot_completes_gets_its_points(lab: Lab) -> None:
    """Power lost right before the record: the boot mounts it, and knows no more than that."""
    volume, points, contents = synced(lab)
    lost(lab, volume, primary=True)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    record_trial = len(dmsnap(*words, "--dry-run")["steps"]) - 1
    forked(*words, at=(record_trial, "begun"), send=(signal.SIGKILL,))
    lose_stack(lab)
    dmsnap("assemble", "--boot", volume.name)
    (resumed,) = dmsnap("job", "resume", "--all")
    assert resumed["job"]["state"] == "done"
    rows = catalogue_rows("select id from point where deleted_ns is null order by created_ns desc")
    assert [point_id for (point_id,) in rows] == points
    assert sha256(volume.front) == contents[0]


@pytest.mark.exhaustive
def test_killed_at_every_step(lab: Lab) -> None:
    """What is left is taken back when it is begun again, or when it is given up."""
    volume, _, contents = synced(lab)
    lost(lab, volume, primary=True)
    words = ("swap", "--from-label", volume.recovery, "--store", lab.store())
    steps = len(dmsnap(*words, "--dry-run")["steps"])
    before = world(lab)
    for step in range(steps):
        for number, state in enumerate(("begun", "done")):
            ended = forked(*words, at=(step, state), send=(signal.SIGKILL,))
            assert ended.code == -signal.SIGKILL, ended.stderr
            recorded = [row["state"] for row in statuses()]
            if "trial" not in recorded and number == step % 2:
                from_label(lab, volume.recovery)
                assert sha256(volume.front) == contents[0]
            if statuses():
                dmsnap("unprotect", volume.name)
            assert world(lab) == before
            assert volume.replica_sha256() == contents[0]


def statuses() -> list[dict[str, object]]:
    """The status of all volumes; what was cut off is a problem."""
    listed = forked("status")
    assert listed.code in (ExitCode.OK, ExitCode.UNHEALTHY)
    return list(json.loads(listed.stdout))
