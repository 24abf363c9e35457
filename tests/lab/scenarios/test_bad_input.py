"""What is refused: one sentence, an exit code of its own, and everything as it was before."""

import gzip
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    administrator,
    configured,
    dm_devices,
    dmsnap,
    loop_files,
    make_file_system,
    refused,
    run,
    sha256,
    world,
)

from dmsnap.errors import ExitCode, ForeignDeviceError
from dmsnap.service import journal
from dmsnap.service.journal import Step
from dmsnap.service.session import Session
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.protect import Protection
from dmsnap.service.volumes.wanted_recovery import WantedRecovery

SIZE = 32 * MIB
RECOVERY_SIZE = 64 * MIB
LABEL_BYTES = 8192
SMALLEST_RECOVERY = SIZE + 4 * MIB + LABEL_BYTES
IMAGES = Path("/src/tests/native/images")


def protect_words(lab: Lab, primary: str, recovery: str, *options: object) -> list[object]:
    words = ["protect", primary, "--name", "bad", "--recovery", recovery]
    return [*words, *([] if "--store" in options else ["--store", lab.store()]), *options]


def refused_protect(
    lab: Lab, exit_code: int, primary: str, recovery: str, *options: object, read: bool = True
) -> str:
    """A ``protect`` that is refused leaves all as it was; returns the sentence."""
    words = protect_words(lab, primary, recovery, *options)
    devices = list(dict.fromkeys([primary, recovery])) if read else []
    for _ in range(2):  # what a loop device on a file system was given is only now given to that
        run("sync")
    before = world(lab, *devices)
    sentence = refused(exit_code, *words)
    assert world(lab, *devices) == before
    return sentence


def noise(device: str, count: int = 4) -> None:
    run("dd", "if=/dev/urandom", f"of={device}", "bs=1M", f"count={count}", "oflag=direct")


# the recovery volume


def test_recovery_volume_one_sector_short(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(SMALLEST_RECOVERY - 512)
    noise(primary)
    sentence = refused_protect(lab, ExitCode.TOO_SMALL, primary, recovery)
    assert "512 bytes are missing" in sentence
    assert recovery in sentence


def test_recovery_volume_of_half_the_size(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(SIZE // 2)
    sentence = refused_protect(lab, ExitCode.TOO_SMALL, primary, recovery)
    assert f"{SMALLEST_RECOVERY - SIZE // 2} bytes are missing" in sentence


def test_recovery_volume_exactly_large_enough(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(SMALLEST_RECOVERY)
    noise(primary)
    name = lab.protect(primary, recovery)
    assert sha256(recovery, SIZE) == sha256(primary)
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=2", "oflag=direct")
    dmsnap("sync", name, "--audit", "full")
    assert dmsnap("inspect", "label", recovery)["history"]
    # More than the history can take back: refused, and the replica stays as it was.
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=16", "oflag=direct")
    before = world(lab, primary, recovery)
    refused(ExitCode.NO_SPACE, "sync", name, "--cow-percent", "110")
    after = world(lab, primary)
    before.contents.pop(recovery)
    assert after == before
    assert dmsnap("inspect", "label", recovery)["state"] == "consistent"
    dmsnap("unprotect", name)
    assert sha256(primary) != sha256(recovery, SIZE)


def test_recovery_volume_is_the_primary(lab: Lab) -> None:
    primary = lab.disk(SIZE)
    sentence = refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, primary)
    assert "its own recovery volume" in sentence


def test_recovery_volume_is_mounted(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(recovery)
    sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery, "--overwrite")
    assert f"mounted on {mount_point}" in sentence


def test_recovery_volume_is_held_by_dm(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dmsetup", "create", "other", "--table", f"0 2048 linear {recovery} 0")
    try:
        assert "(other)" in refused_protect(lab, ExitCode.BUSY, primary, recovery)
    finally:
        run("dmsetup", "remove", "other")


def test_recovery_volume_is_swap_space(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("mkswap", recovery)
    assert "swap" in refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, recovery)
    run("swapon", recovery)
    try:
        sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery, "--overwrite", read=False)
        assert "swap space" in sentence
    finally:
        run("swapoff", recovery)


def test_recovery_volume_is_opened_exclusively(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    descriptor = os.open(recovery, os.O_RDWR | os.O_EXCL)
    try:
        sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery)
        assert f"pid {os.getpid()}" in sentence
    finally:
        os.close(descriptor)


def test_recovery_volume_is_read_only(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("blockdev", "--setro", recovery)
    sentence = refused_protect(lab, ExitCode.READ_ONLY, primary, recovery)
    run("blockdev", "--setrw", recovery)
    assert recovery in sentence


@pytest.mark.parametrize("content", ["ext4", "xfs", "partitions"])
def test_recovery_volume_with_foreign_data(lab: Lab, content: str) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(400 * MIB)
    noise(primary)
    if content == "partitions":
        subprocess.run(["sfdisk", "-q", recovery], input=b"2048,4096,L\n", check=True)
    else:
        run(f"mkfs.{content}", "-q", "-L", "precious", recovery)
    sentence = refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, recovery)
    assert ("precious" in sentence) is (content != "partitions")
    name = lab.protect(primary, recovery, "--overwrite")
    assert sha256(recovery, SIZE) == sha256(primary)
    dmsnap("unprotect", name, "--forget")


def test_devices_of_a_protected_volume(lab: Lab) -> None:
    """Already protected, in every role that a device can have."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    other, large = lab.disk(SIZE), lab.disk(RECOVERY_SIZE * 2)
    name = lab.protect(primary, recovery)
    front, origin = f"/dev/mapper/{name}", f"/dev/mapper/dmsnap-{name}-origin-1"
    known = ExitCode.ALREADY_PROTECTED
    assert name in refused_protect(lab, known, primary, large)
    assert name in refused_protect(lab, known, recovery, large)
    assert name in refused_protect(lab, known, front, large)
    assert name in refused_protect(lab, known, origin, large)
    assert name in refused_protect(lab, known, other, primary, "--overwrite")
    before = world(lab, primary, recovery)
    words = ["protect", other, "--name", name, "--recovery", large, "--store", lab.store()]
    assert name in refused(known, *words)
    assert world(lab, primary, recovery) == before
    # Another volume's replica, and the front of one, are no recovery volumes for anybody.
    assert name in refused_protect(lab, known, other, recovery, "--overwrite")
    assert name in refused_protect(lab, known, lab.disk(SIZE // 2), front, "--overwrite")


def test_another_loop_device_of_a_protected_volumes_file(lab: Lab) -> None:
    """To the kernel they are two devices: nobody holds the other one."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    other, large = lab.disk(SIZE // 4), lab.disk(RECOVERY_SIZE * 2)
    name = lab.protect(primary, recovery)
    files = {f"/dev/{loop}": file for file, loop in loop_files().items()}
    known = ExitCode.ALREADY_PROTECTED
    for part in (primary, recovery):
        twin = run("losetup", "--find", "--show", files[part]).strip()
        try:
            assert name in refused_protect(lab, known, twin, large)
            assert name in refused_protect(lab, known, other, twin, "--overwrite")
            (point,) = dmsnap("point", "create", name)
            assert name in refused(
                known, "point", "copy", point["id"], "--onto", twin, "--overwrite"
            )
            dmsnap("point", "delete", point["id"])
        finally:
            run("losetup", "-d", twin)
    dmsnap("verify", name, "--full")


def test_the_disk_of_a_partition_that_is_protected(lab: Lab) -> None:
    """Before its stack is built nobody holds it."""
    disk, recovery, other = lab.disk(4 * SIZE), lab.disk(RECOVERY_SIZE), lab.disk(SIZE)
    run("sh", "-c", f"echo 'start=2048, size={SIZE // 512}, type=83' | sfdisk -q {disk}")
    run("partx", "--add", disk)
    name = lab.protect(f"{disk}p1", recovery)
    for device in dm_devices():
        run("dmsetup", "remove", device)
    known = ExitCode.ALREADY_PROTECTED
    sentence = refused_protect(lab, known, other, disk, "--overwrite")
    assert name in sentence
    assert disk in sentence
    dmsnap("unprotect", name)
    run("partx", "--delete", disk)


def test_recovery_volume_of_another_volume(lab: Lab) -> None:
    primary, recovery, other = lab.disk(SIZE), lab.disk(RECOVERY_SIZE), lab.disk(SIZE)
    noise(primary)
    name = lab.protect(primary, recovery)
    dmsnap("unprotect", name)
    sentence = refused_protect(lab, ExitCode.FOREIGN_DEVICE, other, recovery)
    assert name in sentence
    assert sha256(recovery, SIZE) == sha256(primary)
    # As a primary neither: it is a replica that somebody may need.
    refused_protect(lab, ExitCode.FOREIGN_DEVICE, recovery, lab.disk(RECOVERY_SIZE * 2))
    lab.protect(other, recovery, "--overwrite")
    assert sha256(recovery, SIZE) == sha256(other)


def test_recovery_volume_whose_file_system_uuid_differs(lab: Lab) -> None:
    """The name and the size are the same, but the volume was formatted anew."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("mkfs.ext4", "-q", "-F", primary)
    words = ["protect", primary, "--name", "again", "--recovery", recovery, "--store", lab.store()]
    dmsnap(*words)
    dmsnap("unprotect", "again")
    run("mkfs.ext4", "-q", "-F", primary)
    before = world(lab, primary, recovery)
    refused(ExitCode.FOREIGN_DEVICE, *words)
    assert world(lab, primary, recovery) == before


def test_recovery_volume_exchanged_under_a_protected_volume(lab: Lab) -> None:
    """The path leads to the label of another volume: identity is by UUID."""
    volumes = []
    for _ in range(2):
        primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
        noise(primary)
        volumes.append((lab.protect(primary, recovery), primary, recovery))
    (first, primary, recovery), (_, _, other) = volumes
    offset = RECOVERY_SIZE - LABEL_BYTES
    saved = lab.directory / "label"
    run("dd", f"if={recovery}", f"of={saved}", "bs=4096", f"skip={offset // 4096}")
    run("dd", f"if={other}", f"of={recovery}", "bs=4096", f"skip={offset // 4096}",
        f"seek={offset // 4096}", "count=2", "oflag=direct")  # fmt: skip
    before = world(lab, primary, recovery)
    refused(ExitCode.FOREIGN_DEVICE, "sync", first)
    refused(ExitCode.FOREIGN_DEVICE, "swap", first, "--trial")
    assert world(lab, primary, recovery) == before
    status = dmsnap("status", first, expected=ExitCode.UNHEALTHY)
    assert status[0]["problems"]
    run("dd", f"if={saved}", f"of={recovery}", "bs=4096", f"seek={offset // 4096}", "oflag=direct")
    dmsnap("sync", first)


# the primary


def test_primary_is_read_only(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("blockdev", "--setro", primary)
    sentence = refused_protect(lab, ExitCode.READ_ONLY, primary, recovery)
    run("blockdev", "--setrw", primary)
    assert primary in sentence


@pytest.mark.parametrize("size_bytes", [512, 60 * 1024])
def test_primary_smaller_than_a_block_of_dm_era(lab: Lab, size_bytes: int) -> None:
    """One sector, or less than a block: a volume like any other, which ends within the first."""
    primary, recovery = lab.disk(size_bytes), lab.disk(RECOVERY_SIZE)

    def fill(device: str) -> str:
        run("dd", "if=/dev/urandom", f"of={device}", "bs=512", f"count={size_bytes // 512}",
            "oflag=direct")  # fmt: skip
        return sha256(device)

    first = fill(primary)
    name = lab.protect(primary, recovery)
    assert sha256(recovery, size_bytes) == first
    second = fill(f"/dev/mapper/{name}")
    assert dmsnap("sync", name, "--audit", "full")["bytes_written"] == size_bytes
    assert sha256(recovery, size_bytes) == second
    dmsnap("swap", name, "--to", dmsnap("point", "list", name)[0]["id"], "--trial")
    assert sha256(f"/dev/mapper/{name}") == first
    fill(f"/dev/mapper/{name}")
    dmsnap("swap", "revert", name)
    dmsnap("unprotect", name)
    assert sha256(primary) == sha256(recovery, size_bytes) == second


def test_primary_is_an_lvm_physical_volume(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    administrator("pvcreate", "-qq", primary)
    sentence = refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, recovery)
    assert "LVM physical volume" in sentence


def test_primary_is_swap_space(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("mkswap", primary)
    assert "swap" in refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, recovery)
    run("swapon", primary)
    try:
        refused_protect(lab, ExitCode.BUSY, primary, recovery, read=False)
    finally:
        run("swapoff", primary)


def test_primary_is_an_md_member(lab: Lab) -> None:
    """Version 1.0 of the superblock, written by hand: the lab has no mdadm."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    with open(primary, "r+b") as device:
        device.seek(4096)
        device.write(md_superblock())
    found = run("blkid", "-p", "-o", "value", "-s", "TYPE", primary).strip()
    assert found == "linux_raid_member"
    sentence = refused_protect(lab, ExitCode.FOREIGN_DEVICE, primary, recovery)
    assert "MD array" in sentence


def md_superblock() -> bytes:
    """Version 1.2, at 4096 (include/uapi/linux/raid/md_p.h), with its checksum."""
    block = bytearray(256)
    block[0:4] = (0xA92B4EFC).to_bytes(4, "little")
    block[4:8] = (1).to_bytes(4, "little")
    block[16:32] = bytes(range(16))
    block[32:36] = b"host"
    block[144:152] = (8).to_bytes(8, "little")  # super_offset, in sectors
    words = [int.from_bytes(block[at : at + 4], "little") for at in range(0, 256, 4)]
    total = sum(words)
    checksum = ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF
    block[216:220] = checksum.to_bytes(4, "little")
    return bytes(block)


def test_primary_is_mounted_in_another_namespace(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    make_file_system(primary)
    place = lab.directory / "elsewhere"
    place.mkdir()
    script = f"mount {primary} {place} && echo mounted && exec sleep 600"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "mounted\n"
            sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery)
            assert primary in sentence
        finally:
            holder.kill()


def test_primary_is_mounted_here_and_in_another_namespace(lab: Lab) -> None:
    """Unmounting here succeeds, and then the device is still in use: all is put back."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime")
    (mount_point / "file").write_text("kept")
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         "echo ready; exec sleep 600"],
        stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery, read=False)
            assert primary in sentence
        finally:
            holder.kill()
    assert (mount_point / "file").read_text() == "kept"


def test_primary_whose_mount_is_busy(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime,nodev")
    with configured("unmount_wait_seconds = 0.5"), (mount_point / "log").open("w"):
        sentence = refused_protect(lab, ExitCode.BUSY, primary, recovery, read=False)
    assert f"pid {os.getpid()}" in sentence
    assert f"open file {mount_point}/log" in sentence


@pytest.mark.parametrize("what", ["file", "directory", "nothing"])
def test_what_is_no_block_device(lab: Lab, what: str) -> None:
    device = lab.disk(RECOVERY_SIZE)
    path = lab.directory / "thing"
    if what == "file":
        path.write_bytes(bytes(4096))
    elif what == "directory":
        path.mkdir()
    for words in ((str(path), device), (device, str(path))):
        sentence = refused_protect(lab, ExitCode.NOT_FOUND, *words, read=False)
        assert str(path) in sentence


# sector sizes


@pytest.mark.parametrize(
    ("fs_type", "options", "size"),
    [
        ("xfs", ("-s", "size=512"), 320 * MIB),
        ("ext4", ("-b", "1024"), SIZE),
        ("", (), SIZE),
    ],
)
def test_large_sectors_under_small_blocks(
    lab: Lab, fs_type: str, options: tuple[str, ...], size: int
) -> None:
    primary = lab.disk(size)
    recovery = lab.disk(size * 2, sector_bytes=4096)
    if fs_type:
        run(f"mkfs.{fs_type}", "-q", *options, primary)
    sentence = refused_protect(lab, ExitCode.BLOCK_SIZE, primary, recovery)
    assert "sectors of 4096 bytes" in sentence


def test_large_sectors_under_a_volume_that_is_none(lab: Lab) -> None:
    """What is on it would go well with them: the last of it is half a sector."""
    primary, recovery = lab.disk(SIZE + 512), lab.disk(2 * SIZE, sector_bytes=4096)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", primary)
    sentence = refused_protect(lab, ExitCode.BLOCK_SIZE, primary, recovery)
    assert "no whole number of them" in sentence


@pytest.mark.parametrize(("fs_type", "size"), [("ext4", 64 * MIB), ("xfs", 320 * MIB)])
def test_large_sectors_end_to_end(lab: Lab, fs_type: str, size: int) -> None:
    """ext4 in 4 KiB blocks and XFS in 4 KiB sectors can be served by either disk."""
    sector = 512 if fs_type == "ext4" else 4096
    primary = lab.disk(size, sector_bytes=sector)
    recovery = lab.disk(size * 2, sector_bytes=4096)
    if fs_type == "ext4":
        run("mkfs.ext4", "-q", "-F", "-b", "4096", primary)
        mount_point = lab.directory / "mnt"
        mount_point.mkdir()
        run("mount", primary, mount_point)
        lab.mounts.append(mount_point)
    else:
        mount_point = lab.mounted(primary, "xfs")
    (mount_point / "file").write_bytes(os.urandom(300_000))
    name = lab.protect(primary, recovery)
    content = os.urandom(123_456)
    (mount_point / "file").write_bytes(content)
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    (mount_point / "file").write_bytes(b"spoiled")
    dmsnap("swap", name, "--trial")
    assert (mount_point / "file").read_bytes() == content
    dmsnap("swap", "revert", name)
    assert (mount_point / "file").read_bytes() == b"spoiled"
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)
    assert (mount_point / "file").read_bytes() == content
    dmsnap("unprotect", name)
    assert f"{recovery} {mount_point}" in Path("/proc/mounts").read_text()


# the kernel


@pytest.mark.parametrize("target", ["era", "snapshot"])
def test_missing_kernel_target(lab: Lab, target: str) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    noise(primary)
    setting = Path(f"/etc/modprobe.d/no-{target}.conf")
    setting.parent.mkdir(exist_ok=True)
    subprocess.run(["modprobe", "-r", f"dm-{target}"], check=True)
    setting.write_text(f"install dm-{target} /bin/false\n")
    try:
        sentence = refused_protect(lab, ExitCode.MISSING_TARGET, primary, recovery)
        assert f"'{target}'" in sentence
    finally:
        setting.unlink()
    lab.protect(primary, recovery)


# the store


def test_store_that_does_not_exist(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    for store in (lab.directory / "none", "novg", "no such vg"):
        sentence = refused_protect(lab, ExitCode.NOT_FOUND, primary, recovery, "--store", store)
        assert str(store) in sentence
    file = lab.directory / "file"
    file.write_text("")
    refused_protect(lab, ExitCode.NOT_FOUND, primary, recovery, "--store", file)


def test_store_on_the_volume(lab: Lab) -> None:
    """Directly, through a loop device on it, and through LVM on that."""
    primary, recovery = lab.disk(256 * MIB), lab.disk(512 * MIB)
    mount_point = lab.mounted(primary, options="noatime")
    wrong = ExitCode.STORE_ON_VOLUME
    store = mount_point / "store"
    store.mkdir()
    assert primary in refused_protect(lab, wrong, primary, recovery, "--store", store)

    image = mount_point / "image"
    run("truncate", "-s", 128 * MIB, image)
    inner = run("losetup", "--find", "--show", image).strip()
    inside = lab.mounted(inner, options="noatime")
    run("sync")
    try:
        assert primary in refused_protect(lab, wrong, primary, recovery, "--store", inside)
        run("umount", inside)
        run("wipefs", "-qa", inner)
        group = lab.group(inner)
        assert primary in refused_protect(lab, wrong, primary, recovery, "--store", group)
        administrator("vgremove", "-qq", "-ff", "-y", group)
    finally:
        subprocess.run(["umount", inside], capture_output=True, check=False)
        run("losetup", "-d", inner)


def test_store_on_the_recovery_volume(lab: Lab) -> None:
    """A group on the recovery device: it is in use as soon as the store has a volume on it."""
    primary, recovery = lab.disk(SIZE), lab.disk(256 * MIB)
    group = lab.group(recovery)
    refused_protect(
        lab, ExitCode.STORE_ON_VOLUME, primary, recovery, "--store", group, "--overwrite"
    )


def test_full_store(lab: Lab) -> None:
    """Too small from the start, and too small only for a later point."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    small = lab.mounted(lab.disk(16 * MIB))
    sentence = refused_protect(lab, ExitCode.NO_SPACE, primary, recovery, "--store", small)
    assert str(small) in sentence

    enough = lab.mounted(lab.disk(96 * MIB))
    name = lab.name()
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", enough)
    filler = enough / "filler"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False
    )
    for words in (("point", "create", name), ("sync", name), ("swap", name, "--trial")):
        before = world(lab, primary, recovery), sorted(enough.rglob("*"))
        refused(ExitCode.NO_SPACE, *words)
        assert (world(lab, primary, recovery), sorted(enough.rglob("*"))) == before
    filler.unlink()
    dmsnap("sync", name)
    dmsnap("unprotect", name)
    assert [path.name for path in enough.iterdir()] == ["lost+found"]


def test_full_volume_group(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    group = lab.group(lab.disk(16 * MIB))
    sentence = refused_protect(lab, ExitCode.NO_SPACE, primary, recovery, "--store", group)
    assert group in sentence


# words


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--block-size", "1000"), ("--block-size", "2KiB"), ("--block-size", "96KiB"),
        ("--chunk", "3000"), ("--chunk", "512"), ("--chunk", "2MiB"),
    ],
)  # fmt: skip
def test_wrong_sizes(lab: Lab, option: str, value: str) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    sentence = refused_protect(lab, ExitCode.BLOCK_SIZE, primary, recovery, option, value)
    assert option in sentence


@pytest.mark.parametrize("value", ["", "many", "-4096", "64 hectares"])
def test_sizes_that_are_none(lab: Lab, value: str) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    refused_protect(lab, ExitCode.USAGE, primary, recovery, f"--chunk={value}")


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "two words", "a;reboot", "$(reboot)", "a/b", "../up", "-x", "x" * 65, "commit",
        "revert", "dmsnap-x", "na\nme", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", ".hidden",
    ],
)  # fmt: skip
def test_wrong_names(lab: Lab, name: str) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    before = world(lab)
    words = ["protect", primary, f"--name={name}", "--recovery", recovery, "--store", lab.store()]
    refused(ExitCode.USAGE, *words)
    assert world(lab) == before
    for command in (("status",), ("sync",), ("unprotect",), ("point", "create")):
        refused(ExitCode.USAGE if name == "-x" else ExitCode.NOT_FOUND, *command, name)


def test_longest_name(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = "x" * 64
    run("mkfs.ext4", "-q", "-F", primary)
    words = ["protect", primary, "--name", name, "--recovery", recovery, "--store", lab.store()]
    dmsnap(*words)
    point = dmsnap("sync", name)["point"]
    dmsnap("sync", name)
    dmsnap("point", "mount", point)
    dmsnap("point", "umount", point)
    dmsnap("swap", name, "--to", point, "--trial")
    dmsnap("swap", "revert", name)
    dmsnap("unprotect", name)


def test_name_of_another_dm_device(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    run("dmsetup", "create", "bad", "--table", "0 2048 zero")
    try:
        assert "'bad'" in refused_protect(lab, ExitCode.BUSY, primary, recovery)
    finally:
        run("dmsetup", "remove", "bad")


# metadata


def damaged(lab: Lab, image: bytes, kind: str) -> Path:
    path = lab.directory / f"{kind}.img"
    path.write_bytes(image)
    return path


def inspect_here(path: Path, *words: str) -> int:
    """``inspect`` on hostile bytes: an answer or one sentence, and never anything else."""
    try:
        dmsnap("inspect", *words, path)
    except AssertionError:
        sentence = refused(ExitCode.CORRUPT, "inspect", *words, path)
        assert str(path) in sentence
        return ExitCode.CORRUPT
    return 0


def era_image() -> bytes:
    return gzip.decompress((IMAGES / "era-removed-6.1.img.gz").read_bytes())


def test_era_metadata_truncated(lab: Lab) -> None:
    image = era_image()
    for length in (0, 1, 511, 4095, 4096, 8192, 20480):
        path = damaged(lab, image[:length], f"short-{length}")
        assert inspect_here(path, "era", "--since", "0") == ExitCode.CORRUPT


def test_era_metadata_with_one_bit_turned(lab: Lab) -> None:
    """Every block has a checksum: a bit in one that is read is seen, any other changes nothing."""
    image = era_image()
    good = dmsnap("inspect", "era", "--since", "0", damaged(lab, image, "good"))
    blocks = [at for at in range(0, len(image), 4096) if any(image[at : at + 4096])]
    seen = 0
    for at in blocks:
        spoiled = bytearray(image)
        spoiled[at + 77] ^= 8
        path = damaged(lab, bytes(spoiled), "bit")
        if inspect_here(path, "era", "--since", "0"):
            seen += 1
        else:
            assert dmsnap("inspect", "era", "--since", "0", path) == good
    # The superblock, the writeset tree and what it leads to, the era array.
    assert seen >= 3, (seen, len(blocks))


def crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register


def test_era_metadata_with_a_cycle(lab: Lab) -> None:
    """A btree whose node leads back to itself, with a checksum that is right.

    Each that is read is refused, and for that; any other changes nothing.
    """
    image = bytearray(era_image())
    good = dmsnap("inspect", "era", "--since", "0", damaged(lab, bytes(image), "good"))
    # Those of the writeset tree and of the era array.
    roots = {4096 * int.from_bytes(image[at : at + 8], "little") for at in (200, 208)}
    refused_at = set()
    candidates = [
        at for at in range(4096, len(image), 4096)
        if int.from_bytes(image[at + 8 : at + 16], "little") == at // 4096
        and int.from_bytes(image[at + 4 : at + 8], "little") & 2
    ]  # fmt: skip
    for at in candidates:
        spoiled = bytearray(image)
        node = spoiled[at : at + 4096]
        max_entries = int.from_bytes(node[20:24], "little")
        flags = (int.from_bytes(node[4:8], "little") & ~2) | 1  # an inner node now
        node[4:8] = flags.to_bytes(4, "little")
        node[24:28] = (8).to_bytes(4, "little")
        first_value = 32 + 8 * min(max_entries, 252)
        for entry in range(4):
            where = first_value + 8 * entry
            node[where : where + 8] = (at // 4096).to_bytes(8, "little")
        node[0:4] = (crc32c(bytes(node[4:])) ^ 121107).to_bytes(4, "little")
        spoiled[at : at + 4096] = node
        path = damaged(lab, bytes(spoiled), "cycle")
        started = time.process_time()
        if inspect_here(path, "era", "--since", "0"):
            sentence = refused(ExitCode.CORRUPT, "inspect", "era", "--since", "0", path)
            assert "was reached before" in sentence
            refused_at.add(at)
        else:
            assert dmsnap("inspect", "era", "--since", "0", path) == good
        assert time.process_time() - started < 10
    assert roots <= refused_at


def test_exception_store_damaged(lab: Lab) -> None:
    image = gzip.decompress((IMAGES / "store-4k-6.1.img.gz").read_bytes())
    good = dmsnap("inspect", "store", damaged(lab, image, "good"))
    assert good["exceptions"] > 2
    # Not even the header and the first area of it.
    for length in (0, 3, 15, 511, 4095, 4096, 6000, 8191):
        path = damaged(lab, image[:length], f"short-{length}")
        assert inspect_here(path, "store") == ExitCode.CORRUPT, length

    def with_bytes(at: int, value: int, length: int) -> Path:
        spoiled = bytearray(image)
        spoiled[at : at + length] = value.to_bytes(length, "little")
        return damaged(lab, bytes(spoiled), "spoiled")

    # The magic number, the version, and chunks of what is no power of two.
    for byte, value in ((0, 0), (8, 0), (8, 9), (12, 3), (12, 0), (15, 255)):
        assert inspect_here(with_bytes(byte, value, 1), "store") == ExitCode.CORRUPT, (byte, value)
    # To the kernel everything but 0 is valid.
    assert dmsnap("inspect", "store", with_bytes(4, 2, 1)) == good
    # The first exception: in the header's chunk there can be none, which ends the store ...
    empty = dmsnap("inspect", "store", with_bytes(4096 + 8, 0, 8))
    assert (empty["exceptions"], empty["extents"]) == (0, [])
    # ... on the first metadata area, on the second's data, far beyond the end.
    second = int.from_bytes(image[4096 + 24 : 4096 + 32], "little")
    for new_chunk in (1, second, 2**32, 2**63, 2**64 - 1):
        path = with_bytes(4096 + 8, new_chunk, 8)
        assert inspect_here(path, "store") == ExitCode.CORRUPT, new_chunk
    # What it is an exception for: the same chunk as the second, and one that no device has.
    second = int.from_bytes(image[4096 + 16 : 4096 + 24], "little")
    for old_chunk in (second, 2**51, 2**64 - 1):
        path = with_bytes(4096, old_chunk, 8)
        assert inspect_here(path, "store") == ExitCode.CORRUPT, old_chunk


def test_label_damaged(lab: Lab) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    name = lab.protect(primary, recovery)
    for _ in range(2):
        run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=64k", "count=1", "oflag=direct")
        dmsnap("sync", name)
    good = dmsnap("inspect", "label", recovery)
    image = bytearray(LABEL_BYTES)
    with open(recovery, "rb") as device:
        device.seek(RECOVERY_SIZE - LABEL_BYTES)
        image[:] = device.read(LABEL_BYTES)
    generations = [int.from_bytes(image[at + 16 : at + 24], "little") for at in (0, 4096)]
    assert generations == [good["generation"]] * 2
    newest = 0

    def with_label(label: bytes) -> Path:
        return damaged(lab, bytes(MIB) + label, "label")

    # The replica is larger than this image: no label can be right here.
    assert inspect_here(with_label(bytes(image)), "label") == ExitCode.CORRUPT
    whole = lab.directory / "whole.img"
    run("cp", "--sparse=always", recovery, whole)
    assert dmsnap("inspect", "label", whole) == good
    offset = RECOVERY_SIZE - LABEL_BYTES
    for slots, expected in (((newest,), 0), ((0, 4096), ExitCode.CORRUPT)):
        spoiled = bytearray(image)
        for at in slots:
            spoiled[at + 100] ^= 1
        with whole.open("r+b") as file:
            file.seek(offset)
            file.write(spoiled)
        assert inspect_here(whole, "label") == expected
        if not expected:
            assert dmsnap("inspect", "label", whole) == good | {"twin": "damaged"}
    # A device that lost its end: of the two sectors one is where the other belongs, or neither.
    with whole.open("r+b") as file:
        file.seek(offset)
        file.write(image)
        file.truncate(RECOVERY_SIZE - 4096)
    shorter = dmsnap("inspect", "label", whole)
    assert shorter == good | {"twin": "damaged", "backup": shorter["backup"]}
    with whole.open("r+b") as file:
        file.truncate(RECOVERY_SIZE - LABEL_BYTES)
    assert inspect_here(whole, "label") == ExitCode.CORRUPT
    assert inspect_here(damaged(lab, b"", "empty"), "label") == ExitCode.CORRUPT


def test_torn_label_under_a_protected_volume(lab: Lab) -> None:
    """Both slots gone: nothing is written to a device that is not known to be ours."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    noise(primary)
    name = lab.protect(primary, recovery)
    run("dd", "if=/dev/zero", f"of={recovery}", "bs=4096", "count=2", "oflag=direct",
        f"seek={(RECOVERY_SIZE - LABEL_BYTES) // 4096}")  # fmt: skip
    before = world(lab, primary, recovery)
    for words in (("sync", name), ("swap", name, "--trial")):
        assert recovery in refused(ExitCode.CORRUPT, *words)
        assert world(lab, primary, recovery) == before
    assert dmsnap("status", name, expected=ExitCode.UNHEALTHY)[0]["replica"] is None
    dmsnap("unprotect", name)
    assert sha256(recovery, SIZE) == sha256(primary)


# a COW store that overflows


def test_full_cow_store(lab: Lab) -> None:
    """The point is lost and says so everywhere; the volume and syncing go on."""
    primary, recovery = lab.disk(128 * MIB), lab.disk(256 * MIB)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    (live,) = dmsnap("point", "create", name, "--cow-percent", "1")
    (mount_point / "large").write_bytes(os.urandom(40 * MIB))
    run("sync")

    (shown,) = [point for point in dmsnap("point", "list", name) if point["id"] == live["id"]]
    assert shown["places"] == []
    assert "invalid" in shown["invalid_reason"].lower() or "overflow" in shown["invalid_reason"]
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert any(live["id"] in problem for problem in status["problems"])
    before = world(lab)
    sentence = refused(ExitCode.POINT_INVALID, "point", "mount", live["id"])
    assert live["id"] in sentence
    assert world(lab) == before
    refused(ExitCode.POINT_INVALID, "swap", name, "--to", live["id"])

    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    (mount_point / "file").write_text("two")
    dmsnap("sync", name, "--audit", "full")
    dmsnap("point", "delete", live["id"])
    dmsnap("status", name)
    assert len(dm_devices()) == 2


# the command line itself


def test_words_that_are_none(lab: Lab) -> None:
    for words in (("nonsense",), ("sync",), ("swap", "--to"), ("sync", "x", "--audit=all")):
        refused(ExitCode.USAGE, *words)


def test_without_root(lab: Lab) -> None:
    completed = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dmsnap", "status"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.returncode == ExitCode.NOT_PERMITTED
    assert completed.stderr.startswith("dmsnap: ")
    assert "root" in completed.stderr


def test_recovery_volume_that_became_anothers_meanwhile(lab: Lab) -> None:
    """Between the checks and the first write lie an unmount and a window."""
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    request = ProtectRequest(
        device=Path(primary),
        name="bad",
        wanted=WantedRecovery(recovery),
        store=str(lab.store()),
        block_bytes=64 * 1024,
        chunk_bytes=4096,
    )

    def format_it() -> None:
        run("mkfs.ext4", "-q", recovery)

    before = dm_devices()
    with Session.open() as session:
        plan = Protection(session, request, None).plan()
        position = [step.name for step in plan.steps].index("label")
        another = Step("format", "another formats it", format_it)
        steps = [*plan.steps[:position], another, *plan.steps[position:]]
        with pytest.raises(ForeignDeviceError, match="has changed since it was looked at"):
            journal.run(session.catalogue, replace(plan, steps=steps))
    assert dm_devices() == before
    run("e2fsck", "-fn", recovery)
    assert "bad" not in [status["volume"] for status in dmsnap("status")]
