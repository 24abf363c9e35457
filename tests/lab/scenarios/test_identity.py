"""Names and paths lie: devices that were renamed, exchanged, reused or formatted anew."""

import struct
import subprocess
from pathlib import Path

from conftest import MIB, Lab, dm_devices, dmsnap, refused, run, sha256, world
from raw_volume import Protected, protected, write_direct

from dmsnap.errors import ExitCode

SIZE = 64 * MIB
RECOVERY_SIZE = 128 * MIB


def mounted_volume(lab: Lab) -> tuple[str, str, str, Path]:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    return lab.protect(primary, recovery), primary, recovery, mount_point


def remove_stack(name: str) -> None:
    for row in sorted(dm_devices(), key=lambda row: row != name):
        run("dmsetup", "remove", row)


def image_of(loop: str) -> str:
    return run("losetup", "-n", "-O", "BACK-FILE", loop).strip()


# dm names


def test_a_renamed_front_whose_name_is_another_devices_now(lab: Lab) -> None:
    """What is done by name would hit a stranger: nothing is done."""
    volume = protected(lab, 12 * MIB)
    run("dmsetup", "rename", volume.name, "elsewhere")
    run("dmsetup", "create", volume.name, "--table", "0 24576 zero")
    try:
        before = world(lab, volume.primary, volume.recovery)
        for words in (("sync",), ("point", "create"), ("swap",), ("unprotect",), ("assemble",)):
            sentence = refused(ExitCode.STACK_CHANGED, *words, volume.name)
            assert "renamed to elsewhere" in sentence
            assert world(lab, volume.primary, volume.recovery) == before
        (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
        assert any("renamed to elsewhere" in problem for problem in status["problems"])
    finally:
        run("dmsetup", "remove", volume.name)
    run("dmsetup", "rename", "elsewhere", volume.name)
    dmsnap("sync", volume.name, "--audit", "full")


def test_hidden_names_that_are_others(lab: Lab) -> None:
    """A device named like ours and without our mark is a stranger's, and stays."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    foreign = "dmsnap-bad-origin-1"
    run("dmsetup", "create", foreign, "--table", "0 2048 zero")
    try:
        words = ("protect", primary, "--name", "bad", "--recovery", recovery)
        before = world(lab, primary, recovery)
        assert foreign in refused(ExitCode.BUSY, *words, "--store", lab.store())
        assert world(lab, primary, recovery) == before
    finally:
        run("dmsetup", "remove", foreign)


# disks under other names


def test_assembling_over_another_disk(lab: Lab) -> None:
    """After a reboot /dev/sdb may be another disk, with a file system of its own."""
    name, primary, recovery, mount_point = mounted_volume(lab)
    run("umount", mount_point)
    remove_stack(name)
    image = image_of(primary)
    other = lab.directory / "other.img"
    other.write_bytes(b"")
    run("truncate", "-s", SIZE, other)
    run("mkfs.ext4", "-q", other)
    run("losetup", "-d", primary)
    run("losetup", primary, other)
    before = world(lab, primary, recovery)
    refused(ExitCode.FOREIGN_DEVICE, "assemble", name)
    assert world(lab, primary, recovery) == before
    run("losetup", "-d", primary)
    run("losetup", primary, image)
    dmsnap("assemble", name)
    assert (mount_point / "file").read_text() == "one"


def test_assembling_when_both_disks_changed_places(lab: Lab) -> None:
    """The replica has the file system's UUID, and must not be written to as the volume."""
    name, primary, recovery, mount_point = mounted_volume(lab)
    run("umount", mount_point)
    remove_stack(name)
    images = image_of(primary), image_of(recovery)
    for loop in (primary, recovery):
        run("losetup", "-d", loop)
    for loop, image in zip((recovery, primary), images, strict=True):
        run("losetup", loop, image)
    before = world(lab, primary, recovery)
    for words in (("assemble",), ("unprotect",)):
        assert recovery not in refused(ExitCode.FOREIGN_DEVICE, *words, name)
        assert world(lab, primary, recovery) == before


def test_assembling_a_volume_that_was_spoiled(lab: Lab) -> None:
    """Garbage where the superblock was: it is the volume still, and can be swapped."""
    name, primary, _, mount_point = mounted_volume(lab)
    run("umount", mount_point)
    remove_stack(name)
    run("dd", "if=/dev/zero", f"of={primary}", "bs=1M", "count=4", "oflag=direct")
    refused(ExitCode.PROGRAM_FAILED, "assemble", name)  # it cannot be mounted
    assert name in dm_devices()
    dmsnap("swap", name)
    assert (mount_point / "file").read_text() == "one"


def test_unprotecting_when_the_device_is_gone(lab: Lab) -> None:
    volume = protected(lab, 12 * MIB)
    remove_stack(volume.name)
    run("losetup", "-d", volume.primary)
    dmsnap("unprotect", volume.name)
    assert dmsnap("status") == []
    assert list(Path(lab.store()).iterdir()) == []


# what is on them


def test_formatted_after_it_was_protected(lab: Lab) -> None:
    """Points, label and a later protection go by what the volume holds, not by what it held."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    empty = dmsnap("inspect", "label", recovery)["point_uuid"]
    mount_point = lab.mounted(f"/dev/mapper/{name}")
    (mount_point / "file").write_text("one")
    synced = dmsnap("sync", name)
    (live,) = dmsnap("point", "create", name)
    for point in (live["id"], synced["point"]):
        at = Path(dmsnap("point", "mount", point)["mount_point"])
        assert (at / "file").read_text() == "one"
        dmsnap("point", "umount", point)
    before = world(lab)
    assert "no file system" in refused(ExitCode.WRONG_STATE, "point", "mount", empty)
    assert world(lab) == before
    label = dmsnap("inspect", "label", recovery)
    uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", primary).strip()
    assert (label["fs_type"], label["fs_uuid"]) == ("ext4", uuid)
    dmsnap("unprotect", name)
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store())
    assert len(dmsnap("inspect", "label", recovery)["history"]) == len(label["history"]) + 1


def test_protected_again_after_a_sync_that_was_killed(lab: Lab) -> None:
    """The label says applying: it is rolled back by the next sync, here as anywhere."""
    volume = protected(lab, 12 * MIB)
    before = volume.label()
    write_direct(volume.front, b"x" * MIB, 3 * MIB)
    kill_in_apply(volume)
    dmsnap("unprotect", volume.name)
    assert volume.label()["state"] == "applying"
    dmsnap(
        "protect", volume.primary, "--name", volume.name, "--recovery", volume.recovery,
        "--store", lab.store(),
    )  # fmt: skip
    assert sha256(volume.primary) == volume.check_equal()
    assert volume.label()["history"][0]["point_uuid"] == before["point_uuid"]


def kill_in_apply(volume: Protected) -> None:
    script = (
        "import os\n"
        "from dmsnap.recovery import apply\n"
        "from dmsnap.cli.main import main\n"
        "apply.write_new = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        f"main(['sync', {volume.name!r}])\n"
    )
    subprocess.run(["python3", "-c", script], check=False)
    assert volume.label()["state"] == "applying"


def test_what_lay_behind_the_replica_is_not_found_any_more(lab: Lab) -> None:
    """An MD superblock near the end outlives the copy, and mount(8) would not know what to take."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    superblock = bytearray(4096)
    struct.pack_into("<8I", superblock, 0, 0xA92B4EFC, 0, 90, 0, 0, 0x12345678, 0, 1)
    write_direct(recovery, bytes(superblock), RECOVERY_SIZE - 65536)
    assert "linux_raid_member" in run("blkid", "-p", recovery)
    words = ("protect", primary, "--name", lab.name(), "--recovery", recovery)
    refused(ExitCode.FOREIGN_DEVICE, *words, "--store", lab.store())
    dmsnap(*words, "--store", lab.store(), "--overwrite")
    found = run("blkid", "-p", "-o", "export", recovery)
    assert "TYPE=ext4" in found
    assert "raid" not in found
    at = lab.directory / "replica"
    at.mkdir()
    run("mount", "-o", "ro,noload", recovery, at)
    lab.mounts.append(at)
    assert (at / "file").read_text() == "one"
