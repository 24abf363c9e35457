"""A volume that was being moved when the plug was pulled: it boots as what it was, and goes on."""

from harness.computer import Computer, computer

MIB = 1 << 20
NAME = "moving"


def test_a_move_goes_on_after_the_plug_was_pulled() -> None:
    disks = {"store": 512 * MIB, "old": 256 * MIB, "new": 256 * MIB, "replica": 400 * MIB}
    with computer(disks) as guest:
        guest.boot()
        old, new = guest.device("old"), guest.device("new")
        guest.shell(f"""
            mkfs.ext4 -q -L STORE {guest.device("store")}
            mkdir -p /store /volume
            echo "LABEL=STORE /store ext4 defaults 0 2" >>/etc/fstab
            mount /store
            mkfs.ext4 -q -L VOLUME {old}
            udevadm trigger --action=change --settle {old}
            mount {old} /volume
            for i in $(seq 40); do head -c 3M /dev/urandom >/volume/$i; done
            cd /volume && sha256sum [0-9]* >/var/sums && sync
        """)
        uuid = guest.run("blkid", "-p", "-o", "value", "-s", "UUID", old).strip()
        guest.run("bash", "-c", f"echo 'UUID={uuid} /volume ext4 nofail 0 2' >>/etc/fstab")
        guest.dmsnap(
            "protect", old, "--name", NAME, "--recovery", guest.device("replica"),
            "--store", "/store",
        )  # fmt: skip
        guest.shell(f"""
            systemd-run --unit hydrating dmsnap hydrate {NAME} --onto {new} --bandwidth 256KiB
            until dmsnap status {NAME} --json | grep -q '"bytes_copied": *[1-9]'; do
                sleep 0.1
            done
            date >/volume/later
            sync
        """)
        guest.pull_plug()
        guest.boot()
        booted(guest)
        front = guest.run("readlink", "-f", f"/dev/mapper/{NAME}").strip()
        assert guest.run("readlink", "-f", f"/dev/disk/by-uuid/{uuid}").strip() == front
        assert guest.run("findmnt", "-no", "SOURCE", "-M", "/volume").strip().endswith(NAME)
        guest.shell("cd /volume && sha256sum --quiet -c /var/sums && test -s later")
        guest.dmsnap("job", "resume", "--all")
        (status,) = guest.dmsnap("status", NAME)
        assert status["hydration"]["device"]
        guest.shell("date >/volume/after-the-boot && sync")
        assert status["hydration"]["bytes_copied"] > 0
        result = guest.dmsnap("hydrate", NAME)
        assert result["bytes_compared"] >= status["hydration"]["bytes_copied"]
        assert result["bytes_volume"] == 256 * MIB
        require_on(guest, new, uuid)
        guest.pull_plug()
        guest.boot()
        require_on(guest, new, uuid)
        result = guest.dmsnap("sync", NAME, "--audit", "full")
        assert result["audit"]["bytes_different"] == 0
        guest.dmsnap("unprotect", NAME)
        assert guest.run("findmnt", "-no", "SOURCE", "-M", "/volume").strip() == new
        guest.shell("umount /volume && e2fsck -fn " + new)


def booted(guest: Computer) -> None:
    """Wait until the boot has come to its end: none waits for a line of fstab that may fail."""
    guest.shell("systemctl is-system-running --wait || true; udevadm settle")


def require_on(guest: Computer, new: str, uuid: str) -> None:
    """Mounted, with all content, from the new device; the old one has no link of its own."""
    booted(guest)
    guest.shell(
        "cd /volume && sha256sum --quiet -c /var/sums && test -s later && test -s after-the-boot"
    )
    below = guest.run("dmsetup", "deps", "-o", "devname", f"dmsnap-{NAME}-origin-1")
    assert f"({new.removeprefix('/dev/')})" in below
    front = guest.run("readlink", "-f", f"/dev/mapper/{NAME}").strip()
    link = guest.run("readlink", "-f", f"/dev/disk/by-uuid/{uuid}")
    assert link.strip() == front
