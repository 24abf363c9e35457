"""LUNs at boot: as a recovery volume one keeps nothing waiting, under a front it is logged in to.

The target is in the same guest: a unit makes it before the network counts as up.
"""

from collections.abc import Iterator

import pytest
from harness.computer import Computer, computer

from dmsnap.errors import ExitCode

MIB = 1 << 20
IQN = "iqn.2026-11.org.example.lab:boot"
LUN = f"iscsi://127.0.0.1/{IQN}/1"

TARGET = f"""#!/bin/sh
set -e
modprobe -a configfs target_core_mod target_core_iblock iscsi_target_mod iscsi_tcp
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
cd /sys/kernel/config/target
store=core/iblock_0/lun
group=iscsi/{IQN}/tpgt_1
mkdir -p iscsi $store
echo udev_path=@DISK@ >$store/control
echo 0bd1f2a4-6a0e-4a83-9d0c-lab >$store/wwn/vpd_unit_serial
echo 1 >$store/enable
mkdir -p $group
echo 1 >$group/attrib/generate_node_acls
echo 0 >$group/attrib/demo_mode_write_protect
echo 0 >$group/attrib/authentication
mkdir $group/np/127.0.0.1:3260 $group/lun/lun_1
ln -s /sys/kernel/config/target/$store $group/lun/lun_1/store
echo 1 >$group/enable
"""

UNIT = """[Unit]
DefaultDependencies=no
After=local-fs.target
Before=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-target
[Install]
WantedBy=network-online.target lab.target
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    """A volume on /srv, mounted by UUID, and its recovery volume on a LUN."""
    with computer({"srv": 64 * MIB, "lun": 128 * MIB}) as made:
        made.boot()
        script = TARGET.replace("@DISK@", made.device("lun"))
        made.shell(f"""
            cat >/usr/local/sbin/lab-target <<'END'\n{script}\nEND
            chmod 755 /usr/local/sbin/lab-target
            cat >/etc/systemd/system/lab-target.service <<'END'\n{UNIT}\nEND
            mkdir -p /etc/systemd/system/lab.target.d
            printf '[Unit]\\nWants=remote-fs.target\\nAfter=remote-fs.target\\n' \
                >/etc/systemd/system/lab.target.d/remote.conf
            echo InitiatorName=iqn.2026-11.org.example.lab:initiator >/etc/iscsi/initiatorname.iscsi
            systemctl daemon-reload
            systemctl enable --now lab-target
            mkfs.ext4 -q {made.device("srv")}
            udevadm trigger --action=change --settle {made.device("srv")}
            mkdir /srv/here
            mount {made.device("srv")} /srv/here
            echo before >/srv/here/file
        """)
        uuid = made.run("blkid", "-p", "-o", "value", "-s", "UUID", made.device("srv")).strip()
        made.shell(f"echo 'UUID={uuid} /srv/here ext4 noatime 0 2' >>/etc/fstab")
        made.dmsnap("protect", made.device("srv"), "--name", "srv", "--recovery", LUN)
        yield made


def require_mounted(guest: Computer, content: str) -> None:
    state = guest.shell("systemctl is-system-running --wait || systemctl --failed")
    assert state == "running\n", state + guest.run("journalctl", "-b", "-p", "warning")
    assert guest.run("findmnt", "-no", "SOURCE", "-M", "/srv/here").strip() == "/dev/mapper/srv"
    assert guest.run("cat", "/srv/here/file").strip() == content


def sessions(guest: Computer) -> str:
    return guest.shell("cat /sys/class/iscsi_session/*/state 2>/dev/null || true").strip()


def test_a_recovery_lun_that_is_missing_stops_no_boot(guest: Computer) -> None:
    guest.run("systemctl", "disable", "lab-target")
    guest.reboot()
    require_mounted(guest, "before")
    assert sessions(guest) == ""
    guest.dmsnap("sync", "srv", expected=ExitCode.UNREACHABLE)
    guest.run("systemctl", "enable", "--now", "lab-target")
    assert guest.dmsnap("sync", "srv", "--audit", "full")["tracker"] == "compare"
    assert sessions(guest) == "LOGGED_IN"
    guest.run("udevadm", "settle")
    hidden = guest.run("udevadm", "info", "--query=all", "--name", "/dev/sda")
    assert "disk/by-path/ip-127.0.0.1:3260-iscsi-" in hidden
    assert "disk/by-uuid" not in hidden
    assert "SYSTEMD_READY=0" in hidden


def test_a_trial_on_a_lun_is_there_after_a_boot(guest: Computer) -> None:
    lines = guest.run("cat", "/etc/fstab")
    guest.dmsnap("swap", "srv")
    assert "noatime,_netdev,x-dmsnap.lun" in guest.run("cat", "/etc/fstab")
    guest.shell("echo in-trial >/srv/here/file; sync")
    guest.reboot()
    require_mounted(guest, "in-trial")
    assert guest.dmsnap("status", "srv")[0]["state"] == "trial"
    guest.dmsnap("swap", "revert", "srv")
    assert guest.run("cat", "/srv/here/file").strip() == "before"
    assert guest.run("cat", "/etc/fstab") == lines
    guest.reboot()
    require_mounted(guest, "before")


def test_a_volume_that_was_promoted_is_there_after_a_boot(guest: Computer) -> None:
    guest.dmsnap("sync", "srv")
    guest.dmsnap("swap", "srv")
    guest.shell("echo promoted >/srv/here/file; sync")
    guest.dmsnap("swap", "commit", "srv")
    guest.pull_plug()
    guest.boot()
    require_mounted(guest, "promoted")
    assert guest.dmsnap("failback", "srv")["device"] != LUN
    guest.reboot()
    require_mounted(guest, "promoted")
    guest.dmsnap("unprotect", "srv")
    assert sessions(guest) == ""
