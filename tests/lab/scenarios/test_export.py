"""Exports: LUNs of LIO's, seen through open-iscsi on the loopback interface."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import initiator
import pytest
from conftest import (
    MIB,
    PATIENCE_SECONDS,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    refused,
    run,
    sha256,
    world,
)
from lost_state import lose_stack
from raw_volume import write_direct
from write_log import logged_disk

from dmsnap.errors import ExitCode
from dmsnap.host.lio import state, target
from dmsnap.service.exports import export_unit

SIZE = 64 * MIB
LOGGED_SIZE = 16 * MIB
PORTAL = "127.0.0.1:3270"
TO = ("--portal", PORTAL, "--initiator", initiator.NAME)
LIO = Path("/sys/kernel/config/target")

Export = dict[str, Any]


@pytest.fixture
def published(lab: Lab) -> Iterator[Lab]:
    """A lab from which LUNs are taken back before its devices go."""
    initiator.start()
    try:
        yield lab
    finally:
        subprocess.run(["iscsiadm", "-m", "node", "--logout"], capture_output=True, check=False)
        subprocess.run(["iscsiadm", "-m", "node", "-o", "delete"], capture_output=True, check=False)
        for iqn in targets():
            dmsnap("unexport", iqn, "--force")
    assert published_objects() == []


def published_objects() -> list[str]:
    """Everything of LIO's that initiators could see, and what it is made of."""
    found = [*LIO.glob("iscsi/iqn.*"), *LIO.glob("core/iblock_*/*")]
    return sorted(path.name for path in found if path.is_dir())


def filled(lab: Lab, size_bytes: int = SIZE) -> str:
    """A disk with content that is nowhere else."""
    disk = lab.disk(size_bytes)
    scribble(disk, 0, size_bytes)
    return disk


def targets() -> list[str]:
    """The targets that are recorded, whether they can be used or not."""
    return [row[0] for row in catalogue_rows("select target from export order by created_ns")]


def scribble(device: str, offset_bytes: int, length_bytes: int) -> None:
    descriptor = os.open(device, os.O_WRONLY)
    try:
        os.pwrite(descriptor, os.urandom(length_bytes), offset_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_fails(device: str) -> None:
    """Even when the initiator does not believe that the disk is read-only."""
    run("blockdev", "--setrw", device)
    run("dd", "if=/dev/urandom", f"of={device}", "bs=4096", "count=1", "oflag=direct", expected=1)


@contextmanager
def read_without_pause(disk: str) -> Iterator[None]:
    """An initiator that reads the disk over and over, past its cache, and stops at an error.

    It reads when the block begins, and has read all of the disk once more after its end.
    """
    script = f"while dd if={disk} of=/dev/null bs=64k iflag=direct status=none; do echo; done"
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as reader:
        assert reader.stdout is not None
        rounds = reader.stdout.fileno()
        try:
            wait_for_rounds(rounds, 1)
            yield
            os.set_blocking(rounds, False)
            with contextlib.suppress(BlockingIOError):
                while os.read(rounds, 65536):
                    pass
            os.set_blocking(rounds, True)
            wait_for_rounds(rounds, 2)  # the first was begun before
        finally:
            os.killpg(reader.pid, signal.SIGKILL)


def wait_for_rounds(rounds: int, count: int) -> None:
    """Wait until the reader says that it has read everything so many times more."""
    for _ in range(count):
        assert select.select([rounds], [], [], PATIENCE_SECONDS)[0], "nothing is read"
        assert os.read(rounds, 1), "the reader had an error"


def volume(lab: Lab) -> tuple[str, str, str]:
    """A protected volume: its name, its device and its recovery volume."""
    primary, recovery = filled(lab), lab.disk(4 * SIZE)
    return lab.protect(primary, recovery), primary, recovery


def test_a_front_is_written_from_there_and_stays_the_lun_through_a_swap(published: Lab) -> None:
    name, primary, _ = volume(published)
    front = f"/dev/mapper/{name}"
    export = dmsnap("export", name, *TO)
    assert (export["kind"], export["lun"], export["read_only"]) == ("front", 0, False)
    assert dmsnap("export", name, *TO) == export
    disk = initiator.login(export)
    assert sha256(disk) == sha256(front)
    identity = initiator.identity(disk)

    scribble(disk, 5 * MIB, MIB)
    synced = dmsnap("sync", name, "--audit", "full")
    assert synced["tracker"] == "era"
    assert MIB <= synced["bytes_dirty"] < 4 * MIB
    at_the_sync = sha256(primary)
    scribble(disk, 9 * MIB, 4 * MIB)
    spoiled = sha256(primary)
    assert spoiled != at_the_sync

    (listed,) = dmsnap("export", "list")
    assert listed["sessions"] == [initiator.NAME]
    assert listed["problem"] is None
    assert "unexport" in dmsnap("unprotect", name, expected=ExitCode.BUSY)["hint"]
    assert "logged in" in refused(ExitCode.BUSY, "unexport", name)

    with read_without_pause(disk):
        dmsnap("swap", name)
    assert sha256(disk) == at_the_sync
    scribble(disk, 0, MIB)
    assert sha256(disk) == sha256(front)
    assert sha256(primary) == spoiled
    with read_without_pause(disk):
        dmsnap("swap", "revert", name)
    assert sha256(disk) == spoiled
    assert initiator.identity(disk) == identity
    (status,) = dmsnap("status", name)
    assert status["exports"] == [export["target"]]
    assert status["problems"] == []

    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    assert sha256(disk) == at_the_sync
    assert "exported" in refused(ExitCode.BUSY, "failback", name)
    initiator.logout(export)
    dmsnap("unexport", name)
    assert dmsnap("export", "list") == []
    assert published_objects() == []
    dmsnap("failback", name)
    assert sha256(front) == at_the_sync


def others_may_not_drop(lab: Lab, name: str, primary: str) -> None:
    """What has live points go asks for exported ones before it begins anything."""
    other = lab.disk(2 * SIZE)
    before = world(lab)
    assert "exported" in refused(ExitCode.BUSY, "hydrate", name, "--onto", other, "--drop-points")
    image = run("losetup", "-n", "-O", "BACK-FILE", primary).strip()
    for size_bytes in (SIZE + MIB, SIZE):
        os.truncate(image, size_bytes)
        run("losetup", "-c", primary)
        if size_bytes > SIZE:
            assert "exported" in refused(ExitCode.BUSY, "resize", name, "--drop-points")
    assert world(lab) == before


def test_a_front_that_was_mounted_once_stays_with_its_initiators(published: Lab) -> None:
    """Where it was mounted is recorded; LIO holds it now, through swap, revert and a boot."""
    primary = published.disk(SIZE)
    mount_point = published.mounted(primary)
    name = published.protect(primary, published.disk(4 * SIZE))
    run("umount", mount_point)
    dmsnap("export", name, *TO)
    for words in (("swap", name), ("swap", "revert", name), ("assemble", name)):
        dmsnap(*words)
        assert not os.path.ismount(mount_point)
        assert [each["problem"] for each in dmsnap("export", "list")] == [None], words

    # The front that a boot without the primary could not make is published when it is made.
    (export,) = dmsnap("export", "list")
    target.remove_target(export["target"])
    for backstore in state.backstores():
        target.remove_backstore(backstore.name)
    lose_stack(published)
    dmsnap("swap", name)
    assert not os.path.ismount(mount_point)
    assert [each["problem"] for each in dmsnap("export", "list")] == [None]
    dmsnap("swap", "revert", name)

    steps = dmsnap("swap", name, "--dry-run")["steps"]
    (unmounted,) = (at for at, step in enumerate(steps) if step.startswith("unmount"))
    ended = forked("swap", name, at=(unmounted, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    dmsnap("unexport", name)
    dmsnap("swap", name)
    assert os.path.ismount(mount_point)


def test_a_live_point_that_is_exported_is_not_made_the_volume(published: Lab) -> None:
    """Its LUN would show the volume as it is written to, and hold what is to be removed."""
    name, _, _ = volume(published)
    front = f"/dev/mapper/{name}"
    (point,) = dmsnap("point", "create", name)
    content = sha256(front)
    scribble(front, 3 * MIB, MIB)
    dmsnap("export", point["id"], *TO)
    dmsnap("swap", name, "--to", point["id"])
    assert "exported" in refused(ExitCode.BUSY, "swap", "commit", name)
    assert sha256(front) == content
    dmsnap("unexport", point["id"])
    assert dmsnap("swap", "commit", name)["state"] == "protected"
    assert sha256(front) == content
    dmsnap("status", name)


def test_points_are_exported_read_only_from_wherever_they_are(published: Lab) -> None:
    name, primary, _ = volume(published)
    digests = {}
    for step in range(2):
        scribble(f"/dev/mapper/{name}", step * MIB, 3 * MIB)
        point = dmsnap("sync", name)["point"]
        digests[point] = sha256(primary)
    scribble(f"/dev/mapper/{name}", 20 * MIB, 3 * MIB)
    (live,) = dmsnap("point", "create", name)
    digests[live["id"]] = sha256(primary)
    scribble(f"/dev/mapper/{name}", 20 * MIB, 3 * MIB)

    kinds = []
    for point, digest in digests.items():
        kinds.append(dmsnap("point", "show", point)["places"][0]["kind"])
        export = dmsnap("export", point[:13], *TO)
        assert export["read_only"]
        disk = initiator.login(export)
        assert sha256(disk) == digest
        write_fails(disk)
        assert sha256(disk) == digest
        assert "unexport" in dmsnap("point", "delete", point, expected=ExitCode.BUSY)["hint"]
        if kinds[-1] == "live":
            others_may_not_drop(published, name, primary)
            dmsnap("sync", name)
        else:
            assert point in refused(ExitCode.BUSY, "sync", name)
        initiator.logout(export)
        dmsnap("unexport", point)
        assert not [device for device in dm_devices() if "-export-" in device]
    assert sorted(kinds) == ["history", "live", "replica"]


def test_a_device_is_exported_whole_or_read_only_and_to_nobody_else(published: Lab) -> None:
    disk = filled(published)
    export = dmsnap("export", disk, *TO, "--read-only")
    shown = initiator.login(export)
    assert sha256(shown) == sha256(disk)
    write_fails(shown)
    assert "already" in refused(ExitCode.BUSY, "export", disk, *TO)
    assert "published by LIO as dmsnap-" in refused(
        ExitCode.BUSY, "protect", disk, "--name", published.name(), "--recovery",
        published.disk(4 * SIZE), "--store", published.store(),
    )  # fmt: skip
    # Larger it is another device than the one recorded; who uses the LUN goes on.
    image = Path(f"/sys/block/{Path(disk).name}/loop/backing_file").read_text().strip()
    os.truncate(image, SIZE + MIB)
    with read_without_pause(shown):
        run("losetup", "--set-capacity", disk)
        (restored,) = dmsnap("export", "restore", expected=None)
        assert "when it was exported" in restored["error"]
    initiator.logout(export)
    initiator.is_turned_away(export, "iqn.2026-01.org.example.lab:stranger")
    dmsnap("unexport", export["target"])


def test_a_lun_is_swapped_and_keeps_its_identity(published: Lab) -> None:
    lost, spare = filled(published), filled(published)
    export = dmsnap("export", lost, *TO)
    disk = initiator.login(export)
    identity = initiator.identity(disk)
    assert sha256(disk) == sha256(lost)
    run("dd", f"if={disk}", "of=/dev/null", "bs=1M", "status=none")  # into the page cache
    assert "logged in" in refused(ExitCode.BUSY, "lun", "swap", lost, "--to", spare)

    initiator.delete(disk)
    swapped = dmsnap("lun", "swap", lost, "--to", spare, "--force")
    assert (swapped["target"], swapped["serial"]) == (export["target"], export["serial"])
    disk = initiator.rescan(export)
    assert initiator.identity(disk) == identity
    assert sha256(disk) == sha256(spare)
    digest = run("sha256sum", disk).split()[0]  # by the page cache
    assert digest == sha256(spare)
    scribble(disk, MIB, MIB)
    assert sha256(disk) == sha256(spare) != sha256(lost)
    dmsnap("export", lost, "--portal", "127.0.0.1:3271", "--initiator", initiator.NAME)
    initiator.logout(export)
    # An initiator counts in the logical blocks that it has seen first.
    larger = published.disk(SIZE, sector_bytes=4096)
    error = refused(ExitCode.BLOCK_SIZE, "lun", "swap", spare, "--to", larger)
    assert "initiators would read and write at other places" in error
    (shown,) = [each for each in dmsnap("export", "list") if each["target"] == export["target"]]
    assert (shown["exported"], shown["problem"]) == (swapped["exported"], None)


def test_what_initiators_wrote_is_flushed_before_their_lun_is_swapped(published: Lab) -> None:
    """The disk has a cache of its own, and nobody has asked it for a flush."""
    written = os.urandom(MIB)
    spare = filled(published, LOGGED_SIZE)
    content = sha256(spare)
    with logged_disk(published, LOGGED_SIZE) as lost:
        export = dmsnap("export", lost.path, *TO)
        disk = initiator.login(export)
        swap = ("lun", "swap", export["target"], "--to", spare, "--force")
        verbs = [step.split()[0] for step in dmsnap(*swap, "--dry-run")["steps"]]
        assert verbs == ["make", "flush", "unmap", "map", "record", "remove"]
        with lost.recorded() as recording:
            write_direct(Path(disk), written, 5 * MIB)
            dmsnap(*swap)
        assert recording.durable() == recording.end()  # which is what the disk holds
        assert recording.durable()[5 * MIB : 6 * MIB] == written
        assert sha256(spare) == content
        initiator.logout(export)


def test_a_portal_is_an_address_of_this_host_on_a_link_that_is_up(published: Lab) -> None:
    disk = published.disk(SIZE)
    words = ("export", disk, "--initiator", initiator.NAME, "--portal")
    assert "192.0.2.7 is no address of this host" in refused(
        ExitCode.NOT_FOUND, *words, "192.0.2.7"
    )
    run("ip", "link", "add", "dummy7", "type", "dummy")
    try:
        run("ip", "address", "add", "192.0.2.7/24", "dev", "dummy7")
        assert "dummy7 (is switched off)" in refused(ExitCode.WRONG_STATE, *words, "192.0.2.7")
        run("ip", "link", "set", "dummy7", "up")
        export = dmsnap(*words, "192.0.2.7")
        assert export["portal"] == "192.0.2.7:3260"
        dmsnap("unexport", disk)
    finally:
        run("ip", "link", "delete", "dummy7")
    assert "no IP address" in refused(ExitCode.USAGE, *words, "localhost")
    assert "no initiator's name" in refused(
        ExitCode.USAGE, "export", disk, "--portal", PORTAL, "--initiator", "anybody"
    )
    assert published_objects() == []


@pytest.mark.parametrize(
    "what",
    [
        "point",
        *map(rarely, ("front", "device")),
    ],
)
def test_what_a_killed_export_leaves_is_cleared_by_the_next(published: Lab, what: str) -> None:
    things = disks_and_names(published)
    words = ("export", things[what], *TO)
    for position in range(len(dmsnap(*words, "--dry-run")["steps"])):
        killed(words, position)
        dmsnap(*words)
        (export,) = dmsnap("export", "list")
        assert export["problem"] is None
        dmsnap("unexport", export["target"])
        assert published_objects() == [], position
    assert not [device for device in dm_devices() if "-export-" in device]


def test_what_is_left_of_a_device_s_export_is_cleared_with_its_job(published: Lab) -> None:
    """No volume has it that anybody would hold; the boot asks for all jobs that were cut off."""
    device = filled(published)
    words = ("export", device, *TO)
    count = len(dmsnap(*words, "--dry-run")["steps"])
    for position in range(count):
        killed(words, position)
        (resumed,) = dmsnap("job", "resume", "--all")
        is_done = position == count - 1
        assert resumed["job"]["state"] == ("done" if is_done else "undone"), position
        assert len(targets()) == is_done
        assert (published_objects() != []) == is_done, position
        assert export_unit.wish_path().exists() == is_done
    for position in range(4):
        iqn = dmsnap(*words)["target"]
        killed(("unexport", device), position)
        (resumed,) = dmsnap("job", "resume", "--all")
        assert resumed["job"]["state"] == ("done" if position else "undone")
        assert targets() == ([] if position else [iqn]), position
        assert (published_objects() == []) == bool(position)
    assert not export_unit.wish_path().exists()


def test_what_a_killed_unexport_leaves_is_cleared_by_any_command(published: Lab) -> None:
    things = disks_and_names(published)
    name, point = things["front"], things["point"]
    for position in range(4):
        iqn = dmsnap("export", point, *TO)["target"]
        killed(("unexport", point), position)
        dmsnap("point", "create", name)
        left = [] if position else [iqn]
        assert targets() == left, position
        if left:
            (kept,) = dmsnap("export", "list")  # all of it can be used
            assert kept["problem"] is None
            dmsnap("unexport", point)
        assert published_objects() == [], position


def test_a_boot_publishes_what_is_recorded_wherever_it_was_cut_off(published: Lab) -> None:
    """Power lost between the record and the unit's drop-in left an export for one boot alone."""
    things = disks_and_names(published)
    dmsnap("export", things["point"], *TO)
    wish = export_unit.wish_path()
    wish.unlink()
    dmsnap("point", "create", things["front"])
    assert wish.read_text() == export_unit.TEXT
    dmsnap("unexport", things["point"])
    assert not wish.exists()
    wish.parent.mkdir(exist_ok=True)
    wish.write_text(export_unit.TEXT)
    dmsnap("point", "create", things["front"])
    assert not wish.exists()


@pytest.mark.parametrize(
    ("shown", "to"),
    [("front", "point"), ("front", "device"), rarely("point", "device")],
)
def test_what_a_killed_swap_of_a_lun_leaves_is_put_right(
    published: Lab, shown: str, to: str
) -> None:
    things = disks_and_names(published)
    before = dmsnap("export", things[shown], *TO)
    swap = ("lun", "swap", before["target"], "--to", things[to])
    for position in range(len(dmsnap(*swap, "--dry-run")["steps"])):
        killed(swap, position)
        dmsnap("point", "create", things["front"])
        (export,) = dmsnap("export", "list")
        assert export["problem"] is None, position
        assert len(published_objects()) == 2, position
        disk = initiator.login(export)
        assert sha256(disk) == sha256(things[f"{export['kind']}'s content"]), position
        initiator.logout(export)
        if export["kind"] != before["kind"]:
            dmsnap("lun", "swap", before["target"], "--to", things[shown])
    assert len(published_objects()) == 2
    dmsnap("unexport", before["target"])
    assert published_objects() == []
    assert not [device for device in dm_devices() if "-export-" in device]


def disks_and_names(lab: Lab) -> dict[str, str]:
    """One thing of each kind that can be exported, and where its content can be read."""
    name, primary, recovery = volume(lab)
    device = filled(lab)
    point = dmsnap("point", "list", name)[0]["id"]
    replica = lab.directory / "replica"
    run("dd", f"if={recovery}", f"of={replica}", "bs=1M", f"count={SIZE // MIB}", "status=none")
    scribble(f"/dev/mapper/{name}", 0, MIB)
    return {
        "front": name, "front's content": primary, "point": point, "point's content": str(replica),
        "device": device, "device's content": device,
    }  # fmt: skip


def killed(words: tuple[object, ...], position: int) -> None:
    ended = forked(*words, at=(position, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended.stderr


def test_a_signal_at_any_step_leaves_nothing(published: Lab) -> None:
    disk = filled(published)
    words = ("export", disk, *TO)
    for position in range(len(dmsnap(*words, "--dry-run")["steps"])):
        ended = forked(*words, at=(position, "begun"), send=(signal.SIGINT,))
        if ended.code == 0:  # it was through already
            dmsnap("unexport", disk)
        assert ended.code in (0, 130), ended.stderr
        assert published_objects() == [], position
        assert dmsnap("export", "list") == []


def test_what_somebody_took_away_is_published_again(published: Lab) -> None:
    name, primary, _ = volume(published)
    point = dmsnap("point", "create", name)[0]["id"]
    front, shown = dmsnap("export", name, *TO), dmsnap("export", point, *TO)
    disk = filled(published)
    plain = dmsnap("export", disk, *TO)
    for export in (front, shown, plain):
        target.remove_target(export["target"])
        for backstore in state.backstores():
            if backstore.serial == export["serial"]:
                target.remove_backstore(backstore.name)
    assert published_objects() == []
    listed = dmsnap("export", "list", expected=ExitCode.UNHEALTHY)
    assert all("is not exported as LUN 0" in export["problem"] for export in listed)
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert len(status["problems"]) == 2

    dmsnap("assemble", name)
    (status,) = dmsnap("status", name)
    assert sorted(status["exports"]) == sorted([front["target"], shown["target"]])
    restored = dmsnap("export", "restore")
    assert [result["error"] for result in restored] == [None] * 3
    assert dmsnap("export", "list") == [front, shown, plain]
    for export, source in ((front, primary), (shown, primary), (plain, disk)):
        assert sha256(initiator.login(export)) == sha256(source)
        initiator.logout(export)


def test_a_disk_that_became_a_recovery_volume_is_not_published_again(published: Lab) -> None:
    """After a boot a name may be another disk's."""
    disk = filled(published, 4 * SIZE)
    export = dmsnap("export", disk, *TO)
    target.remove_target(export["target"])
    for backstore in state.backstores():
        target.remove_backstore(backstore.name)
    published.protect(filled(published), disk, "--overwrite")
    (restored,) = dmsnap("export", "restore", expected=ExitCode.ALREADY_PROTECTED)
    assert "the recovery volume already" in restored["error"]
    assert published_objects() == []
    dmsnap("unexport", export["target"])
