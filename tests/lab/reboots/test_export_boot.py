"""What is exported is published again at boot, as the same disk."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness.computer import Computer, computer

MIB = 1 << 20
SIZE = 64 * MIB
INITIATOR = "iqn.2026-01.org.example.lab:here"
PORTAL = "127.0.0.1:3260"
TO = ("--portal", PORTAL, "--initiator", INITIATOR)
DISK = "/dev/disk/by-path/ip-{portal}-iscsi-{target}-lun-{lun}"
WISH = "/etc/systemd/system/multi-user.target.d/dmsnap-exports.conf"


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    disks = {"store": 256 * MIB, "data": SIZE, "recovery": 4 * SIZE, "spare": SIZE}
    with computer(disks) as made:
        made.boot()
        made.shell(f"""
            mkfs.ext4 -q -L STORE {made.device("store")}
            mkdir -p /srv/store
            echo "LABEL=STORE /srv/store ext4 defaults 0 2" >>/etc/fstab
            mount /srv/store
            for disk in {made.device("data")} {made.device("spare")}; do
                dd if=/dev/urandom of=$disk bs=1M count={SIZE // MIB} status=none
            done
            echo InitiatorName={INITIATOR} >/etc/iscsi/initiatorname.iscsi
            sync  # the plug is pulled later, and without its name iscsid ends
        """)
        made.dmsnap(
            "protect", made.device("data"), "--name", "data", "--recovery",
            made.device("recovery"), "--store", "/srv/store",
        )  # fmt: skip
        yield made


def shown(guest: Computer, export: dict[str, Any]) -> tuple[str, str]:
    """The digest of a LUN as an initiator reads it, and the links that name it by its WWN."""
    disk = DISK.format(**export)
    node = f"iscsiadm -m node -T {export['target']} -p {PORTAL}"
    try:
        # What a pulled plug left of open-iscsi's records is none of this test's.
        digest = guest.shell(f"""
            rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/* /var/lib/iscsi/nodes/*
            iscsiadm -m discovery -t sendtargets -p {PORTAL} >/dev/null
            {node} --login >/dev/null
            timeout 200 sh -c 'until [ -b {disk} ]; do sleep 0.1; done'
            udevadm settle
            sha256sum <{disk}
        """)
        links = guest.run("udevadm", "info", "--query=symlink", "--name", disk).split()
    finally:
        guest.shell(f"{node} --logout || true")
        # LIO's side of it ends a moment later.
        acls = f"/sys/kernel/config/target/iscsi/{export['target']}/tpgt_1/acls"
        guest.shell(f"while grep -qs ^InitiatorName {acls}/*/info; do sleep 0.1; done")
    return digest, next(link for link in links if link.startswith("disk/by-id/wwn-"))


def start_what_multi_user_wants(guest: Computer) -> None:
    """The lab boots into a target of its own, without what comes with a whole system."""
    wants = guest.run("systemctl", "show", "-p", "Wants", "multi-user.target")
    assert "dmsnap-exports.service" in wants
    guest.shell("systemctl start dmsnap-exports.service || true")


def test_exports_are_there_after_a_boot_and_the_unit_only_while_there_are_any(
    guest: Computer,
) -> None:
    replica = guest.dmsnap("point", "list", "data")[0]["id"]
    (live,) = guest.dmsnap("point", "create", "data")
    exports = [guest.dmsnap("export", what, *TO) for what in ("data", guest.device("spare"))]
    exports.append(guest.dmsnap("export", replica, *TO))
    lost = guest.dmsnap("export", live["id"], *TO)
    before = [shown(guest, export) for export in exports]
    assert len({digest for digest, _ in before}) == 2  # the replica is what the front shows
    assert len({link for _, link in before}) == len(exports)
    guest.run("test", "-e", WISH)

    guest.pull_plug()
    guest.boot()
    start_what_multi_user_wants(guest)
    state = guest.shell("systemctl is-active dmsnap-exports.service || true").strip()
    assert state in ("activating", "failed"), state  # a live point does not survive a boot
    listed = {export["target"]: export for export in guest.dmsnap("export", "list", expected=24)}
    assert "is not exported as LUN 0" in listed[lost["target"]]["problem"]
    guest.dmsnap("unexport", lost["target"])
    guest.shell("systemctl reset-failed; systemctl restart dmsnap-exports.service")
    assert [shown(guest, export) for export in exports] == before
    assert not [export for export in guest.dmsnap("export", "list") if export["problem"]]
    assert guest.dmsnap("status")[0]["problems"] == []

    for export in exports:
        guest.dmsnap("unexport", export["target"])
    guest.run("test", "-e", WISH, expected=1)
    guest.reboot()
    assert "dmsnap" not in guest.run("systemctl", "show", "-p", "Wants", "multi-user.target")
    assert guest.shell("lsmod | grep -c iscsi_target_mod || true") == "0\n"
    guest.dmsnap("unprotect", "data")
