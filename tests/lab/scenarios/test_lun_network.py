"""A boot waits for the network while the front lies on a LUN, whatever was cut off meanwhile."""

from collections.abc import Iterator
from signal import SIGKILL

import lun_target
import pytest
from conftest import Lab, dmsnap, forked
from lost_state import UNITS, lose_stack
from lun_target import LunTarget
from lun_volume import OnLun, serving
from test_jobs import step_number


@pytest.fixture(scope="module", autouse=True)
def initiator() -> None:
    lun_target.load_modules()
    lun_target.start_iscsid()


@pytest.fixture
def volume(lab: Lab) -> Iterator[OnLun]:
    with serving(LunTarget("127.0.0.1:3260")) as target:
        made = OnLun(lab, target)
        yield made
        lab.take_down()


def waits(name: str) -> bool:
    """Whether the unit that assembles the volume comes after the network, and by whose wish."""
    text = (UNITS / f"dmsnap-assemble@{name}.service.d/volume.conf").read_text()
    wishes = [path.parent.name for path in UNITS.glob(f"*/dmsnap-{name}.conf")]
    waiting = "After=network-online.target" in text
    assert wishes == ["remote-fs.target.d" if waiting else "local-fs.target.d"]
    return waiting


def cut_off(*words: object, at: str) -> None:
    """A command that is killed when it has done a step."""
    ended = forked(*words, at=(step_number(*words, name=at), "done"), send=(SIGKILL,))
    assert ended.code == -SIGKILL, ended


def test_a_swap_that_a_boot_brings_to_its_end(volume: OnLun) -> None:
    """It is recorded, and not yet that a boot has to wait."""
    name = volume.name
    assert not waits(name)
    cut_off("swap", name, at="record")
    lose_stack(volume.lab)
    dmsnap("assemble", name, "--boot")
    dmsnap("job", "resume", "--all")
    assert dmsnap("status", name)[0]["state"] == "trial"
    assert waits(name)


def test_a_swap_that_is_taken_back(volume: OnLun) -> None:
    cut_off("swap", volume.name, at="prepare-boot")
    dmsnap("job", "resume", "--all")
    assert dmsnap("status", volume.name)[0]["state"] == "protected"
    assert not waits(volume.name)


def test_a_revert_that_is_brought_to_its_end(volume: OnLun) -> None:
    name = volume.name
    dmsnap("swap", name)
    assert waits(name)
    cut_off("swap", "revert", name, at="record")
    dmsnap("job", "resume", "--all")
    assert dmsnap("status", name)[0]["state"] == "protected"
    assert not waits(name)


@pytest.mark.parametrize("step", ["load-front", "label"])
def test_a_failback_that_is_brought_to_its_end(volume: OnLun, step: str) -> None:
    name = volume.name
    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    assert waits(name)
    cut_off("failback", name, at=step)
    dmsnap("job", "resume", "--all")
    assert dmsnap("status", name)[0]["state"] == "protected"
    assert not waits(name)
