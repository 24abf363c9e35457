"""What dmsnapd tells of: sessions that are lost, era metadata that fill, and when all is well."""

import os
from collections.abc import Iterator
from pathlib import Path

import lun_target
import pytest
from conftest import MIB, Lab, configured, dmsnap, run, sha256
from lun_target import LunTarget
from lun_volume import SIZE, OnLun, serving
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
    lun_target.start_iscsid()
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
    volume.sync("--audit", "full")
    eventually(lambda: any("all is well" in line for line in told(volume.name)), "well", 120)
    assert sha256(volume.image, SIZE) == content
    volume.unprotect()


def small_metadata(lab: Lab, volume: str) -> tuple[str, str]:
    """Era metadata of a few blocks, over 80 % full, and the table of the front on them."""
    (begin, size, kind, _, origin, block) = run("dmsetup", "table", volume).split()
    assert kind == "era"
    found = ""
    for blocks in range(8, 64):
        image = lab.directory / f"era-{blocks}.img"
        image.write_bytes(bytes(blocks * 4096))
        loop = run("losetup", "--find", "--show", image).strip()
        lab.loops.append(loop)
        table = f"{begin} {size} era {loop} {origin} {block}"
        made = run("sh", "-c", f"dmsetup create small-era --table '{table}' && echo made",
                   expected=None)  # fmt: skip
        if "made" not in made:
            run("dmsetup", "remove", "small-era", expected=None)
            continue
        used, total = run("dmsetup", "status", "small-era").split()[4].split("/")
        run("dmsetup", "remove", "small-era")
        found = f"{used} of {total} blocks"
        if int(used) * 100 >= 80 * int(total):
            return table, found
        break  # larger ones have more room still
    raise AssertionError(f"the smallest metadata that dm-era takes have room: {found}")


def test_era_metadata_that_fill_are_told(lab: Lab, watched: None) -> None:
    """Under a front whose metadata are nearly full: there is no event for that."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(160 * MIB)
    name = lab.protect(primary, recovery)
    table = run("dmsetup", "table", name).strip()
    full, share = small_metadata(lab, name)
    # Not one over the other: the front is made anew, as nobody uses it.
    uuid = run("dmsetup", "info", "-c", "--noheadings", "-o", "uuid", name).strip()

    def remade(with_table: str) -> None:
        run("dmsetup", "remove", name)
        run("dmsetup", "create", name, "--uuid", uuid, "--table", with_table)

    remade(full)
    eventually(
        lambda: any("era metadata" in line and "full" in line for line in told(name)),
        f"told of {share}",
        180,
    )
    remade(table)
    eventually(lambda: any("all is well again" in line for line in told(name)), "well", 180)
    write_direct(Path("/dev/mapper") / name, os.urandom(4096), MIB)
    dmsnap("sync", name, "--audit", "full")
    assert sha256(f"/dev/mapper/{name}") == sha256(recovery, 64 * MIB)
