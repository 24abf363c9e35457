"""With udev: links lead to the front, twins get none, nobody waits for ever."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    administrator,
    dm_devices,
    dmsnap,
    forked,
    loop_files,
    rarely,
    run,
)
from patience import until
from snapshot_origin import ORIGINS
from snapshot_origin import SIZE as SNAPSHOT_SIZE
from test_interrupts import steps_of

DIRECTORY = Path(__file__).resolve().parents[3] / "udev-rules"
RULES = [DIRECTORY / "11-dmsnap.rules", DIRECTORY / "11-dmsnap-snapshots.rules"]
TWINS = [DIRECTORY / "64-2-dmsnap-twins.rules", DIRECTORY / "95-dmsnap-twins.rules"]
INSTALLED = Path("/run/udev/rules.d")
LINKS = ("by-uuid", "by-label")
UNIT = "systemd-udevd.service"  # one that there is for certain; nothing here stops it
SIZE = 64 * MIB
RECOVERY_SIZE = 128 * MIB

pytestmark = pytest.mark.systemd


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """dmsnap's rules, as a package installs them."""
    assert Path("/run/udev/control").exists(), "no udevd: boot the guest with --systemd"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for path in RULES:
        shutil.copy(path, INSTALLED)
    run("udevadm", "control", "--reload")
    before = semaphores()
    yield
    # Whoever is to complete one may be at it still.
    until(lambda: semaphores() == before, "every cookie is given back")
    for path in RULES:
        (INSTALLED / path.name).unlink()
    run("udevadm", "control", "--reload")


def semaphores() -> list[str]:
    """The udev cookies in use (ipcs shows a header and an empty line, too)."""
    rows = run("ipcs", "-s").splitlines()
    return [row for row in rows if row.startswith("0x0d4d")]


def settle() -> None:
    run("udevadm", "settle", "--timeout=60")


def look_again(device: str | Path) -> None:
    """udev hears of what mkfs wrote by a watch, and may not have heard yet."""
    run("udevadm", "trigger", "--action=change", "--settle", Path(device).resolve())


def uuid_of(device: str) -> str:
    return run("blkid", "-p", "-o", "value", "-s", "UUID", device).strip()


def volume(lab: Lab, fs_type: str = "ext4", factor: int = 1) -> tuple[str, str, str, Path, str]:
    primary, recovery = lab.disk(SIZE * factor), lab.disk(RECOVERY_SIZE * factor)
    mount_point, uuid = mounted(lab, primary, fs_type)
    return lab.protect(primary, recovery), primary, recovery, mount_point, uuid


def mounted(lab: Lab, primary: str, fs_type: str = "ext4", *options: str) -> tuple[Path, str]:
    """A file system with a label, whose links udev has made, and its UUID."""
    run(f"mkfs.{fs_type}", "-q", "-L", "LABDATA", primary)
    mount_point = lab.directory / "mnt"
    mount_point.mkdir()
    run("mount", *options, primary, mount_point)
    lab.mounts.append(mount_point)
    look_again(primary)
    uuid = uuid_of(primary)
    assert target("by-uuid", uuid) == Path(primary).resolve()
    return mount_point, uuid


def target(directory: str, name: str) -> Path | None:
    link = Path("/dev/disk", directory, name)
    return link.resolve() if link.exists() else None


def front_of(name: str) -> Path:
    return Path(f"/dev/mapper/{name}").resolve()


def require_links(name: str, uuid: str, moment: str) -> None:
    """Every way of naming the file system leads to the front."""
    settle()
    assert target("by-uuid", uuid) == front_of(name), moment
    assert target("by-label", "LABDATA") == front_of(name), moment
    for device in dm_devices():
        node = Path(f"/dev/mapper/{device}")
        if device == name or not node.exists():
            continue
        links = links_of(node)
        wrong = [link for link in links if any(kind in link for kind in LINKS)]
        assert wrong == [], (moment, device)


def links_of(node: Path) -> list[str]:
    return run("udevadm", "info", "--query=symlink", "--name", node).split()


@pytest.mark.parametrize(("fs_type", "factor"), [("ext4", 1), rarely("xfs", 5)])
def test_links_through_a_volumes_life(lab: Lab, fs_type: str, factor: int) -> None:
    name, primary, _, mount_point, uuid = volume(lab, fs_type, factor)
    (mount_point / "file").write_text("one")
    require_links(name, uuid, "protected")
    assert target_of(f"/dev/dmsnap/{name}") == front_of(name)

    (live,) = dmsnap("point", "create", name)
    require_links(name, uuid, "with a live point")
    dmsnap("sync", name, "--audit", "full")
    (mount_point / "file").write_text("two")
    dmsnap("sync", name)
    require_links(name, uuid, "synced")
    historic = dmsnap("point", "list", name)[0]["id"]
    for point in (live["id"], historic):
        dmsnap("point", "mount", point)
        require_links(name, uuid, "with a mounted point")
        dmsnap("point", "umount", point)

    dmsnap("swap", name, "--to", historic)
    require_links(name, uuid, "in trial")
    # What udev does on its own account: every device is looked at again.
    run("udevadm", "trigger", "--settle", "--action=change", "--subsystem-match=block")
    require_links(name, uuid, "after a trigger")
    run("mount", "-o", "remount", mount_point)
    dmsnap("swap", "revert", name)
    require_links(name, uuid, "reverted")

    dmsnap("swap", name)
    dmsnap("swap", "commit", name, "--drop-points")
    require_links(name, uuid, "committed")
    dmsnap("unprotect", name)
    settle()
    assert dm_devices() == []
    assert uuid_of(primary) == uuid


def target_of(link: str) -> Path | None:
    return Path(link).resolve() if Path(link).exists() else None


def test_unprotect_gives_the_links_back(lab: Lab) -> None:
    """Of an LV. Meanwhile the catalogue has what it was known by: LVM, udev and mount say it."""
    group, recovery = lab.group(lab.disk(SIZE + 16 * MIB)), lab.disk(RECOVERY_SIZE)
    administrator("lvcreate", "-qq", "-y", "-n", "data", "-L", f"{SIZE}b", group)
    primary = f"/dev/mapper/{group}-data"
    mount_point, uuid = mounted(lab, primary, "ext4", "-o", "noatime,commit=17")
    links = {f"/dev/{link}" for link in links_of(Path(primary)) if link.startswith("disk/by-")}
    assert {f"/dev/disk/by-uuid/{uuid}", f"/dev/disk/by-id/dm-name-{group}-data"} <= links
    fields = ("--noheadings", "-o", "lv_uuid,vg_uuid", f"{group}/data")
    lv_uuid, vg_uuid = run("lvs", *fields).split()
    options = run("findmnt", "-no", "OPTIONS", mount_point).strip().split(",")

    name = lab.protect(primary, recovery, "--unit", UNIT)
    shown = dmsnap("catalogue", "show", name)
    known = {(each["kind"], each["value"]) for each in shown["identifiers"]}
    assert {value for kind, value in known if kind == "link"} >= links
    beside = {each for each in known if each[0] != "link"}
    assert beside == {("lv-uuid", lv_uuid), ("vg-uuid", vg_uuid)}
    (mount,) = shown["mounts"]
    assert (mount["mount_point"], mount["fs_type"]) == (str(mount_point), "ext4")
    assert set(mount["options"]) == set(options) > {"noatime", "commit=17"}
    assert (shown["units"], shown["fs_uuid"]) == ([UNIT], uuid)

    dmsnap("unprotect", name)
    settle()
    assert f"{primary} {mount_point}" in Path("/proc/mounts").read_text()
    given_back = (Path(primary).resolve(), Path(recovery).resolve())
    until(lambda: target("by-uuid", uuid) in given_back, "the link leads to one of the two")
    assert not Path(f"/dev/mapper/{name}").exists()
    assert not Path(f"/dev/dmsnap/{name}").exists()


def test_windows_under_udev(lab: Lab) -> None:
    """A cookie that nobody completes would be waited for: for so long that the point is none."""
    name, _, _, mount_point, uuid = volume(lab)
    points = []
    for number in range(4):
        (mount_point / "file").write_text(str(number))
        points += [point["id"] for point in dmsnap("point", "create", name)]
    nodes = [row for row in dm_devices() if "-point-" in row]
    assert len(nodes) == 4
    assert all(Path(f"/dev/mapper/{row}").exists() for row in nodes)
    require_links(name, uuid, "with four points")
    for point in points:
        dmsnap("point", "delete", point)
    assert not any(Path("/dev/mapper").glob("*-point-*"))


def test_udev_that_is_busy(lab: Lab) -> None:
    """Devices that come and go meanwhile hold ours open for a moment: removing waits for udev."""
    name, _, _, mount_point, uuid = volume(lab)
    trigger = subprocess.Popen(
        ["sh", "-c", "while sleep 2; do udevadm trigger --action=change -s block; done"]
    )
    try:
        for number in range(3):
            (mount_point / "file").write_text(str(number))
            dmsnap("sync", name)
        dmsnap("swap", name)
        dmsnap("swap", "revert", name)
    finally:
        trigger.kill()
        trigger.wait()
    require_links(name, uuid, "after all that")
    dmsnap("status", name)


def test_interrupted_under_udev(lab: Lab) -> None:
    """No cookie is left behind by a command that was ended (the fixture counts them)."""
    name, _, _, mount_point, uuid = volume(lab)
    for at in range(steps_of("sync", name)):
        (mount_point / "file").write_bytes(os.urandom(MIB))
        ended = forked("sync", name, at=(at, "begun"), send=(signal.SIGTERM,), after=0.02)
        assert ended.code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), ended
    dmsnap("sync", name, "--audit", "full")
    require_links(name, uuid, "after the interrupts")
    dmsnap("status", name)


@pytest.fixture
def twin_rules() -> Iterator[None]:
    """What hides the devices that carry the same as a front."""
    for path in TWINS:
        shutil.copy(path, INSTALLED)
    run("udevadm", "control", "--reload")
    yield
    for path in TWINS:
        (INSTALLED / path.name).unlink()
    run("udevadm", "control", "--reload")


@pytest.mark.usefixtures("twin_rules")
def test_partitions_below_a_front_are_its_twins(lab: Lab) -> None:
    """Of the volume's own disk, and of the replica, whose table is the same."""
    primary, recovery = (partitioned(lab, size) for size in (SIZE, RECOVERY_SIZE))
    part = f"{primary}p1"
    run("sh", "-c", f"echo 'start=2048, type=83' | sfdisk --quiet {primary}")
    until(lambda: Path(part).exists(), "the partition is there")
    run("mkfs.ext4", "-q", "-L", "LABDATA", part)
    look_again(part)
    uuid = uuid_of(part)
    assert target("by-uuid", uuid) == Path(part)
    name = lab.protect(primary, recovery)
    settle()
    assert (target("by-uuid", uuid), target("by-label", "LABDATA")) == (None, None)
    dmsnap("sync", name)
    # As a boot finds them, which reads the table of either.
    run("partx", "--update", recovery)
    run("udevadm", "trigger", "--settle", "--action=add", "--subsystem-match=block")
    for disk in (primary, recovery):
        told = properties(f"{disk}p1")
        assert told["DMSNAP_TWIN"] == name
        assert (told["SYSTEMD_READY"], told["UDISKS_IGNORE"]) == ("0", "1")
        assert told["ID_FS_TYPE"] == "dmsnap_twin"
    assert target("by-uuid", uuid) is None
    dmsnap("unprotect", name, "--forget")
    settle()
    assert "DMSNAP_TWIN" not in properties(part)
    assert properties(part)["ID_FS_TYPE"] == "ext4"
    assert target("by-uuid", uuid) in (Path(part), Path(f"{recovery}p1"))


def partitioned(lab: Lab, size_bytes: int) -> str:
    """A disk whose partitions the kernel finds."""
    disk = lab.disk(size_bytes)
    image = next(file for file, loop in loop_files().items() if f"/dev/{loop}" == disk)
    run("losetup", "-d", disk)
    until(lambda: image not in loop_files(), f"{disk} is detached")
    lab.loops.remove(disk)
    lab.loops.append(run("losetup", "--find", "--show", "--partscan", image).strip())
    return lab.loops[-1]


def properties(device: str) -> dict[str, str]:
    lines = run("udevadm", "info", "--query=property", "--name", device).splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("kind", ["lvm", "thin"])
def test_snapshots_of_lvm_are_no_twins_to_be_seen(lab: Lab, kind: str) -> None:
    """Not even a thin one that somebody activates."""
    origin = ORIGINS[kind](lab)
    lab.mounted(str(origin.device))
    look_again(origin.device)
    uuid = uuid_of(str(origin.device))
    assert target("by-uuid", uuid) == origin.device.resolve()
    name = dmsnap("snapshot", "create", origin.name)["name"]
    run("lvchange", "-ay", "-K", name, expected=None)
    settle()
    assert Path("/dev", name).exists()
    links = links_of(Path("/dev", name))
    assert [link for link in links if link.startswith("disk/by-uuid")] == []
    assert target("by-uuid", uuid) == origin.device.resolve()
    dmsnap("point", "copy", name, "--onto", lab.disk(SNAPSHOT_SIZE))
    dmsnap("snapshot", "delete", name)
    assert not Path("/dev", name).exists()
