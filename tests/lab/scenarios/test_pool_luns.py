"""Pools of LUNs: logged in to while a choice is made."""

from collections.abc import Iterator

import lun_target
import pytest
from conftest import MIB, SCRATCH, Lab, dmsnap, sha256
from lun_target import LunTarget
from lun_volume import image_of, serving
from test_pools import SIZE, Volume, offered, pool, states

SMALLEST = SIZE + 4 * MIB + 8192


@pytest.fixture
def target() -> Iterator[LunTarget]:
    lun_target.load_modules()
    lun_target.start_iscsid()
    with serving(LunTarget("127.0.0.1:3260")) as made:
        yield made


def test_luns_are_logged_in_to_and_let_go(target: LunTarget, lab: Lab) -> None:
    small = lab.disk(48 * MIB)
    second = SCRATCH / "second.img"
    target.add_lun(2, second, SMALLEST)
    nowhere = "iscsi://127.0.0.1:3299/iqn.2026-11.org.example:nowhere/0"
    with pool(target.url(1), target.url(2), nowhere, small):
        assert states()[target.url(1)] == "unseen"
        assert lun_target.sessions() == {}
        volume, other = Volume(lab), Volume(lab)
        made = volume.protect()
        assert made["recovery"].startswith("/dev/sd")
        assert [each["device"] for each in made["passed_over"]] == [nowhere]
        assert offered()[target.url(2)][:2] == ("taken", volume.name)
        assert dmsnap("sync", volume.name)["volume"] == volume.name
        left = sha256(second, SIZE)
        # A choice that falls on a disk leaves the session to the volume that needs it.
        assert other.protect()["recovery"] == small
        assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
        dmsnap("unprotect", volume.name, "--forget")
        assert lun_target.sessions() == {}
        assert sha256(second, SIZE) == left  # only the label was wiped
        assert volume.protect()["recovery"].startswith("/dev/sd")
        assert offered()[target.url(2)][:2] == ("taken", volume.name)
        dmsnap("unprotect", volume.name, "--forget")
    second.unlink()
    assert image_of(target).stat().st_blocks == 0  # nothing was ever written to the other LUN
