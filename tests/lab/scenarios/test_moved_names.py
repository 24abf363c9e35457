"""A boot after which a volume that was moved has the name of the device that it left, and that its.

Loop devices have no link of their own, and what a move leaves has the same file system. Nothing is
written to it, and it is not shown as the volume.
"""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import (
    CATALOGUE,
    MIB,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    mount_lines,
    refused,
    run,
    sha256,
)
from test_hydrate_names import DEVICE_SIZE, SIZE, a_volume, exchanged

from dmsnap.catalogue.model import Volume
from dmsnap.errors import ExitCode
from dmsnap.host import signature
from dmsnap.service.hydrations.hydration import Copying

RELEASE = (4, "begun")
ENDED = 77


def device_of(name: str) -> str:
    (found,) = catalogue_rows("select name, backing from volume")
    assert found[0] == name
    return str(found[1])


def moved(lab: Lab, *, size_bytes: int = SIZE, cut_off: bool = False) -> tuple[str, str, str]:
    """A volume, the device that it left, and the one that it lies on."""
    name, _ = a_volume(lab)
    return moved_on(lab, name, size_bytes, cut_off=cut_off)


def moved_on(lab: Lab, name: str, size_bytes: int, *, cut_off: bool) -> tuple[str, str, str]:
    former, target = device_of(name), lab.disk(size_bytes)
    if cut_off:
        ended = forked("hydrate", name, "--onto", target, at=RELEASE, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL, ended
    else:
        dmsnap("hydrate", name, "--onto", target)
    return name, former, target


def committed(name: str) -> None:
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)


def booted(name: str, change: Callable[[], None]) -> None:
    """Without its stack, and with what ``change`` has done about names."""
    run("umount", f"/dev/mapper/{name}", expected=None)
    run("dmsetup", "remove", name, *(other for other in dm_devices() if other != name))
    change()


def require_refused(name: str, *devices: str) -> None:
    """The volume is not built, the sentence names both, and neither is written to."""
    contents = [sha256(each) for each in devices]
    for words in (["assemble", name], ["assemble", name, "--dry-run"]):
        sentence = refused(ExitCode.FOREIGN_DEVICE, *words)
        assert all(each in sentence for each in devices), sentence
    assert dm_devices() == []
    dmsnap("job", "resume", "--all", expected=None)
    assert dm_devices() == []
    assert [sha256(each) for each in devices] == contents


def goes_on(name: str) -> None:
    dmsnap("assemble", name)
    assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0


def test_the_former_device_is_not_taken_for_the_volume(lab: Lab) -> None:
    name, former, target = moved(lab)
    booted(name, lambda: exchanged(former, target))
    require_refused(name, former, target)
    exchanged(former, target)
    goes_on(name)


@pytest.mark.parametrize("after_a_boot", [True, False], ids=["after-a-boot", "before"])
def test_a_move_that_was_cut_off_when_it_was_through(lab: Lab, after_a_boot: bool) -> None:
    """What is left of it is done to the device that was left, and to no other."""
    name, _ = a_volume(lab)
    committed(name)
    dmsnap("attach", name, "--recovery", lab.disk(2 * DEVICE_SIZE))
    _, former, target = moved_on(lab, name, DEVICE_SIZE, cut_off=True)
    if after_a_boot:
        booted(name, lambda: exchanged(former, target))
        require_refused(name, former, target)
        exchanged(former, target)
    else:
        booted(name, lambda: None)
    goes_on(name)
    dmsnap("inspect", "label", former, expected=ExitCode.CORRUPT)


def test_the_label_of_a_promoted_volume_stays_on_its_device(lab: Lab) -> None:
    """A move takes it from the device that it leaves, which has its name now."""
    name, _ = a_volume(lab)
    committed(name)
    _, former, target = moved_on(lab, name, DEVICE_SIZE, cut_off=True)
    booted(name, lambda: exchanged(former, target))
    require_refused(name, former, target)
    assert dmsnap("inspect", "label", former)["state"] == "primary"
    exchanged(former, target)
    dmsnap("assemble", name)
    assert dmsnap("inspect", "label", target)["state"] == "primary"
    dmsnap("failback", name)


def test_a_note_of_a_move_is_followed_to_its_device_alone(lab: Lab) -> None:
    """The catalogue took nothing when the volume went over."""
    name, _ = a_volume(lab)
    former, target = device_of(name), lab.disk(SIZE)
    ended = forked(
        "hydrate", name, "--onto", target, at=(3, "begun"), happens=record_nothing_any_more
    )
    assert ended.code == ENDED, ended
    assert device_of(name) == former
    booted(name, lambda: exchanged(former, target))
    require_refused(name, former, target)
    assert device_of(name) == target
    exchanged(former, target)
    goes_on(name)


def record_nothing_any_more() -> None:
    """Who comes to where the volume is recorded on its new device ends instead."""

    def recorded(_: Copying) -> Volume:
        os._exit(ENDED)

    Copying._recorded = recorded  # type: ignore[method-assign, assignment]


def test_failback_leads_to_no_copy_that_has_the_name(lab: Lab) -> None:
    """Former primary and what that had left exchange their names: each is as the other."""
    name, left, former = moved(lab)
    dmsnap("sync", name)
    committed(name)
    booted(name, lambda: exchanged(left, former))
    dmsnap("assemble", name)
    contents = [sha256(each) for each in (left, former)]
    for words in (["failback", name], ["failback", name, "--dry-run"], ["resize", name]):
        sentence = refused(ExitCode.FOREIGN_DEVICE, *words)
        assert left in sentence
        assert former in sentence
    assert [sha256(each) for each in (left, former)] == contents
    booted(name, lambda: exchanged(left, former))
    dmsnap("assemble", name)
    assert dmsnap("failback", name)["device"] == former
    assert sha256(left) == contents[1]


def test_what_is_unprotected_is_not_mounted_from_another_device(lab: Lab) -> None:
    name, former, target = moved(lab)
    booted(name, lambda: exchanged(former, target))
    contents = [sha256(each) for each in (former, target)]
    sentence = refused(ExitCode.FOREIGN_DEVICE, "unprotect", name)
    assert former in sentence
    assert not any(f" {each} " in line for line in mount_lines() for each in (former, target))
    assert [sha256(each) for each in (former, target)] == contents
    exchanged(former, target)
    dmsnap("unprotect", name)
    assert any(f" {target} " in line for line in mount_lines())


def test_a_move_of_an_earlier_version(lab: Lab) -> None:
    """Which device the path led to is not recorded: there are two that it may have been."""
    name, former, target = moved(lab)
    forget_devices(name)
    booted(name, lambda: exchanged(former, target))
    require_refused(name, former, target)
    exchanged(former, target)
    require_refused(name, former, target)
    signature.wipe(Path(former))
    goes_on(name)
    (known,) = catalogue_rows("select led_to from volume")
    assert target in known[0]


def forget_devices(name: str) -> None:
    with closing(sqlite3.connect(CATALOGUE)) as connection, connection:
        connection.execute("update volume set led_to = null where name = ?", (name,))


def test_what_a_volume_has_is_not_taken_by_another_name(lab: Lab) -> None:
    """Nothing holds it, as its stack could not be built."""
    name, former, target = moved(lab)
    booted(name, lambda: exchanged(former, target))
    contents = [sha256(each) for each in (former, target)]
    other = lab.disk(16 * MIB)
    for words in (
        ["protect", other, "--name", "other", "--recovery", former, "--overwrite"],
        ["protect", former, "--name", "other", "--recovery", other],
    ):
        assert name in refused(ExitCode.ALREADY_PROTECTED, *words, "--store", lab.store())
    assert [sha256(each) for each in (former, target)] == contents


def test_a_command_that_is_begun_anew_is_about_the_device_that_it_named(lab: Lab) -> None:
    """--overwrite was for what was on that."""
    name, _ = a_volume(lab)
    committed(name)
    meant, strange = lab.disk(2 * DEVICE_SIZE), lab.disk(2 * DEVICE_SIZE)
    for disk in (meant, strange):
        run("mkfs.ext4", "-q", disk)
    words = ["attach", name, "--recovery", meant, "--overwrite"]
    ended = forked(*words, at=(0, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    booted(name, lambda: exchanged(meant, strange))
    dmsnap("assemble", name)
    contents = [sha256(each) for each in (meant, strange)]
    ((job,),) = catalogue_rows("select id from job where operation = 'attach'")
    assert meant in refused(ExitCode.FOREIGN_DEVICE, "job", "resume", job)
    assert meant in refused(ExitCode.FOREIGN_DEVICE, "job", "resume", job, "--dry-run")
    assert [sha256(each) for each in (meant, strange)] == contents
    booted(name, lambda: exchanged(meant, strange))
    dmsnap("assemble", name)
    dmsnap("job", "resume", job)
    assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
