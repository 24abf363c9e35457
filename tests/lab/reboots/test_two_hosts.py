"""Two hosts: one's recovery volume is the other's disk, and serves when the one is destroyed."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness.cable import Plug, cable
from harness.computer import Computer, computer

MIB = 1 << 20
SIZE = 96 * MIB
MEMORY_MIB = 1024
A, B = "10.77.0.1", "10.77.0.2"
INITIATOR = "iqn.2026-01.org.example.lab:a"
STORE = "/scratch/store"
ACL = f"/sys/kernel/config/target/iscsi/*/tpgt_1/acls/{INITIATOR}"

Export = dict[str, Any]


def start(guest: Computer, address: str) -> None:
    """Switch it on, with its address and what both sides of iSCSI need."""
    guest.boot()
    guest.shell(f"""
        modprobe -a loop dm-mod iscsi_tcp sd_mod
        ip address add {address}/24 dev vec0
        ip link set vec0 up
        mkdir -p {STORE} /run/lock/iscsi
    """)


def log_in(guest: Computer, export: Export) -> str:
    """Log in by hand, as an administrator would; returns the disk."""
    guest.shell(f"""
        echo InitiatorName={INITIATOR} >/etc/iscsi/initiatorname.iscsi
        iscsid >/dev/null 2>&1
        iscsiadm -m discovery -t sendtargets -p {export["portal"]}
        iscsiadm -m node -T {export["target"]} -p {export["portal"]} --login
        until blockdev --getsize64 /dev/sda >/dev/null 2>&1; do sleep 0.1; done
    """)
    return "/dev/sda"


def export(guest: Computer) -> Export:
    words = ("--portal", B, "--initiator", INITIATOR)
    found: Export = guest.dmsnap("export", guest.device("spare"), *words)
    return found


def digests(guest: Computer) -> str:
    return guest.shell("cd /data && find . -type f | sort | xargs sha256sum")


@pytest.fixture(scope="module")
def plugs() -> Iterator[tuple[Plug, Plug]]:
    with cable() as both:
        yield both


@pytest.fixture(scope="module")
def keeper(plugs: tuple[Plug, Plug]) -> Iterator[Computer]:
    """Host B, which has a disk to spare."""
    disks = {"spare": 4 * SIZE}
    with computer(disks, init="minimal", memory_mib=MEMORY_MIB, plug=plugs[1]) as made:
        start(made, B)
        yield made


def test_a_host_is_destroyed_and_the_other_has_its_volume(
    plugs: tuple[Plug, Plug], keeper: Computer
) -> None:
    disks = {"data": SIZE}
    spare = keeper.device("spare")
    with computer(disks, init="minimal", memory_mib=MEMORY_MIB, plug=plugs[0]) as lost:
        start(lost, A)
        recovery = log_in(lost, export(keeper))
        # A keeper that is slow has not noticed yet that its initiator is dead.
        keeper.shell(f"for limit in {ACL}/attrib/nopin_*timeout; do echo 60 >$limit; done")
        lost.shell(f"""
            mkfs.ext4 -q {lost.device("data")}
            mkdir /data && mount {lost.device("data")} /data
            for i in $(seq 20); do head -c 300000 /dev/urandom >/data/file-$i; done
        """)
        name = ("--name", "data", "--recovery", recovery, "--store", STORE)
        lost.dmsnap("protect", lost.device("data"), *name)
        lost.shell("head -c 3M /dev/urandom >/data/file-3; rm /data/file-4; sync")
        synced = lost.dmsnap("sync", "data", "--audit", "full")
        assert synced["tracker"] == "era"
        kept = digests(lost)
        lost.shell("head -c 1M /dev/urandom >/data/too-late; sync")
        lost.pull_plug()
    # Its disks are gone with it. B's target does not know yet.
    (listed,) = keeper.dmsnap("export", "list")
    assert listed["sessions"] == [INITIATOR]
    keeper.dmsnap("unexport", spare, expected=6)
    keeper.dmsnap("unexport", spare, "--force")

    label = keeper.dmsnap("inspect", "label", spare)
    assert (label["name"], label["state"], label["point_uuid"]) == (
        "data",
        "consistent",
        synced["point"],
    )
    keeper.shell(f"mkdir /data && mount -o ro {spare} /data")
    assert digests(keeper) == kept
    keeper.shell("umount /data")
    give_back(plugs[0], keeper, kept)


def give_back(plug: Plug, keeper: Computer, kept: str) -> None:
    """A new host in A's place: it reads from the LUN at once, and is made whole from it."""
    with computer({"data": SIZE}, init="minimal", memory_mib=MEMORY_MIB, plug=plug) as new:
        start(new, A)
        recovery = log_in(new, export(keeper))
        device = new.device("data")
        new.shell(f"mkdir /data && mount -o ro {recovery} /data")
        assert digests(new) == kept
        new.shell(f"""
            umount /data
            dd if={recovery} of={device} bs=1M count={SIZE // MIB} oflag=direct status=none
            mount {device} /data
        """)
        words = ("--name", "data", "--recovery", recovery, "--store", STORE)
        new.dmsnap("protect", device, *words)
        assert digests(new) == kept
        new.shell("echo again >/data/new; sync")
        assert new.dmsnap("sync", "data", "--audit", "full")["tracker"] == "era"
        assert len(new.dmsnap("point", "list", "data")) >= 3
        new.shell("umount /data")
        new.dmsnap("unprotect", "data")
        new.shell("iscsiadm -m node --logout")
    keeper.shell(f"until grep -q '^No active' {ACL}/info; do sleep 0.1; done")
    keeper.dmsnap("unexport", keeper.device("spare"))
    keeper.shell(f"mount -o ro {keeper.device('spare')} /data; grep again /data/new; umount /data")
