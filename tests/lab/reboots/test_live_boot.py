"""A volume that was protected while it was mounted: by itself until the boot, and after it."""

import json
from collections.abc import Iterator

import pytest
from harness.computer import Computer, computer

MIB = 1 << 20
STORE, NAME, FRONT = "/store", "srv", "/dev/mapper/srv"


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    """An LV that fstab mounts by its path, mounted and protected live."""
    with computer({"store": 256 * MIB, "pv": 128 * MIB, "recovery": 192 * MIB}) as made:
        made.boot()
        made.shell(f"""
            mkfs.ext4 -q -L STORE {made.device("store")}
            mkdir -p {STORE} /srv
            echo "LABEL=STORE {STORE} ext4 defaults 0 2" >>/etc/fstab
            mount {STORE}
            vgcreate -qq -y vg {made.device("pv")}
            lvcreate -qq -y -n data -L 64m vg
            mkfs.ext4 -q -L data /dev/vg/data
            udevadm trigger --action=change --settle /dev/vg/data
            echo "/dev/vg/data /srv ext4 noatime,nofail 0 2" >>/etc/fstab
            systemctl daemon-reload
            mount /srv
            for i in $(seq 30); do head -c 200000 /dev/urandom >/srv/$i; done
            sha256sum /srv/[0-9]* >/var/sums && sync
        """)
        yield made


def read_link(guest: Computer, path: str) -> str:
    return guest.run("readlink", "-f", path).strip()


def require_up(guest: Computer) -> None:
    """Mounted, with its content, and what names the file system leads to the front.

    No boot waits for a line of fstab that may fail; this one has come to its end.
    """
    guest.shell("systemctl is-system-running --wait || true")
    guest.run("udevadm", "settle")
    assert guest.run("systemctl", "is-active", "srv.mount") == "active\n"
    guest.shell("sha256sum --quiet -c /var/sums")
    uuid = guest.run("blkid", "-p", "-o", "value", "-s", "UUID", FRONT).strip()
    assert read_link(guest, f"/dev/disk/by-uuid/{uuid}") == read_link(guest, FRONT)
    checks = json.loads(guest.shell("dmsnap doctor --json || true"))["checks"]
    assert [check["level"] for check in checks if check["name"] == f"boot of {NAME}"] == ["ok"]
    (status,) = guest.dmsnap("status")
    assert status["problems"] == []


def test_nothing_is_unmounted(guest: Computer) -> None:
    mounted = guest.run("findmnt", "-no", "ID,SOURCE", "/srv")
    guest.dmsnap(
        "protect", "/dev/vg/data", "--name", NAME, "--recovery", guest.device("recovery"),
        "--store", STORE, "--live",
    )  # fmt: skip
    assert guest.run("findmnt", "-no", "ID,SOURCE", "/srv") == mounted
    assert f"{FRONT} /srv ext4 noatime,nofail 0 2" in guest.run("cat", "/etc/fstab").splitlines()
    assert read_link(guest, FRONT) == read_link(guest, "/dev/vg/data")
    guest.shell("systemctl daemon-reload; udevadm trigger --settle; sleep 1")
    require_up(guest)
    assert guest.run("findmnt", "-no", "ID,SOURCE", "/srv") == mounted
    assert guest.dmsnap("sync", NAME, "--audit", "full")["tracker"] == "era"


def test_a_refresh_by_lvm_is_repaired(guest: Computer) -> None:
    guest.shell("lvchange --refresh vg/data; date +%N >/srv/changed; sync -f /srv")
    result = guest.dmsnap("sync", NAME, "--audit", "full")
    assert result["tracker"] == "compare"
    require_up(guest)


def test_a_swap_and_back(guest: Computer) -> None:
    """The name goes from the LV to a front of ours, and fstab's line is right for both."""
    guest.dmsnap("swap", NAME)
    require_up(guest)
    assert read_link(guest, FRONT) != read_link(guest, "/dev/vg/data")
    guest.dmsnap("swap", "revert", NAME)
    require_up(guest)
    guest.dmsnap("unprotect", NAME)
    assert "/srv ext4" in guest.run("cat", "/etc/fstab")
    guest.shell("sha256sum --quiet -c /var/sums")


@pytest.mark.parametrize("cut", [False, True], ids=["shut-down", "plug-pulled"])
def test_after_a_boot_it_has_a_front_of_its_own(guest: Computer, cut: bool) -> None:
    if not guest.dmsnap("status"):
        test_nothing_is_unmounted(guest)
    if cut:
        guest.pull_plug()
        guest.boot()
    else:
        guest.reboot()
    require_up(guest)
    assert guest.run("findmnt", "-no", "SOURCE", "/srv").strip() == FRONT
    assert read_link(guest, FRONT) != read_link(guest, "/dev/vg/data")
    known = guest.run("udevadm", "info", "--query=all", "--name", "/dev/vg/data")
    assert "SYSTEMD_READY=0" in known
    (status,) = guest.dmsnap("status")
    assert not status["live"]
    assert guest.dmsnap("sync", NAME, "--audit", "full")["tracker"] == "compare"
    guest.shell("date +%N >/srv/changed; sync -f /srv")
    assert guest.dmsnap("sync", NAME, "--audit", "full")["tracker"] == "era"
    guest.dmsnap("unprotect", NAME)
