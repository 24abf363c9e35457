"""What dmsnapd tells of: sessions that are lost, era metadata that fill, and when all is well."""

import os
from collections.abc import Iterator
from pathlib import Path

import lun_target
import pytest
from conftest import MIB, Lab, configured, dmsnap, run, sha256
from lun_target import LunTarget
from lun_volume import SIZE, OnLun, serving
from patience import until
from raw_volume import write_direct
from test_service import UNIT, eventually, journal

pytestmark = pytest.mark.systemd

SESSION_SECONDS = 5


@pytest.fixture
def watched() -> Iterator[None]:
    """The service with sessions that are given up soon."""
    with configured(f"session_wait_seconds = {SESSION_SECONDS}"):
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", UNIT)
        yield
        run("systemctl", "stop", UNIT)
    run("systemctl", "reset-failed", UNIT, expected=None)


@pytest.fixture
def target() -> Iterator[LunTarget]:
    lun_target.load_modules()
    lun_target.INITIATOR.write_text(f"InitiatorName={lun_target.INITIATOR_NAME}\n")
    run("systemctl", "restart", "iscsid.service")
    with serving(LunTarget("127.0.0.1:3260")) as made:
        yield made


def told(volume: str) -> list[str]:
    return journal(f"DMSNAP_VOLUME={volume}")


def test_a_lost_session_is_told(lab: Lab, target: LunTarget, watched: None) -> None:
    """The volume goes on; and when the target is there again, that is told, too."""
    volume = OnLun(lab, target)
    volume.dirty()
    target.enable(False)
    eventually(lambda: any("lost" in line for line in told(volume.name)), "the session is lost")
    assert any(target.iqn in line or target.portal in line for line in told(volume.name))
    volume.dirty()
    content = sha256(volume.front)
    target.enable(True)
    # On a busy machine open-iscsi may take longer than a sync waits for it.
    eventually(
        lambda: "error" not in dmsnap("sync", volume.name, "--audit", "full", expected=None),
        "synced again",
    )
    eventually(lambda: any("all is well" in line for line in told(volume.name)), "well")
    assert sha256(volume.image, SIZE) == content
    volume.unprotect()


class Front:
    """A front that nobody uses, to be made anew with other tables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = run("dmsetup", "table", name).strip()
        info = ("info", "-c", "--noheadings", "-o", "uuid", name)
        self.uuid = run("dmsetup", *info).strip()

    def made_with(self, table: str) -> bool:
        """Not one table over the other: two era targets may not have the same metadata open."""
        if self.used() is not None:
            # The service, or udev, may be looking at it.
            until(self.is_removed, "it is removed")
        made = ("create", self.name, "--uuid", self.uuid, "--table", table)
        run("dmsetup", *made, expected=None)
        return self.used() is not None

    def is_removed(self) -> bool:
        run("dmsetup", "remove", "--retry", self.name, expected=None)
        return self.used() is None

    def used(self) -> tuple[int, int] | None:
        """Blocks of the era metadata, used and in all; None: it is not there."""
        words = run("dmsetup", "status", self.name, expected=None).split()
        if len(words) < len(("begin", "size", "era", "block size", "used/total")):
            return None
        used, total = words[4].split("/")
        return int(used), int(total)

    def on_full_metadata(self, lab: Lab) -> None:
        """Of as few blocks as dm-era takes: they are nearly full."""
        begin, size, _, _, origin, block = self.table.split()
        tried = []
        for blocks in range(8, 64):
            image = lab.directory / f"era-{blocks}.img"
            image.write_bytes(bytes(blocks * 4096))
            loop = run("losetup", "--find", "--show", image).strip()
            lab.loops.append(loop)
            if self.made_with(f"{begin} {size} era {loop} {origin} {block}"):
                used = self.used()
                assert used is not None
                if used[0] * 100 >= 80 * used[1]:
                    return
                tried.append(used)
        raise AssertionError(f"they have room, however small: {tried}")


def test_era_metadata_that_fill_are_told(lab: Lab, watched: None) -> None:
    """Under a front whose metadata are nearly full: there is no event for that."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(160 * MIB)
    name = lab.protect(primary, recovery)
    front = Front(name)
    front.on_full_metadata(lab)
    eventually(
        lambda: any("era metadata" in line and "% full" in line for line in told(name)),
        f"told of {front.used()}",
    )
    assert front.made_with(front.table)
    eventually(lambda: any("all is well again" in line for line in told(name)), "well")
    write_direct(Path("/dev/mapper") / name, os.urandom(4096), MIB)
    dmsnap("sync", name, "--audit", "full")
    assert sha256(f"/dev/mapper/{name}") == sha256(recovery, 64 * MIB)
