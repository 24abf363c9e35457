"""dm-multipath as the real multipathd makes it, of two sessions to one LUN."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lun_target
import multipath_daemon
import pytest
from conftest import MIB, Lab, dmsnap, label_on, make_file_system, rarely, refused, run, sha256
from far_target import far_away, second_way
from lun_target import LunTarget
from lun_volume import LUN_SIZE, SIZE, OnLun, image_of
from patience import until
from raw_volume import fill, write_direct
from test_lun_faults import before

from dmsnap.errors import ExitCode

ISCSID = Path("/etc/iscsi/iscsid.conf")
# A link that is cut is noticed within two seconds.
NOTICED = """
node.conn[0].timeo.noop_out_interval = 1
node.conn[0].timeo.noop_out_timeout = 1
"""
# Of exports of dmsnap's own.
PORTALS = ("127.0.0.1:3270", "127.0.0.2:3270")

pytestmark = pytest.mark.systemd


@pytest.fixture(scope="module", autouse=True)
def initiator() -> Iterator[None]:
    """An initiator."""
    lun_target.load_modules()
    lun_target.INITIATOR.write_text(f"InitiatorName={lun_target.INITIATOR_NAME}\n")
    text = ISCSID.read_text()
    ISCSID.write_text(text + NOTICED)
    run("systemctl", "restart", "iscsid.service")
    yield
    ISCSID.write_text(text)


@pytest.fixture
def target() -> Iterator[LunTarget]:
    """With a LUN, by the link ``near0``."""
    with far_away() as made:
        yield made


@pytest.fixture
def other(target: LunTarget) -> Iterator[str]:
    """Its portal by the link ``near1``."""
    with second_way(target) as portal:
        yield portal


@pytest.fixture
def by_two() -> Iterator[None]:
    """multipathd, which has every LUN that has two paths."""
    with multipath_daemon.running("yes"):
        yield


@pytest.fixture
def by_one() -> Iterator[None]:
    """multipathd, which has every LUN."""
    with multipath_daemon.running("greedy"):
        yield


def log_in(iqn: str, *portals: str) -> None:
    """As an administrator does."""
    for portal in portals:
        node = ("-m", "node", "-T", iqn, "-p", portal)
        run("iscsiadm", *node, "-o", "new")
        run("iscsiadm", *node, "--login")


def disks() -> list[str]:
    return sorted(path.name for path in Path("/sys/block").glob("sd*"))


def wwids() -> list[str]:
    return [Path("/sys/block", disk, "device/wwid").read_text().strip() for disk in disks()]


def offered() -> dict[str, Any]:
    """What discover has of LUNs, by device."""
    found = {each["device"]: each for each in dmsnap("discover", expected=None)["volumes"]}
    return {name: each for name, each in found.items() if name.startswith(("/dev/sd", "/dev/map"))}


def contents_named(*devices: str) -> list[str]:
    """The links of devices that name what is on them."""
    links = [
        link
        for device in devices
        for link in run("udevadm", "info", "--query=symlink", "--name", device).split()
    ]
    return [link for link in links if link.startswith(("disk/by-uuid/", "disk/by-label/"))]


def set_state(disk: str, state: str) -> None:
    """What the kernel believes of a disk: of one that is offline every request fails."""
    Path("/sys/block", disk, "device/state").write_text(f"{state}\n")


def wait_for_paths(device: str, *wanted: str) -> None:
    until(lambda: multipath_daemon.states(device) == list(wanted), f"the paths are {wanted}")


def test_the_map_alone_is_offered(by_two: None, target: LunTarget, other: str, lab: Lab) -> None:
    log_in(target.iqn, target.portal, other)
    device = multipath_daemon.map_of(2)
    make_file_system(device)
    found = offered()
    assert set(found) == {device}
    assert (found[device]["kind"], found[device]["role"]) == ("dm", "unprotected")
    paths = [f"/dev/{disk}" for disk in disks()]
    words = ("--name", "nobody", "--store", lab.store())
    volume, recovery = lab.disk(SIZE), lab.disk(3 * SIZE)
    for path in paths:
        for wanted in ((path, "--recovery", recovery), (volume, "--recovery", path)):
            sentence = refused(ExitCode.BUSY, "protect", *wanted, *words)
            assert f"{path} is a path of the multipath device {device}" in sentence
    # The map is gone, and multipathd is to have its paths: in any moment it may.
    run("udevadm", "settle")
    run("systemctl", "stop", "multipathd.socket", "multipathd.service")
    run("multipath", "-F")
    assert multipath_daemon.maps() == {}
    assert offered() == {}
    for path in paths:
        sentence = refused(ExitCode.BUSY, "protect", path, "--recovery", recovery, *words)
        assert f"{path} is a path that multipathd is to have" in sentence


@pytest.mark.parametrize("named_by", ["path", rarely("target")])
def test_a_volumes_life_with_a_map(
    named_by: str,
    by_two: None,
    target: LunTarget,
    other: str,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(target.iqn, target.portal, other)
    device = multipath_daemon.map_of(2)
    paths = [f"/dev/{disk}" for disk in disks()]
    primary = lab.disk(SIZE)
    place = lab.mounted(primary)
    name = lab.protect(primary, device if named_by == "path" else target.url(1))
    recorded = dmsnap("catalogue", "show", name)["recovery"]
    wwid = wwids()[0].removeprefix("naa.")
    by_path = f"/dev/disk/by-id/dm-uuid-mpath-3{wwid}"
    assert recorded == (by_path if named_by == "path" else f"{target.url(1)}#naa.{wwid}")
    assert contents_named(*paths, device) == []
    assert offered()[device]["role"] == "recovery"

    (place / "one").write_bytes(os.urandom(8 * MIB))
    with monkeypatch.context() as patch:
        before(patch, "write_new", lambda: run("ip", "link", "set", "near0", "down"))
        dmsnap("sync", name, "--audit", "full")
    assert sorted(multipath_daemon.states(device)) == ["A", "F"]
    (place / "two").write_bytes(os.urandom(MIB))
    dmsnap("sync", name)  # the path by which a target is recorded is the lost one
    (status,) = dmsnap("status", name)
    assert status["problems"] == []
    run("ip", "link", "set", "near0", "up")
    wait_for_paths(device, "A", "A")

    dmsnap("swap", name)
    (place / "three").write_bytes(os.urandom(MIB))
    dmsnap("swap", "commit", name)
    assert contents_named(*paths, device) == []
    found = offered()
    assert set(found) == {device}
    assert (found[device]["role"], found[device]["volume"]) == ("protected", name)
    assert dmsnap("doctor")["ok"]
    last = disks()[-1]
    set_state(last, "offline")
    (place / "four").write_bytes(os.urandom(MIB))
    run("sync", "-f", place)
    (point,) = dmsnap("point", "create", name)
    dmsnap("point", "delete", point["id"])
    set_state(last, "running")
    wait_for_paths(device, "A", "A")
    assert dmsnap("failback", name)["bytes_copied"] < SIZE // 2
    assert sorted(path.name for path in place.iterdir()) == [
        "four", "lost+found", "one", "three", "two",
    ]  # fmt: skip
    run("umount", place)
    dmsnap("sync", name)
    assert sha256(Path("/dev/mapper", name)) == sha256(image_of(target), SIZE)
    dmsnap("unprotect", name, "--forget")
    # Map and sessions are the administrator's.
    assert list(multipath_daemon.maps().values()) == [disks()]
    assert len(disks()) == 2


def test_a_session_ends_though_its_disk_is_in_a_map(
    by_one: None, target: LunTarget, other: str, lab: Lab
) -> None:
    volume = OnLun(lab, target)
    log_in(target.iqn, other)
    volume.dirty()
    volume.sync()  # does not mind that multipathd is about to take the other path
    volume.check_equal()
    multipath_daemon.map_of(2)
    dmsnap("unprotect", volume.name, "--forget")
    (record,) = lun_target.records()
    assert other.partition(":")[0] in record
    assert multipath_daemon.map_of(1)


def test_a_whole_disks_copy_leaves_nothing(by_one: None, target: LunTarget, lab: Lab) -> None:
    """kpartx maps no partitions of it: they would hold the map, past the front."""
    primary = lab.disk(SIZE)
    fill(Path(primary), SIZE)
    subprocess.run(
        ["sfdisk", "--quiet", primary], input="2048,20480\n24576,20480\n", text=True, check=True
    )
    name = lab.protect(primary, target.url(1))
    device = multipath_daemon.map_of(1)
    for _ in range(2):
        write_direct(Path("/dev/mapper", name), os.urandom(65536), 5 * MIB)
        dmsnap("sync", name)
        run("udevadm", "trigger", "--action=change", "--settle", device)
    assert sha256(Path("/dev/mapper", name)) == sha256(image_of(target), SIZE)
    dmsnap("unprotect", name, "--forget")
    until(lambda: disks() == [], "the disk is gone")
    assert multipath_daemon.partitions() == []
    # multipathd may keep a map when its last path has gone; why is not known.
    assert not any(multipath_daemon.maps().values())
    assert lun_target.sessions() == {}
    assert lun_target.records() == []


def test_nothing_is_stale_after_a_lun_swap(by_two: None, lab: Lab) -> None:
    """The target's side is dmsnap's, too."""
    primary, first, second, larger = (lab.disk(SIZE * factor) for factor in (1, 2, 2, 3))
    for disk in (primary, second):
        fill(Path(disk), SIZE)
    to = ("--portal", PORTALS[0], "--initiator", lun_target.INITIATOR_NAME)
    export = dmsnap("export", first, *to)
    iqn = export["target"]
    also = lun_target.ROOT / "iscsi" / iqn / "tpgt_1/np" / PORTALS[1]
    also.mkdir()
    try:
        log_in(iqn, *PORTALS)
        device = multipath_daemon.map_of(2)
        name = lab.protect(primary, f"iscsi://{PORTALS[0]}/{iqn}/{export['lun']}")
        identities, label = wwids(), label_on(first)
        with Path(device).open("rb", buffering=0) as cached:
            assert cached.read(4096) == start_of(primary)
            assert "logged in" in refused(ExitCode.BUSY, "lun", "swap", first, "--to", second)
            dmsnap("lun", "swap", first, "--to", second, "--force")
            assert "no label" in refused(ExitCode.CORRUPT, "sync", name)
            cached.seek(0)
            assert cached.read(4096) == start_of(second)
        dmsnap("lun", "swap", second, "--to", first, "--force")
        write_direct(Path("/dev/mapper", name), os.urandom(65536), 0)
        dmsnap("sync", name, "--audit", "full")
        assert sha256(Path("/dev/mapper", name)) == sha256(first, SIZE)
        assert label_on(first)["generation"] > label["generation"]
        dmsnap("lun", "swap", first, "--to", larger, "--force")
        refused(ExitCode.CORRUPT, "sync", name)
        sizes = {int(Path("/sys/block", disk, "size").read_text()) * 512 for disk in disks()}
        assert sizes == {SIZE * 3}
        assert wwids() == identities
        dmsnap("unprotect", name)
    finally:
        lun_target.end_all_sessions()
        also.rmdir()
        dmsnap("unexport", iqn, "--force")


def start_of(device: str) -> bytes:
    with Path(device).open("rb") as file:
        return file.read(4096)


def test_a_lun_that_became_another_device(
    by_two: None, target: LunTarget, other: str, lab: Lab
) -> None:
    """multipathd goes by what its paths were when they came."""
    log_in(target.iqn, target.portal, other)
    multipath_daemon.map_of(2)
    volume = OnLun(lab, target)
    store, replica = target.stores[1], sha256(volume.image)
    target.unmap(1)
    assert "has no LUN 1" in refused(ExitCode.NOT_FOUND, "sync", volume.name)
    image = lab.directory / "other.img"
    target.add_lun(1, image, LUN_SIZE)
    content = sha256(image)
    first = disks()[0]
    Path("/sys/block", first, "device/rescan").write_text("1\n")
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert f"has paths to other devices: {first}" in status["problems"][0]
    for command in ("sync", "swap"):
        assert "another device answers" in refused(ExitCode.FOREIGN_DEVICE, command, volume.name)
    assert sha256(image) == content
    assert sha256(volume.image) == replica
    spare = target.stores[1]
    target.unmap(1)
    target.map(1, store)
    volume.dirty()
    volume.sync()
    volume.check_equal()
    dmsnap("unprotect", volume.name, "--forget")
    target.stores.update({1: store, 2: spare})


@pytest.mark.exhaustive
def test_a_path_that_a_front_lies_on_is_taken_by_multipathd(
    by_two: None, target: LunTarget, other: str, lab: Lab
) -> None:
    """The kernel lets both have it: dm devices share what they claim."""
    primary = lab.disk(SIZE)
    place = lab.mounted(primary)
    name = lab.protect(primary, target.url(1))
    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    log_in(target.iqn, other)
    device = multipath_daemon.map_of(2)
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert f"dmsnap assemble {name}" in status["problems"][0]
    (place / "file").write_text("written past the map")
    dmsnap("assemble", name)
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert [each for each in status["problems"] if "has no recovery volume" not in each] == []
    set_state(disks()[0], "offline")
    (place / "other").write_text("by the path that is left")
    run("sync", "-f", place)
    set_state(disks()[0], "running")
    wait_for_paths(device, "A", "A")
    dmsnap("failback", name)
    assert (place / "file").read_text() == "written past the map"
    run("umount", place)
    dmsnap("unprotect", name, "--forget")
    (record,) = lun_target.records()
    assert other.partition(":")[0] in record
