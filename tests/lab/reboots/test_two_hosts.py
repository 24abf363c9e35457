"""Two hosts: one's recovery volume is the other's disk, and serves when the one is destroyed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness.cable import Plug, cable
from harness.computer import Computer, computer

from dmsnap.errors import ExitCode

MIB = 1 << 20
SIZE = 32 * MIB
SPARE_SIZE = 64 * MIB
MEMORY_MIB = 1024
A, B = "10.77.0.1", "10.77.0.2"
MACHINE_IDS = {"host-a": "a" * 32, "host-b": "b" * 32, "host-c": "c" * 32}
INITIATOR = "iqn.2026-01.org.example.lab:a"
STORE = "/scratch/store"
LIO = "/sys/kernel/config/target"

Export = dict[str, Any]

# By hand: a disk that both hosts see. As a file, since LIO would claim it as a block device.
SHARED_DISK = f"""
    modprobe -a target_core_file iscsi_target_mod
    cd {LIO}
    mkdir -p iscsi core/fileio_9/shared
    echo fd_dev_name=@DEVICE@,fd_dev_size={SPARE_SIZE} >core/fileio_9/shared/control
    echo @SERIAL@ >core/fileio_9/shared/wwn/vpd_unit_serial
    echo 1 >core/fileio_9/shared/enable
    mkdir -p iscsi/@TARGET@/tpgt_1
    cd iscsi/@TARGET@/tpgt_1
    echo 1 >attrib/generate_node_acls
    echo 0 >attrib/demo_mode_write_protect
    echo 0 >attrib/authentication
    mkdir np/@PORTAL@ lun/lun_0
    ln -s {LIO}/core/fileio_9/shared lun/lun_0/store
    echo 1 >enable
"""
NOT_SHARED = f"""
    cd {LIO}/iscsi/@TARGET@/tpgt_1
    echo 0 >enable
    rm lun/lun_0/store
    rmdir lun/lun_0 np/* ../tpgt_1 && rmdir {LIO}/iscsi/@TARGET@
    rmdir {LIO}/core/fileio_9/shared
"""


def start(guest: Computer, name: str, address: str) -> None:
    """Switch it on, with its name, its address and what both sides of iSCSI need."""
    guest.boot()
    guest.shell(f"""
        hostname {name}
        echo {MACHINE_IDS[name]} >/etc/machine-id
        modprobe -a loop dm-mod iscsi_tcp sd_mod
        ip address add {address}/24 dev vec0
        ip link set vec0 up
        mkdir -p {STORE} /data /run/lock/iscsi
        echo InitiatorName={INITIATOR} >/etc/iscsi/initiatorname.iscsi
        iscsid >/dev/null 2>&1
    """)


def export(guest: Computer, what: str) -> Export:
    found: Export = guest.dmsnap("export", what, "--portal", B, "--initiator", INITIATOR)
    return found


def digests(guest: Computer) -> str:
    return guest.shell("cd /data && find . -type f | sort | xargs sha256sum")


def bytes_of(guest: Computer, device: str) -> str:
    """The digest of what is on the medium, whatever anybody has cached of it."""
    return guest.shell(f"dd if={device} bs=1M iflag=direct status=none | sha256sum")


@pytest.fixture
def plugs() -> Iterator[tuple[Plug, Plug]]:
    with cable() as both:
        yield both


@pytest.fixture
def hosts(plugs: tuple[Plug, Plug]) -> Iterator[tuple[Computer, Computer]]:
    """Host A, which has a volume, and host B, which has a disk to spare; both are up."""
    with (
        computer({"data": SIZE}, init="minimal", memory_mib=MEMORY_MIB, plug=plugs[0]) as a,
        computer({"spare": SPARE_SIZE}, init="minimal", memory_mib=MEMORY_MIB, plug=plugs[1]) as b,
        ThreadPoolExecutor() as both,
    ):
        list(both.map(start, (a, b), ("host-a", "host-b"), (A, B)))
        yield a, b


def test_a_host_is_destroyed_and_the_other_serves_its_volume(
    plugs: tuple[Plug, Plug], hosts: tuple[Computer, Computer]
) -> None:
    lost, keeper = hosts
    lun = export(keeper, keeper.device("spare"))
    kept = protect_on(lost, lun)
    # A target that is slow has not noticed yet that its initiator is dead.
    acl = f"{LIO}/iscsi/{lun['target']}/tpgt_1/acls/{INITIATOR}"
    keeper.shell(f"for limit in {acl}/attrib/nopin_*timeout; do echo 60 >$limit; done")
    lost.pull_plug()
    take_over(keeper, lun, kept)
    come_back(lost, keeper, lun)
    lost.pull_plug()
    keeper.shell(filled_in(NOT_SHARED, keeper, lun))
    keep(keeper, kept)
    serve_anew(plugs[0], keeper, kept)


def protect_on(lost: Computer, lun: Export) -> str:
    """A volume of A with its recovery volume on B's LUN; the digests of what was synced last."""
    lost.shell(f"""
        mkfs.ext4 -q {lost.device("data")}
        mount {lost.device("data")} /data
        for i in $(seq 20); do head -c 300000 /dev/urandom >/data/file-$i; done
    """)
    recovery = f"iscsi://{lun['portal']}/{lun['target']}/{lun['lun']}"
    words = ("--name", "data", "--recovery", recovery, "--store", STORE)
    lost.dmsnap("protect", lost.device("data"), *words)
    lost.shell("head -c 3M /dev/urandom >/data/file-3; rm /data/file-4; sync")
    assert lost.dmsnap("sync", "data")["tracker"] == "era"
    kept = digests(lost)
    lost.shell("echo late >/data/too-late; sync")
    return kept


def take_over(keeper: Computer, lun: Export, kept: str) -> None:
    """A is dead: what it was given is taken back, and its volume comes up on B, by force alone."""
    spare = keeper.device("spare")
    (listed,) = keeper.dmsnap("export", "list")
    assert listed["sessions"] == [INITIATOR]
    keeper.dmsnap("unexport", spare, expected=ExitCode.BUSY)
    keeper.dmsnap("unexport", spare, "--force")

    before = bytes_of(keeper, spare)
    label = keeper.dmsnap("inspect", "label", spare)
    words = ("swap", "--from-label", spare, "--store", STORE)
    sentence = keeper.dmsnap(*words, expected=ExitCode.FOREIGN_DEVICE)["error"]
    assert "on the host host-a" in sentence
    assert f"last sign of life is of {label['lease_time']}" in sentence
    assert bytes_of(keeper, spare) == before
    assert keeper.dmsnap("status") == []

    shown = keeper.dmsnap(*words, "--force")
    assert (shown["volume"], shown["point"]) == ("data", label["point_uuid"])
    assert keeper.dmsnap("inspect", "label", spare)["host"] == "host-b"
    assert digests(keeper) == kept
    keeper.shell("echo 'of B' >/data/of-b; sync")


def come_back(lost: Computer, keeper: Computer, lun: Export) -> None:
    """A was not destroyed after all, and sees the disk: it has its own volume, and no more."""
    spare = keeper.device("spare")
    before = bytes_of(keeper, spare)
    keeper.shell(filled_in(SHARED_DISK, keeper, lun))
    start(lost, "host-a", A)
    lost.dmsnap("assemble", "data")
    for verb in ("sync", "swap"):
        error = lost.dmsnap(verb, "data", expected=ExitCode.FOREIGN_DEVICE)
        assert "on the host host-b" in error["error"]
    (status,) = lost.dmsnap("status", expected=ExitCode.UNHEALTHY)
    assert any("on the host host-b" in problem for problem in status["problems"])
    lost.run("grep", "late", "/data/too-late")
    assert bytes_of(keeper, spare) == before


def filled_in(script: str, keeper: Computer, lun: Export) -> str:
    for word in ("serial", "target", "portal"):
        script = script.replace(f"@{word.upper()}@", lun[word])
    return script.replace("@DEVICE@", keeper.device("spare"))


def keep(keeper: Computer, kept: str) -> None:
    """B serves it for good, from its own disk."""
    assert keeper.dmsnap("swap", "commit", "data")["state"] == "promoted"
    keeper.shell("grep -q 'of B' /data/of-b && rm /data/of-b")
    assert digests(keeper) == kept


def show_point(keeper: Computer, new: Computer, kept: str) -> None:
    """A point of B's volume, mounted there as the manual says, while B writes to the volume."""
    (point,) = keeper.dmsnap("point", "create", "data")
    keeper.shell("cp /data/file-1 /scratch; head -c 300000 /dev/urandom >/data/file-1; sync")
    assert digests(keeper) != kept
    lun = export(keeper, point["id"])
    assert lun["read_only"]
    disk = log_in(new, lun)
    content = bytes_of(new, disk)
    new.run("mount", "-o", "ro,noload", disk, "/data")
    assert digests(new) == kept
    assert "Read-only file system" in new.shell("LC_ALL=C touch /data/of-new 2>&1 || true")
    # Not even one that believes that it may is let write.
    new.shell(f"umount /data; blockdev --setrw {disk}")
    new.run("dd", "if=/dev/urandom", f"of={disk}", "bs=4k", "count=9", "oflag=direct", expected=1)
    assert bytes_of(new, disk) == content
    log_out(new, keeper, lun)
    keeper.dmsnap("unexport", point["id"])
    keeper.dmsnap("point", "delete", point["id"])
    keeper.shell("cp /scratch/file-1 /data; sync")


def log_in(host: Computer, lun: Export) -> str:
    """The disk of the only session there, as soon as it can be read."""
    host.run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", lun["portal"])
    host.run("iscsiadm", "-m", "node", "-T", lun["target"], "-p", lun["portal"], "--login")
    found = f"/sys/class/iscsi_session/session*/device/target*/*:{lun['lun']}/block"
    return host.shell(f"""
        until disk=/dev/$(ls {found} 2>/dev/null) && blockdev --getsize64 $disk >/dev/null 2>&1
        do sleep 0.1; done
        echo $disk
    """).strip()


def log_out(host: Computer, keeper: Computer, lun: Export) -> None:
    """And wait until the target's side has noticed."""
    host.run("iscsiadm", "-m", "node", "-T", lun["target"], "-p", lun["portal"], "--logout")
    acl = f"{LIO}/iscsi/{lun['target']}/tpgt_1/acls/{INITIATOR}"
    keeper.shell(f"until grep -q '^No active' {acl}/info; do sleep 0.1; done")


def serve_anew(plug: Plug, keeper: Computer, kept: str) -> None:
    """A new host in A's place mounts what B serves, and finds what A had written."""
    with computer({}, init="minimal", memory_mib=MEMORY_MIB, plug=plug) as new:
        start(new, "host-c", A)
        show_point(keeper, new, kept)
        keeper.run("umount", "/data")
        lun = export(keeper, "data")
        new.run("mount", log_in(new, lun), "/data")
        assert digests(new) == kept
        new.shell("echo 'of the new one' >/data/of-new; umount /data")
        log_out(new, keeper, lun)
    keeper.dmsnap("unexport", "data")
    keeper.shell("""
        e2fsck -fn /dev/mapper/data
        mount /dev/mapper/data /data
        grep 'of the new one' /data/of-new
    """)
