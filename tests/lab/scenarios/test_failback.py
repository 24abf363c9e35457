"""Failback: after a commit, back to the former primary by what either side changed."""

import os
import random
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import (
    MIB,
    Ended,
    Lab,
    World,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    is_mounted,
    make_file_system,
    rarely,
    refused,
    run,
    sha256,
    world,
)
from faulty_disk import faulty_disk
from lost_state import lose_stack
from raw_volume import KIB, Protected, fill, protected, write_direct
from test_everyday import checksums, write_files
from test_interrupts import SIZE, Bench, interrupted, killed

from dmsnap._native import copy
from dmsnap._native.copy import CopyStats
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode
from dmsnap.host.dm import device as dm
from dmsnap.service.swaps.failback import Failback
from dmsnap.snapshot import stack

RAW_SIZE = 64 * MIB


def scribble(volume: Protected, blocks: int, seed: int) -> None:
    """Overwrite a page in each of ``blocks`` blocks, through the front."""
    chosen = random.Random(seed).sample(range(volume.size_bytes // volume.block_bytes), blocks)
    for block in chosen:
        write_direct(volume.front, os.urandom(4 * KIB), block * volume.block_bytes + 8 * KIB)


def committed(lab: Lab, blocks: int = 5) -> Protected:
    """A raw volume that both sides changed since they parted: in all, a little of it."""
    volume = protected(lab, RAW_SIZE)
    volume.sync()
    scribble(volume, blocks, 1)
    dmsnap("swap", volume.name, "--trial")
    scribble(volume, blocks, 2)
    dmsnap("swap", "commit", volume.name)
    scribble(volume, blocks, 3)
    return volume


def check_back(lab: Lab, volume: Protected, content: str) -> None:
    """The front shows what it showed, from the former primary; the replica is that, too."""
    assert sha256(volume.front) == content
    assert sha256(volume.primary) == content
    assert volume.replica_sha256() == content
    (status,) = dmsnap("status", volume.name)
    assert status["device"] == volume.primary
    scribble(volume, 3, 4)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert result["bytes_dirty"] == 3 * volume.block_bytes
    volume.check_equal()
    dmsnap("swap", volume.name, "--trial")
    dmsnap("swap", "revert", volume.name)
    dmsnap("unprotect", volume.name)
    assert dm_devices() == []
    assert list((lab.directory / "store").iterdir()) == []


def test_it_copies_what_either_side_changed(lab: Lab) -> None:
    """1 % of the blocks: less than 2 % of the volume is copied."""
    volume = committed(lab, blocks=RAW_SIZE // (64 * KIB) // 300)
    content = sha256(volume.front)
    assert content != sha256(volume.primary)
    result = dmsnap("failback", volume.name)
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert 0 < result["bytes_copied"] <= result["bytes_compared"] < RAW_SIZE * 2 // 100
    assert result["bytes_volume"] == RAW_SIZE
    assert result["seconds"] == pytest.approx(sum(result["steps"].values()))
    assert 0 < result["unmounted_seconds"] < result["seconds"]
    check_back(lab, volume, content)


@pytest.mark.parametrize("fs_type", ["xfs", rarely("ext4")])
def test_a_mounted_file_system_goes_back(lab: Lab, fs_type: str) -> None:
    primary, recovery = lab.disk(512 * MIB), lab.disk(800 * MIB)
    mount_point = lab.mounted(primary, fs_type, "noatime")
    write_files(mount_point, 30, 0)
    name = lab.protect(primary, recovery)
    earlier = dmsnap("sync", name)["point"]
    write_files(mount_point, 30, 1)
    dmsnap("sync", name)
    run("sh", "-c", f"rm -rf {mount_point}/*; sync")
    dmsnap("swap", name, "--to", earlier, "--trial")
    write_files(mount_point, 10, 2)
    dmsnap("swap", "commit", name)
    write_files(mount_point, 10, 3)
    files = checksums(mount_point)
    result = dmsnap("failback", name)
    assert (result["tracker"], result["reason"]) == ("era", None)
    assert result["bytes_copied"] < 64 * MIB
    assert checksums(mount_point) == files
    assert "noatime" in run("findmnt", "-no", "OPTIONS", mount_point)
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    run("umount", mount_point)
    judge = ["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n"]
    run(*judge, f"/dev/mapper/{name}")
    run("mount", f"/dev/mapper/{name}", mount_point)


def test_a_primary_that_was_spoiled_past_its_stack_is_compared(lab: Lab) -> None:
    """The garbage that made the swap necessary is in no mark of dm-era."""
    volume = protected(lab, RAW_SIZE)
    volume.sync()
    write_direct(volume.primary, os.urandom(MIB), 20 * MIB)
    dmsnap("swap", volume.name, "--trial")
    dmsnap("swap", "commit", volume.name)
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert "past its stack" in result["reason"]
    assert result["bytes_copied"] == MIB
    check_back(lab, volume, content)


@pytest.mark.parametrize("audit", ["sample", "full"])
def test_a_former_primary_that_forgets_is_found_by_reading_it_back(lab: Lab, audit: str) -> None:
    """It acknowledges, and keeps nothing of a part: the volume stays where it is, and serves."""
    with faulty_disk(lab, RAW_SIZE) as disk:
        fill(disk.device, RAW_SIZE)
        recovery = lab.disk(RAW_SIZE + 34 * MIB)
        volume = Protected(lab.protect(disk.path, recovery), disk.path, recovery, RAW_SIZE)
        dmsnap("swap", volume.name)
        scribble(volume, 5, 2)
        write_direct(volume.front, os.urandom(MIB), 20 * MIB)
        dmsnap("swap", "commit", volume.name)
        content = sha256(volume.front)
        disk.load(((20 * MIB, MIB), "drop_writes"))
        sentence = refused(ExitCode.AUDIT_FAILED, "failback", volume.name, "--audit", audit)
        assert f"the first at {20 * MIB}" in sentence
        assert sha256(volume.front) == content
        (status,) = dmsnap("status", volume.name, expected=None)
        assert (status["state"], status["device"]) == ("promoted", recovery)
        disk.load()
        result = dmsnap("failback", volume.name, "--audit", audit)
        assert result["audit"]["kind"] == audit
        assert result["audit"]["bytes_compared"] >= MIB
        check_back(lab, volume, content)


def test_a_former_primary_that_somebody_wrote_to_is_compared(lab: Lab) -> None:
    volume = committed(lab)
    content = sha256(volume.front)
    write_direct(volume.primary, os.urandom(8 * KIB), 33 * MIB)
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert "was written to since" in result["reason"]
    check_back(lab, volume, content)


def test_a_promoted_volume_that_was_written_to_past_its_stack_is_compared(lab: Lab) -> None:
    volume = committed(lab)
    write_direct(volume.recovery, os.urandom(8 * KIB), 33 * MIB)
    content = sha256(volume.front)
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any("failback compares in full" in each for each in status["problems"])
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert "was written to past" in result["reason"]
    check_back(lab, volume, content)


def test_a_promoted_volume_whose_stack_was_built_anew_is_compared(lab: Lab) -> None:
    volume = committed(lab)
    for name in [volume.name, *(name for name in dm_devices() if name != volume.name)]:
        run("dmsetup", "remove", name)
    write_direct(volume.recovery, os.urandom(8 * KIB), 33 * MIB)
    dmsnap("assemble", volume.name)
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert result["tracker"] == "compare"
    assert "began anew" in result["reason"]
    check_back(lab, volume, content)


@pytest.mark.parametrize("side", ["promoted", "former"])
def test_who_writes_past_a_stack_meanwhile_is_seen(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """It is in nobody's marks: neither front nor replica would be what it is said to be."""
    volume = committed(lab)
    device = {"promoted": volume.recovery, "former": volume.primary}[side]
    copy_since = Failback._copy_since

    def spoiled(returning: Failback) -> None:
        copy_since(returning)
        write_direct(device, os.urandom(8 * KIB), 33 * MIB)

    with monkeypatch.context() as patched:
        patched.setattr(Failback, "_copy_since", spoiled)
        sentence = refused(ExitCode.WRONG_STATE, "failback", volume.name)
    assert f"{device} was written to past its stack" in sentence
    content = sha256(volume.front)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    check_back(lab, volume, content)


@pytest.mark.parametrize("after", ["_copy_parted", "_copy_since", "_record"])
def test_who_writes_to_the_origin_that_is_held_meanwhile_is_seen(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """The device below counts that as it counts ours: only we know how much is ours."""
    volume = committed(lab)
    step = getattr(Failback, after)

    def spoiled(returning: Failback) -> None:
        step(returning)
        held = dm.node(stack.origin(returning.after).name)
        write_direct(held, os.urandom(8 * KIB), 33 * MIB)

    with monkeypatch.context() as patched:
        patched.setattr(Failback, after, spoiled)
        sentence = refused(ExitCode.WRONG_STATE, "failback", volume.name)
    assert f"{volume.primary} was written to past its stack" in sentence
    content = sha256(volume.front)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    check_back(lab, volume, content)


def test_who_writes_to_the_origin_that_is_held_during_our_own_copy_is_seen(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the beginning of the copy and its end, as much as is written by it."""
    volume = committed(lab)
    apply = copy.apply

    def spoiled(source: int, destination: int, *words: Any, **options: Any) -> CopyStats:
        done = apply(source, destination, *words, **options)
        write_direct(f"/proc/self/fd/{destination}", os.urandom(8 * KIB), 33 * MIB)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(copy, "apply", spoiled)
        sentence = refused(ExitCode.WRONG_STATE, "failback", volume.name)
    assert f"{volume.primary} was written to past its stack" in sentence
    content = sha256(volume.front)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    check_back(lab, volume, content)


def test_who_writes_to_the_front_in_the_last_moment_is_seen(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the last copy, and before the front goes over: the former primary lacks it."""
    volume = committed(lab)
    record = Failback._record

    def late(returning: Failback) -> None:
        record(returning)
        scribble(volume, 1, 9)

    with monkeypatch.context() as patched:
        patched.setattr(Failback, "_record", late)
        sentence = refused(ExitCode.WRONG_STATE, "failback", volume.name)
    assert "it is not the point that both hold" in sentence
    content = sha256(volume.front)
    dmsnap("failback", volume.name)
    check_back(lab, volume, content)


def test_what_is_not_the_former_primary_is_refused(lab: Lab) -> None:
    """Another file system, free or in use: nothing is written to it, nor to anything else."""
    volume = committed(lab)
    before = sha256(volume.primary)
    make_file_system(volume.primary)
    formatted = world(lab, volume.primary, volume.recovery)
    assert sha256(volume.primary) != before
    sentence = refused(ExitCode.FOREIGN_DEVICE, "failback", volume.name)
    assert "ext4" in sentence
    assert world(lab, volume.primary, volume.recovery) == formatted
    mount_point = lab.directory / "other"
    mount_point.mkdir()
    run("mount", volume.primary, mount_point)
    lab.mounts.append(mount_point)
    run("sync", "-f", mount_point)
    mounted = world(lab, volume.primary, volume.recovery)
    refused(ExitCode.FOREIGN_DEVICE, "failback", volume.name)
    assert world(lab, volume.primary, volume.recovery) == mounted
    run("umount", mount_point)
    run("wipefs", "-qa", volume.primary)
    assert dmsnap("failback", volume.name)["tracker"] == "compare"
    volume.check_equal()


@pytest.mark.parametrize(
    ("size_bytes", "code"),
    [(RAW_SIZE - MIB, ExitCode.TOO_SMALL), (RAW_SIZE + MIB, ExitCode.FOREIGN_DEVICE)],
)
def test_a_former_primary_of_another_size_is_refused(
    lab: Lab, size_bytes: int, code: ExitCode
) -> None:
    """Nothing is changed, and it can be gone back to once it has its size again."""
    volume = committed(lab)
    content = sha256(volume.front)
    image = Path(run("losetup", "-n", "-O", "BACK-FILE", volume.primary).strip())
    former = image.read_bytes()
    os.truncate(image, size_bytes)
    run("losetup", "-c", volume.primary)
    before = world(lab, volume.primary, volume.recovery)
    sentence = refused(code, "failback", volume.name)
    assert volume.primary in sentence
    assert world(lab, volume.primary, volume.recovery) == before
    assert sha256(volume.front) == content
    image.write_bytes(former)
    run("losetup", "-c", volume.primary)
    dmsnap("failback", volume.name)
    check_back(lab, volume, content)


def test_there_must_be_a_former_primary(lab: Lab) -> None:
    volume = protected(lab, 8 * MIB)
    assert "no former primary" in refused(ExitCode.WRONG_STATE, "failback", volume.name)
    dmsnap("swap", volume.name, "--trial")
    refused(ExitCode.WRONG_STATE, "failback", volume.name)
    dmsnap("swap", "commit", volume.name)
    (point,) = dmsnap("point", "create", volume.name)
    assert "live points" in refused(ExitCode.WRONG_STATE, "failback", volume.name)
    dmsnap("point", "delete", point["id"])
    with Path(volume.primary).open("rb"):
        assert dmsnap("failback", volume.name, "--dry-run")["steps"]
    dmsnap("failback", volume.name)


def bench_of(lab: Lab) -> Bench:
    bench = Bench.made(lab)
    bench.dirty()
    dmsnap("swap", bench.name, "--trial")
    dmsnap("swap", "commit", bench.name)
    bench.dirty()
    return bench


def forth(bench: Bench) -> None:
    """From the former primary to the promoted recovery volume again."""
    dmsnap("swap", bench.name, "--trial")
    dmsnap("swap", "commit", bench.name)


def state_of(bench: Bench) -> str:
    ((state,),) = catalogue_rows(
        f"select state from volume where name = '{bench.name}' and removed_ns is null"  # noqa: S608
    )
    return str(state)


def look_at(lab: Lab) -> World:
    """Generations, and with them the names of devices and areas, go on rising."""
    looked = world(lab)
    looked.catalogue.clear()
    tables = [row.split()[3] for row in looked.dm_tables]
    return World(
        **{
            **{name: getattr(looked, name) for name in World.__dataclass_fields__},
            "loops": {},
            "dm_tables": tables,
            "stores": [str(len(looked.stores))],
        }
    )


def test_killed_before_it_is_recorded_it_leaves_no_point_that_is_nowhere(lab: Lab) -> None:
    volume = committed(lab)
    recorded = "select count(*) from point where deleted_ns is null"
    before, update_volume = catalogue_rows(recorded), Catalogue.update_volume

    def dying(self: Catalogue, volume: Volume, *others: Any, **also: Any) -> None:
        if volume.state is VolumeState.PROTECTED:
            os.kill(os.getpid(), signal.SIGKILL)
        update_volume(self, volume, *others, **also)

    with patch.object(Catalogue, "update_volume", dying):
        assert forked("failback", volume.name).code == -signal.SIGKILL
    dmsnap("job", "resume", "--all")
    assert catalogue_rows(recorded) == before
    dmsnap("failback", volume.name)
    assert volume.sync("--audit", "full")["tracker"] == "era"


def test_what_is_written_after_a_kill_is_not_lost(lab: Lab) -> None:
    """Recorded as back, and the front over the promoted volume still: somebody mounts that."""
    bench = bench_of(lab)
    steps = dmsnap("failback", bench.name, "--dry-run")["steps"]
    (recorded,) = [at for at, step in enumerate(steps) if step.startswith("record that")]
    words = ("failback", bench.name)
    ended = forked(*words, at=(recorded, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    assert not is_mounted(bench.mount_point)
    run("mount", f"/dev/mapper/{bench.name}", bench.mount_point, "-o", "noatime,nodev")
    (bench.mount_point / "since").write_text("written to what was mounted")
    run("umount", bench.mount_point)
    dmsnap("point", "create", bench.name)
    assert state_of(bench) == "promoted"
    assert (bench.mount_point / "since").read_text() == "written to what was mounted"
    for row in dmsnap("point", "list", bench.name):
        dmsnap("point", "delete", row["id"])
    assert dmsnap("failback", bench.name)["tracker"] == "compare"
    assert (bench.mount_point / "since").read_text() == "written to what was mounted"
    assert dmsnap("sync", bench.name, "--audit", "full")["tracker"] == "era"
    bench.require_in_use("at the end")


@pytest.mark.parametrize("at", ["record", "load-front"])
def test_what_is_written_after_a_kill_is_not_lost_by_a_boot(lab: Lab, at: str) -> None:
    """The boot builds what was written to, though no command came in between to say what it is."""
    bench = bench_of(lab)
    steps = dmsnap("failback", bench.name, "--dry-run")["steps"]
    words = {"record": "record that", "load-front": f"put {bench.primary} under"}[at]
    (position,) = [number for number, step in enumerate(steps) if step.startswith(words)]
    ended = forked("failback", bench.name, at=(position, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    run("mount", f"/dev/mapper/{bench.name}", bench.mount_point, "-o", "noatime,nodev")
    (bench.mount_point / "since").write_text("written to what was mounted")
    lose_stack(lab, bench.mount_point)
    dmsnap("assemble", "--boot", bench.name)
    assert state_of(bench) == {"record": "promoted", "load-front": "protected"}[at]
    run("mount", f"/dev/mapper/{bench.name}", bench.mount_point, "-o", "noatime,nodev")
    (resumed,) = dmsnap("job", "resume", "--all")
    assert resumed["job"]["state"] == {"record": "undone", "load-front": "done"}[at]
    assert (bench.mount_point / "since").read_text() == "written to what was mounted"
    if at == "record":
        assert dmsnap("failback", bench.name)["tracker"] == "compare"
        assert (bench.mount_point / "since").read_text() == "written to what was mounted"
    dmsnap("sync", bench.name, "--audit", "full")
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, SIZE) == sha256(bench.primary)
    run("mount", f"/dev/mapper/{bench.name}", bench.mount_point, "-o", "noatime,nodev")
    bench.require_in_use("at the end")


@pytest.mark.exhaustive
def test_interrupted_it_is_undone(lab: Lab) -> None:
    bench = bench_of(lab)
    bench.look = lambda: look_at(lab)  # type: ignore[method-assign]
    words = ["failback", bench.name]
    interrupted(bench, words, lambda: forth(bench), number=signal.SIGTERM, labelled=False)
    assert state_of(bench) == "promoted"
    dmsnap("failback", bench.name)
    run("umount", bench.mount_point)
    assert dmsnap("sync", bench.name)["tracker"] == "era"
    assert sha256(bench.recovery, SIZE) == sha256(bench.primary)


@pytest.mark.exhaustive
def test_killed_it_is_finished_or_forgotten(lab: Lab) -> None:
    bench = bench_of(lab)
    bench.look = lambda: look_at(lab)  # type: ignore[method-assign]

    def again(_ended: Ended, step: str) -> None:
        dmsnap("point", "create", bench.name)
        for row in dmsnap("point", "list", bench.name):
            if any(place["kind"] == "live" for place in row["places"]):
                dmsnap("point", "delete", row["id"])
        if state_of(bench) == "promoted":
            dmsnap("failback", bench.name)
        assert dmsnap("sync", bench.name, "--audit", "full")["tracker"] == "era", step
        bench.require_in_use(step)
        forth(bench)

    killed(bench, ["failback", bench.name], again)
