"""A new recovery volume after a commit: the old primary is dead, and nothing is unmounted."""

import os
import signal
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Ended,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    label_on,
    rarely,
    refused,
    run,
    sha256,
    world,
)
from faulty_disk import faulty_disk
from lost_state import lose_catalogue, points_on
from raw_volume import KIB, Protected, protected, write_direct
from test_everyday import checksums, write_files
from test_failback import committed, look_at, scribble, state_of
from test_interrupts import EVEN, EVERY, Bench, interrupted, killed
from test_swap import lines, require_complete, writing

from dmsnap._native.label import AREA_BYTES
from dmsnap.catalogue import jobs
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode
from dmsnap.recovery import history
from dmsnap.service.replicas import attach
from dmsnap.service.session import Session
from dmsnap.service.volumes.first_copy import FirstCopy

RAW_SIZE = 64 * MIB
RECOVERY_SIZE = RAW_SIZE + 34 * MIB


def on_another(volume: Protected, lab: Lab, *options: object) -> Protected:
    """The promoted volume, with a new recovery volume."""
    recovery = lab.disk(RECOVERY_SIZE)
    result = dmsnap("attach", volume.name, "--recovery", recovery, *options)
    assert (result["device"], result["recovery"]) == (volume.recovery, recovery)
    return Protected(volume.name, volume.recovery, recovery, volume.size_bytes)


def check_ordinary(volume: Protected) -> None:
    """Syncs go by the era, points are what they were, and it can be recovered."""
    (status,) = dmsnap("status", volume.name)
    assert (status["state"], status["device"]) == ("protected", volume.primary)
    assert status["replica"]["device"] == volume.recovery
    earlier = volume.check_equal()
    scribble(volume, 3, 5)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert result["bytes_dirty"] == 3 * volume.block_bytes
    newest = volume.check_equal()
    assert dmsnap("verify", volume.name, "--full")["audit"]["detection_probability"] == 1
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[1])
    assert sha256(volume.front) == earlier
    dmsnap("swap", "revert", volume.name)
    assert sha256(volume.front) == newest


def test_it_is_a_volume_as_any_other_from_then_on(lab: Lab) -> None:
    """The one recovery volume after the other, and back: what was the volume keeps its label."""
    former = committed(lab)
    untouched = sha256(former.primary)
    content = sha256(former.front)
    assert "dmsnap attach" in refused_with_hint("sync", former.name)
    volume = on_another(former, lab)
    assert sha256(volume.front) == content
    check_ordinary(volume)
    assert "no former primary" in refused(ExitCode.WRONG_STATE, "failback", volume.name)
    assert label_on(volume.primary)["state"] == "primary"
    assert dmsnap("resize", volume.name)["steps"] == {}

    dmsnap("swap", volume.name)
    scribble(volume, 2, 6)
    dmsnap("swap", "commit", volume.name)
    scribble(volume, 2, 7)
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert (result["device"], result["tracker"]) == (volume.primary, "era")
    assert sha256(volume.front) == content
    check_ordinary(volume)

    assert sha256(former.primary) == untouched
    dmsnap("unprotect", volume.name)
    assert dm_devices() == []
    assert list((lab.directory / "store").iterdir()) == []


def refused_with_hint(*words: object) -> str:
    """The hint of a command that the volume's state forbids."""
    error = dmsnap(*words, expected=ExitCode.WRONG_STATE)
    return str(error["hint"])


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_a_dead_primary_needs_no_unmount(lab: Lab, fs_type: str) -> None:
    """It is written to all the time, and the replica is a moment of it."""
    size_bytes = 512 * MIB  # ext4 with smaller blocks is not asked what it does not use
    recovery, third = lab.disk(size_bytes + 96 * MIB), lab.disk(size_bytes + 96 * MIB)
    with faulty_disk(lab, size_bytes) as primary:
        mount_point = lab.mounted(primary.path, fs_type, "noatime")
        write_files(mount_point, 20, 0)
        name = lab.protect(primary.path, recovery)
        write_files(mount_point, 10, 1)
        dmsnap("sync", name)
        primary.load(((0, primary.size_bytes), "error"))
        dmsnap("swap", name)
        dmsnap("swap", "commit", name)
        files = checksums(mount_point)
        mount = run("findmnt", "-no", "ID,MAJ:MIN", mount_point)
        with writing(mount_point) as log:
            before = len(lines(log))
            result = dmsnap("attach", name, "--recovery", third)
            after = len(lines(log))
            assert after > before
        require_complete(log)
        assert run("findmnt", "-no", "ID,MAJ:MIN", mount_point) == mount
        assert result["left_behind"] == primary.path
        # Whether anybody writes past the front can only be counted from a moment of rest on.
        assert result["bytes_skipped"] > 0 or "past its front" in result["full_reason"]
        check_copy(name, third, files, (before, after))

        write_files(mount_point, 10, 2)
        assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
        files = checksums(mount_point)
        dmsnap("swap", name, "--to", points_on(name)[0])
        assert checksums(mount_point) == files
        dmsnap("swap", "commit", name)
        assert checksums(mount_point) == files
        (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
        assert status["device"] == third
        run("umount", mount_point)
        run(*(["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n"]), third)
        dmsnap("unprotect", name)


def check_copy(name: str, third: str, files: str, moments: tuple[int, int]) -> None:
    """The point that was copied: as the volume was while it was copied, and a whole file system."""
    (point,) = points_on(name)
    at = Path(dmsnap("point", "mount", point)["mount_point"])
    assert set(files.splitlines()) <= set(checksums(at).splitlines())
    assert moments[0] <= len(lines(at / "log")) <= moments[1]
    dmsnap("point", "umount", point)
    assert label_on(third)["state"] == "consistent"


def test_what_is_written_past_the_front_is_not_missed(lab: Lab) -> None:
    """The copy is in full then, and the next sync knows that it was."""
    former = committed(lab)
    for name in [former.name, *(name for name in dm_devices() if name != former.name)]:
        run("dmsetup", "remove", name)
    dmsnap("assemble", former.name)
    write_direct(former.recovery, os.urandom(8 * KIB), 33 * MIB)
    (status,) = dmsnap("status", former.name, expected=ExitCode.UNHEALTHY)
    assert any("past /dev/mapper" in problem for problem in status["problems"])
    volume = on_another(former, lab)
    check_ordinary(volume)


def test_what_cannot_be_its_recovery_volume_is_refused(lab: Lab) -> None:
    former = committed(lab)
    least = history.needed_device_bytes(RAW_SIZE, AREA_BYTES)
    name, small, other = former.name, lab.disk(least - 512), lab.disk(RECOVERY_SIZE)
    words = ("attach", name, "--recovery")
    foreign = protected(lab, 8 * MIB)
    copy = lab.disk(int(run("blockdev", "--getsize64", former.recovery)))
    run("dd", f"if={former.recovery}", f"of={copy}", "bs=1M", "oflag=direct", "status=none")
    run("mkfs.ext4", "-qF", other)
    devices = [former.primary, former.recovery, small, other, foreign.recovery, copy]
    before = world(lab, *devices)

    refusals = [
        (ExitCode.USAGE, (), "nothing says"),
        (ExitCode.TOO_SMALL, ("--recovery", small), "a recovery volume of"),
        (ExitCode.FOREIGN_DEVICE, ("--recovery", former.primary), "is the former device"),
        (ExitCode.ALREADY_PROTECTED, ("--recovery", former.recovery), "is protected already"),
        (ExitCode.ALREADY_PROTECTED, ("--recovery", foreign.recovery), "the recovery volume"),
        (ExitCode.FOREIGN_DEVICE, ("--recovery", other), "holds ext4"),
        (ExitCode.FOREIGN_DEVICE, ("--recovery", copy), "in state primary"),
        (ExitCode.FOREIGN_DEVICE, ("--recovery", former.front), "its own recovery volume"),
    ]
    for code, options, sentence in refusals:
        assert sentence in refused(code, "attach", name, *options)
    with Path(copy).open("rb"):
        assert dmsnap(*words, copy, "--overwrite", "--dry-run")["steps"]
    assert world(lab, *devices) == before

    refused(ExitCode.WRONG_STATE, "attach", foreign.name, "--recovery", copy)
    dmsnap("swap", foreign.name)
    refused(ExitCode.WRONG_STATE, "attach", foreign.name, "--recovery", copy)
    dmsnap("swap", "revert", foreign.name)
    dmsnap(*words, copy, "--overwrite")
    check_ordinary(Protected(name, former.recovery, copy, RAW_SIZE))


def test_without_a_catalogue_the_later_label_counts(lab: Lab) -> None:
    """Two devices carry a label of one volume: which is the recovery volume the labels say."""
    former = committed(lab)
    volume = on_another(former, lab)
    lose_catalogue()
    (found,) = dmsnap("catalogue", "rebuild")["volumes"]
    assert (found["state"], found["device"]) == ("protected", volume.primary)
    assert found["recovery"] == volume.recovery
    assert volume.sync()["tracker"] == "compare"
    check_ordinary(volume)

    dmsnap("swap", volume.name)
    dmsnap("swap", "commit", volume.name)
    lose_catalogue()
    (found,) = dmsnap("catalogue", "rebuild")["volumes"]
    assert (found["state"], found["device"]) == ("promoted", volume.recovery)
    assert dmsnap("failback", volume.name)["device"] == volume.primary
    check_ordinary(volume)


def test_half_a_copy_is_no_recovery_volume_without_a_catalogue(lab: Lab) -> None:
    former = committed(lab)
    third = lab.disk(RECOVERY_SIZE)
    words = ("attach", former.name, "--recovery", third)
    steps = dmsnap(*words, "--dry-run")["steps"]
    copying = next(number for number, step in enumerate(steps) if step.startswith("copy the point"))
    ended = forked(*words, at=(copying, "begun"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    assert label_on(third)["state"] == "copying"
    lose_catalogue()
    (found,) = dmsnap("catalogue", "rebuild")["volumes"]
    assert (found["state"], found["device"]) == ("promoted", former.recovery)
    dmsnap(*words)
    check_ordinary(Protected(former.name, former.recovery, third, RAW_SIZE))


def test_a_whole_copy_that_was_not_recorded_is_recorded(lab: Lab) -> None:
    """As after a power cut between the label and the catalogue."""
    former = committed(lab)
    with Session.open() as session:
        before = session.catalogue.volume(former.name)
    volume = on_another(former, lab)
    with Session.open() as session:
        after = session.catalogue.volume(former.name)
        job = max(jobs.recent(session.catalogue, 9), key=lambda job: job.id)
        assert job.operation == "attach"
        session.catalogue.update_volume(before)
        assert attach.finish(session, before, job)
        assert session.catalogue.volume(former.name) == after
    check_ordinary(volume)


def test_who_records_it_gives_back_what_served_the_former_device(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command that was killed there: nobody has to come once more for that."""
    former = committed(lab)
    third = lab.disk(RECOVERY_SIZE)
    marked = FirstCopy._mark_consistent

    def is_killed(*_arguments: object, **_keywords: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def label_alone(copy: FirstCopy) -> None:
        monkeypatch.setattr(Catalogue, "update_volume", is_killed)
        marked(copy)

    with monkeypatch.context() as patched:
        patched.setattr(FirstCopy, "_mark_consistent", label_alone)
        ended = forked("attach", former.name, "--recovery", third)
    assert ended.code == -signal.SIGKILL, ended
    assert label_on(third)["state"] == "consistent"
    assert catalogue_rows("select role from area").count(("era-metadata",)) == 2
    dmsnap("job", "resume", "--all")
    assert dmsnap("status", former.name)[0]["state"] == "protected"
    assert catalogue_rows("select role from area") == [("era-metadata",)]
    assert len(list(Path(lab.store()).iterdir())) == 1
    check_ordinary(Protected(former.name, former.recovery, third, RAW_SIZE))


def test_a_device_that_becomes_larger_is_followed_as_a_whole(lab: Lab) -> None:
    """By its size it was known that it keeps a label; with another one it is a device as any."""
    volume = on_another(committed(lab), lab)
    larger = RECOVERY_SIZE + 16 * MIB
    for loop in (volume.primary, volume.recovery):
        with Path(run("losetup", "-nO", "BACK-FILE", loop).strip()).open("r+b") as file:
            file.truncate(larger if loop == volume.primary else 2 * larger)
        run("losetup", "-c", loop)
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any("dmsnap resize" in problem for problem in status["problems"])
    assert dmsnap("resize", volume.name, "--drop-points")["size_bytes"] == larger
    volume.size_bytes = larger
    assert volume.sync()["tracker"] == "compare"
    check_ordinary(volume)


def test_a_pool_gives_it(lab: Lab) -> None:
    former = committed(lab)
    small, fitting = lab.disk(RAW_SIZE), lab.disk(RECOVERY_SIZE)
    path = Path("/etc/dmsnap/pools.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'[pool.spares]\nvolumes = ["{small}", "{fitting}", "{former.primary}"]\n')
    try:
        result = dmsnap("attach", former.name, "--pool", "spares")
        assert (result["recovery"], result["pool"]) == (fitting, "spares")
        check_ordinary(Protected(former.name, former.recovery, fitting, RAW_SIZE))
        listed = {row["device"]: row["state"] for row in dmsnap("pool", "list", "spares")}
        assert listed[fitting] == "taken"
        assert listed[former.primary] == "free"
    finally:
        path.unlink()


# cut off


def promoted(lab: Lab) -> tuple[Bench, str]:
    """A mounted volume that was committed, and a disk that may be its recovery volume."""
    bench = Bench.made(lab)
    bench.look = lambda: look_at(lab)  # type: ignore[method-assign]
    third = lab.disk(48 * MIB)
    round_about(bench, third)
    return bench, third


def round_about(bench: Bench, third: str) -> None:
    """To its recovery volume for good; and from the third disk back to it."""
    if state_of(bench) == "protected":
        dmsnap("swap", bench.name)
        dmsnap("swap", "commit", bench.name)
    (row,) = catalogue_rows("select backing from volume where removed_ns is null")
    if row[0] == third:
        dmsnap("attach", bench.name, "--recovery", bench.recovery, "--overwrite")
        dmsnap("swap", bench.name)
        dmsnap("swap", "commit", bench.name)
    bench.dirty()


@pytest.mark.parametrize("number", [signal.SIGTERM, rarely(signal.SIGINT)])
def test_interrupted_it_is_undone(lab: Lab, number: int) -> None:
    bench, third = promoted(lab)
    words = ["attach", bench.name, "--recovery", third, "--overwrite"]
    interrupted(bench, words, lambda: round_about(bench, third), number=number, labelled=False)
    assert state_of(bench) == "promoted"
    dmsnap(*words)
    run("umount", bench.mount_point)
    assert dmsnap("sync", bench.name)["tracker"] == "era"
    run("mount", f"/dev/mapper/{bench.name}", bench.mount_point)


@pytest.mark.parametrize("which", [EVEN, rarely(EVERY)])
def test_killed_there_is_a_whole_recovery_volume_or_none(lab: Lab, which: slice) -> None:
    bench, third = promoted(lab)
    words = ["attach", bench.name, "--recovery", third, "--overwrite"]

    def again(_ended: Ended, step: str) -> None:
        dmsnap("point", "create", bench.name)
        for row in dmsnap("point", "list", bench.name):
            if any(place["kind"] == "live" for place in row["places"]):
                dmsnap("point", "delete", row["id"])
        if state_of(bench) == "promoted":
            assert run("wipefs", "-n", third) == "" or label_on(third)["state"] == "primary", step
            dmsnap(*words)
        assert label_on(third)["state"] == "consistent", step
        assert dmsnap("sync", bench.name, "--audit", "full")["tracker"] == "era", step
        bench.require_in_use(step)
        round_about(bench, third)

    killed(bench, words, again, which=which)
