"""A front over a LUN: trial, commit, the way back; and dm-multipath over its paths."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import initiator
import lun_target
import pytest
from conftest import MIB, Lab, dmsnap, refused, run, sha256
from lost_state import lose_catalogue
from lun_target import LunTarget
from lun_volume import LUN_SIZE, SIZE, OnLun, image_of, serving

from dmsnap.errors import ExitCode

OTHER_PORTAL = "127.0.0.2:3260"


@pytest.fixture(scope="module", autouse=True)
def open_iscsi() -> None:
    lun_target.load_modules()
    lun_target.start_iscsid()


@pytest.fixture
def target() -> Iterator[LunTarget]:
    with serving(LunTarget("127.0.0.1:3260")) as made:
        yield made


def test_a_mounted_volume_is_swapped_onto_a_lun_and_back(target: LunTarget, lab: Lab) -> None:
    primary = lab.disk(SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "first").write_text("1")
    name = lab.protect(primary, target.url(1), "--full")
    dmsnap("swap", name, "--trial")
    (mount_point / "in-trial").write_text("2")
    dmsnap("swap", "revert", name)
    assert sorted(path.name for path in mount_point.iterdir()) == ["first", "lost+found"]
    dmsnap("swap", name)
    (mount_point / "second").write_text("2")
    dmsnap("swap", "commit", name)
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    (problem,) = status["problems"]
    assert problem.startswith(f"{name} has no recovery volume: ")
    assert status["device"].startswith(target.url(1))
    # The LUN is the primary: points are taken on it, and a session that it needs is not ended.
    (mount_point / "third").write_text("3")
    (point,) = dmsnap("point", "create", name)
    dmsnap("point", "mount", point["id"], made(lab, "point"))
    assert (lab.directory / "point" / "third").read_text() == "3"
    dmsnap("point", "umount", point["id"])
    dmsnap("point", "delete", point["id"])
    assert dmsnap("failback", name)["bytes_copied"] < SIZE // 4
    assert (mount_point / "third").read_text() == "3"
    (mount_point / "fourth").write_text("4")
    assert dmsnap("sync", name)["tracker"] == "era"
    run("umount", mount_point)  # writes to the front once more
    dmsnap("sync", name)
    assert sha256(Path("/dev/mapper") / name) == sha256(image_of(target), SIZE)
    dmsnap("unprotect", name, "--forget")
    assert lun_target.sessions() == {}
    assert lun_target.records() == []


def test_a_rebuilt_catalogue_has_the_lun_by_its_target(target: LunTarget, lab: Lab) -> None:
    """By a path nobody would log in to it any more, and the session would be given up."""
    name = lab.protect(lab.disk(SIZE), target.url(1))
    before = dmsnap("catalogue", "show", name)["recovery"]
    lose_catalogue()
    dmsnap("catalogue", "rebuild")
    assert dmsnap("catalogue", "show", name)["recovery"] == before
    run("dd", "if=/dev/urandom", f"of=/dev/mapper/{name}", "bs=1M", "count=1", "oflag=direct")
    dmsnap("sync", name)
    assert sha256(Path("/dev/mapper") / name) == sha256(image_of(target), SIZE)
    dmsnap("unprotect", name, "--forget")
    assert lun_target.sessions() == {}


def made(lab: Lab, name: str) -> Path:
    path = lab.directory / name
    path.mkdir()
    return path


def test_a_lun_that_is_given_back_keeps_its_session(target: LunTarget, lab: Lab) -> None:
    """It is what the user mounts from now on: open-iscsi attaches it at boot."""
    primary = lab.disk(SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "here").write_text("1")
    name = lab.protect(primary, target.url(1))
    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    dmsnap("unprotect", name)
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    (record,) = lun_target.records()
    assert "node.startup = automatic" in Path(record).read_text()
    assert (mount_point / "here").read_text() == "1"
    assert not list(Path("/var/lib/dmsnap/sessions").iterdir())
    run("umount", mount_point)


def test_dm_multipath_is_used_where_it_has_every_path(target: LunTarget, lab: Lab) -> None:
    run("modprobe", "-a", "dm-multipath", "dm-round-robin")
    run("mkdir", target.group / "np" / OTHER_PORTAL)
    volume = OnLun(lab, target)
    for action in (("-o", "new"), ("--login",)):
        run("iscsiadm", "-m", "node", "-T", target.iqn, "-p", OTHER_PORTAL, *action)
    if Path("/run/udev/control").exists():
        run("udevadm", "settle")
    paths = initiator.disks(2)
    numbers = [Path(f"/sys/block/{path}/dev").read_text().strip() for path in paths]
    wwid = Path(f"/sys/block/{paths[0]}/device/wwid").read_text().strip().replace("naa.", "3")

    def multipath(*devices: str) -> None:
        words = " ".join(f"{device} 1" for device in devices)
        table = f"0 {LUN_SIZE // 512} multipath 0 0 1 1 round-robin 0 {len(devices)} 1 {words}"
        run("dmsetup", "create", "mpatha", "--uuid", f"mpath-{wwid}", "--table", table)

    try:
        volume.dirty()
        volume.sync()  # two paths that nobody has claimed: ours is used
        multipath(numbers[0])
        assert "only some of the paths" in refused(ExitCode.BUSY, "sync", volume.name)
        run("dmsetup", "remove", "--retry", "mpatha")
        multipath(*numbers)
        volume.dirty()
        volume.sync("--audit", "full")
        written = Path("/sys/block").glob("dm-*/dm/name")
        (over,) = [path for path in written if path.read_text().strip() == "mpatha"]
        assert int((over.parents[1] / "stat").read_text().split()[6]) * 512 > 65536
        volume.check_equal()
        dmsnap("swap", volume.name)
        dmsnap("swap", "revert", volume.name)
    finally:
        subprocess.run(["dmsetup", "remove", "mpatha"], capture_output=True, check=False)
    dmsnap("unprotect", volume.name)
    # The session of the other portal is not ours.
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    assert len(lun_target.records()) == 1


def test_two_volumes_on_one_target_share_its_session(target: LunTarget, lab: Lab) -> None:
    target.add_lun(2, lab.directory / "second.img", LUN_SIZE)
    first, second = OnLun(lab, target), lab.disk(8 * MIB)
    other = lab.protect(second, target.url(2))
    dmsnap("unprotect", first.name)
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    dmsnap("sync", other)
    dmsnap("unprotect", other)
    assert lun_target.sessions() == {}
    assert lun_target.records() == []
