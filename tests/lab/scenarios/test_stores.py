"""A volume group as the store: every LV carries the tag, and all are gone afterwards."""

import os
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
    refused,
    run,
    sha256,
    world,
)

from dmsnap.errors import ExitCode

SIZE = 64 * MIB


def volumes(group: str) -> dict[str, str]:
    """The tags of every LV of a group, by its name."""
    listing = run("lvs", "--noheadings", "--separator", "|", "-o", "lv_name,lv_tags", group)
    rows = [line.strip().split("|") for line in listing.splitlines()]
    return {row[0]: row[1] for row in rows}


def ours(group: str) -> list[str]:
    found = {name: tags for name, tags in volumes(group).items() if name != "foreign"}
    assert set(found.values()) <= {"dmsnap"}
    assert all(name.startswith("dmsnap-") for name in found)
    return sorted(found)


def test_volume_group(lab: Lab) -> None:
    group = lab.group(lab.disk(256 * MIB), lab.disk(256 * MIB))
    administrator("lvcreate", "-qq", "-y", "-L", "16M", "-n", "foreign", group)
    foreign = f"/dev/{group}/foreign"
    run("dd", "if=/dev/urandom", f"of={foreign}", "bs=1M", "count=16", "oflag=direct")
    untouched = sha256(foreign)

    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    name = lab.name()
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", group)
    assert len(ours(group)) == 1

    (point,) = dmsnap("point", "create", name)
    assert len(ours(group)) == 2
    (mount_point / "file").write_text("two")
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    assert len(ours(group)) == 2
    mounted = dmsnap("point", "mount", point["id"])
    assert len(ours(group)) == 3
    assert run("cat", f"{mounted['mount_point']}/file") == "one"
    dmsnap("point", "umount", point["id"])

    (mount_point / "file").write_text("spoiled")
    dmsnap("swap", name, "--trial")
    assert (mount_point / "file").read_text() == "two"
    assert len(ours(group)) == 4
    dmsnap("swap", "revert", name)
    assert (mount_point / "file").read_text() == "spoiled"
    assert len(ours(group)) == 2
    dmsnap("status", name)
    dmsnap("point", "delete", point["id"])

    dmsnap("swap", name, "--trial")
    (mount_point / "large").write_bytes(os.urandom(4 * MIB))
    dmsnap("swap", "commit", name)
    assert len(ours(group)) == 2  # era metadata of both sides: failback needs what each changed
    assert (mount_point / "file").read_text() == "two"
    dmsnap("unprotect", name)
    assert volumes(group) == {"foreign": ""}
    assert sha256(foreign) == untouched
    assert dm_devices() == []
    run("umount", mount_point)
    run("e2fsck", "-fn", recovery)


def test_protected_logical_volume_with_its_store_in_the_same_group(lab: Lab) -> None:
    """Volume, recovery volume and store are LVs: none of them is taken for another."""
    group = lab.group(lab.disk(512 * MIB))
    for volume, size in (("data", 64), ("replica", 128)):
        administrator("lvcreate", "-qq", "-y", "-L", f"{size}M", "-n", volume, group)
    data, replica = f"/dev/{group}/data", f"/dev/{group}/replica"
    run("dd", "if=/dev/urandom", f"of={data}", "bs=1M", "count=64", "oflag=direct")
    before = sha256(data)
    name = lab.protect(data, replica, "--store", group)
    assert sha256(replica, SIZE) == before
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=2", "oflag=direct")
    dmsnap("sync", name, "--audit", "full")
    dmsnap("unprotect", name)
    assert set(volumes(group)) == {"data", "replica"}
    assert sha256(data) == sha256(replica, SIZE)
    assert sha256(data) != before


@pytest.mark.parametrize("words", [(), ("--boot",)], ids=["by-hand", "at-boot"])
@pytest.mark.parametrize("kind", ["directory", "group"])
def test_a_volume_comes_up_without_its_store(lab: Lab, kind: str, words: tuple[str, ...]) -> None:
    """Its own disk is well: it serves, untracked, until the store is back."""
    primary, recovery, disk = lab.disk(SIZE), lab.disk(2 * SIZE), lab.disk(256 * MIB)
    image = next(file for file, loop in loop_files().items() if f"/dev/{loop}" == disk)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    store = lab.group(disk) if kind == "group" else lab.store()
    name = lab.name()
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", store)
    (point,) = dmsnap("point", "create", name)
    run("umount", mount_point)
    for device in dm_devices():
        run("dmsetup", "remove", device)
    away = Path(f"{lab.directory}/away")
    if kind == "group":
        administrator("vgchange", "-qq", "-an", store)
        run("losetup", "-d", disk)
    else:
        pieces = [loop for file, loop in loop_files().items() if file.startswith(store)]
        run("losetup", "-d", *(f"/dev/{loop}" for loop in pieces))
        Path(store).rename(away)

    with configured("boot_wait_seconds = 0.5"):
        dmsnap("assemble", name, *words)
    if words:
        run("mount", f"/dev/mapper/{name}", mount_point)
    assert (mount_point / "file").read_text() == "one"
    (mount_point / "file").write_text("two")
    assert run("dmsetup", "table", name).split()[2] == "linear"
    assert "leads past dm-era" in str(dmsnap("status", name, expected=24))
    refused(ExitCode.NOT_FOUND, "sync", name)
    refused(ExitCode.NOT_FOUND, "point", "create", name)
    assert dmsnap("point", "show", point["id"])["places"] == []

    if kind == "group":
        run("losetup", "--find", image)
        administrator("vgchange", "-qq", "-ay", store)
    else:
        away.rename(store)
    dmsnap("assemble", name)
    assert run("dmsetup", "table", name).split()[2] == "era"
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "compare"
    (mount_point / "file").write_text("three")
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    dmsnap("status", name)
    dmsnap("unprotect", name, "--forget")
    assert (mount_point / "file").read_text() == "three"
    left = volumes(store) if kind == "group" else os.listdir(store)  # noqa: PTH208
    assert not left, "the store of the point was given back when it could be"


def test_full_volume_group(lab: Lab) -> None:
    """A point that finds no room leaves nothing, and the volume goes on."""
    group = lab.group(lab.disk(64 * MIB))
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    name = lab.protect(primary, recovery, "--store", group)
    administrator("lvcreate", "-qq", "-y", "-l", "100%FREE", "-n", "foreign", group)
    before = volumes(group)
    for words in (("sync", name), ("point", "create", name), ("swap", name, "--trial")):
        assert group in refused(ExitCode.NO_SPACE, *words)
        assert volumes(group) == before
    dmsnap("status", name)
    administrator("lvremove", "-qq", "-y", f"{group}/foreign")
    dmsnap("sync", name)
    dmsnap("unprotect", name)
    assert volumes(group) == {}


def test_default_store_and_relative_directory(lab: Lab) -> None:
    """Without ``--store`` the configured place counts; a path is taken from where one stands."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    name = lab.name()
    words = ["protect", primary, "--name", name, "--recovery", recovery]
    # The guest's root is an overlay over tmpfs, which takes no direct I/O.
    default = Path("/var/lib/dmsnap/store")
    default.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", lab.store(), default)
    lab.mounts.append(default)
    dmsnap(*words)
    assert list(default.glob(f"{name}-era-metadata-*.img"))
    dmsnap("unprotect", name)
    assert list(default.iterdir()) == []
    store = lab.directory / "here"
    store.mkdir()
    run("sh", "-c", f"cd {lab.directory} && dmsnap {' '.join(words)} --store ./here")
    assert list(store.glob(f"{name}-era-metadata-*.img"))
    dmsnap("unprotect", name)
    assert list(store.iterdir()) == []


# where a store must not lie


def refused_store(lab: Lab, primary: str, store: object) -> None:
    """Refused, naming the device; nothing is made, on the volume least of all."""
    words = ("protect", primary, "--name", "bad", "--recovery", lab.disk(512 * MIB))
    before = world(lab)
    sentence = refused(ExitCode.STORE_ON_VOLUME, *words, "--store", store)
    assert primary in sentence
    assert world(lab) == before


def test_store_in_an_overlay_on_the_volume(lab: Lab) -> None:
    """Its st_dev is no device's: what is written goes to the upper directory."""
    primary = lab.disk(256 * MIB)
    mount_point = lab.mounted(primary)
    lower, merged = lab.directory / "lower", lab.directory / "merged"
    for path in (mount_point / "upper", mount_point / "work", lower, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={mount_point / 'upper'},workdir={mount_point / 'work'}"
    run("mount", "-t", "overlay", "-o", options, "overlay", merged)
    lab.mounts.append(merged)
    refused_store(lab, primary, merged)


@pytest.mark.parametrize("subvolume", [False, True])
def test_store_in_a_btrfs_on_the_volume(lab: Lab, subvolume: bool) -> None:
    """A subvolume has a device number of its own, which is not in mountinfo either."""
    primary = lab.disk(256 * MIB)
    run("mkfs.btrfs", "-q", "-f", primary)
    mount_point = lab.directory / "btrfs"
    mount_point.mkdir()
    run("mount", primary, mount_point)
    lab.mounts.append(mount_point)
    store = mount_point / "store"
    if subvolume:
        run("btrfs", "subvolume", "create", store)
    else:
        store.mkdir()
    refused_store(lab, primary, store)


def test_store_in_a_btrfs_that_is_full(lab: Lab) -> None:
    """What was allocated is written to in place: the volume goes on, whatever fills the store."""
    mount_point = lab.mounted(lab.disk(256 * MIB), "btrfs")
    store = mount_point / "store"
    store.mkdir()
    name = lab.name()
    disks = (lab.disk(SIZE), "--recovery", lab.disk(2 * SIZE))
    dmsnap("protect", *disks, "--name", name, "--store", store)
    (metadata,) = store.iterdir()
    assert "C" in run("lsattr", metadata).split()[0]
    full = ("dd", "if=/dev/urandom", f"of={mount_point}/filler", "bs=1M", "oflag=direct")
    run(*full, expected=1)  # until there is no space left
    for block in range(0, SIZE // MIB, 4):
        at = ("bs=4k", "count=1", f"seek={block * 256}", "oflag=direct", "conv=fsync")
        run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", *at)
    assert "no room" in refused(ExitCode.NO_SPACE, "sync", name)
    (mount_point / "filler").unlink()
    run("sync", "-f", mount_point)
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    dmsnap("unprotect", name, "--forget")


def test_store_in_a_btrfs_of_which_one_device_lies_on_the_volume(lab: Lab) -> None:
    """The mount names one device only, and it is the other one."""
    primary = lab.disk(384 * MIB)
    image = lab.mounted(primary) / "image"
    run("truncate", "-s", 256 * MIB, image)
    inner = run("losetup", "--find", "--show", image).strip()
    outer = lab.disk(256 * MIB)
    run("mkfs.btrfs", "-q", "-f", "-d", "single", outer, inner)
    mount_point = lab.directory / "btrfs"
    mount_point.mkdir()
    run("mount", "-o", f"device={inner}", outer, mount_point)
    try:
        refused_store(lab, primary, mount_point)
    finally:
        run("umount", mount_point)
        run("losetup", "-d", inner)


def test_recovery_volume_on_the_volume(lab: Lab) -> None:
    """A file on the volume that is to be protected is no other disk, whatever its size."""
    primary = lab.disk(128 * MIB)
    image = lab.mounted(primary) / "image"
    run("truncate", "-s", 256 * MIB, image)
    recovery = run("losetup", "--find", "--show", image).strip()
    words = ("protect", primary, "--name", "bad", "--recovery", recovery, "--store", lab.store())
    try:
        before = world(lab)
        sentence = refused(ExitCode.FOREIGN_DEVICE, *words)
        assert f"{recovery} lies on {primary}" in sentence
        assert world(lab) == before
    finally:
        run("losetup", "-d", recovery)


def test_a_group_of_large_sectors_under_small_blocks(lab: Lab) -> None:
    """An overlay or a point on it would have its sectors, which the file system could not use."""
    primary, recovery = lab.disk(320 * MIB), lab.disk(640 * MIB)
    run("mkfs.xfs", "-q", primary)
    group = lab.group(lab.disk(256 * MIB, sector_bytes=4096))
    words = ("protect", primary, "--name", lab.name(), "--recovery", recovery, "--store", group)
    before = world(lab)
    assert group in refused(ExitCode.BLOCK_SIZE, *words)
    assert world(lab) == before

    run("mkfs.xfs", "-q", "-f", "-s", "size=4096", primary)
    name = dmsnap(*words)["volume"]
    (point,) = dmsnap("point", "create", name)
    for at in (point["id"], dmsnap("inspect", "label", recovery)["point_uuid"]):
        dmsnap("point", "mount", at)
        dmsnap("point", "umount", at)
