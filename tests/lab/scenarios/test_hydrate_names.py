"""A move that was cut off before a boot after which the disks have other names.

Loop devices, and disks without a serial number, have none but the kernel's: at the path of the half
copy there may be any other device then, the volume's own recovery volume among them.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MIB, Lab, catalogue_rows, dm_devices, dmsnap, forked, refused, run, sha256
from raw_volume import fill

from dmsnap.errors import ExitCode
from dmsnap.service.session import Session

SIZE = 32 * MIB
DEVICE_SIZE = 60 * MIB


def a_volume(lab: Lab, *others: str) -> tuple[str, str]:
    """A volume with a file system, its recovery volume as large as the disks of the tests."""
    primary, recovery = lab.disk(SIZE), lab.disk(DEVICE_SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "kept").write_bytes(os.urandom(8 * MIB))
    name = lab.protect(primary, recovery, *others)
    run("umount", mount_point)
    dmsnap("sync", name)
    return name, recovery


def cut_off(name: str, *words: object, at: tuple[int, str] = (2, "begun")) -> None:
    ended = forked("hydrate", name, *words, at=at, send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended


def exchanged(first: str, second: str) -> None:
    """Two loop devices have each other's number, as after a boot."""
    files = [
        run("losetup", "--noheadings", "--output=BACK-FILE", loop).strip()
        for loop in (first, second)
    ]
    run("losetup", "--detach", first, second)
    for loop, file in zip((second, first), files, strict=True):
        run("losetup", "--direct-io=on", loop, file)


def booted(name: str, change: Callable[[], None]) -> None:
    # A swap mounts what was mounted when the volume was protected.
    run("umount", f"/dev/mapper/{name}", expected=None)
    run("dmsetup", "remove", name, *(other for other in dm_devices() if other != name))
    change()
    dmsnap("assemble", name, expected=None)
    assert Path(f"/dev/mapper/{name}").exists()


def hydrates_nowhere(name: str, target: str) -> None:
    """What is at the target's path now stays byte for byte, and the move can be given up."""
    content = sha256(target)
    for words in (["--onto", target, "--overwrite"], ["--overwrite"], ["--dry-run"]):
        assert target in refused(ExitCode.FOREIGN_DEVICE, "hydrate", name, *words)
    assert sha256(target) == content
    dmsnap("hydrate", name, "--abandon")
    assert sha256(target) == content
    assert dmsnap("status", name, expected=None)[0]["hydration"] is None


def test_the_recovery_volume_has_the_name_of_the_half_copy(lab: Lab) -> None:
    name, recovery = a_volume(lab)
    target = lab.disk(DEVICE_SIZE)
    cut_off(name, "--onto", target)
    booted(name, lambda: exchanged(recovery, target))
    hydrates_nowhere(name, target)
    booted(name, lambda: exchanged(recovery, target))
    assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0


def test_a_move_that_was_being_given_up_leaves_the_recovery_volume_alone(lab: Lab) -> None:
    """The next command goes on with that, and nobody asked for it."""
    name, recovery = a_volume(lab)
    target = lab.disk(DEVICE_SIZE)
    cut_off(name, "--onto", target)
    cut_off(name, "--abandon", at=(1, "begun"))
    content = sha256(recovery)
    booted(name, lambda: exchanged(recovery, target))
    dmsnap("job", "resume", "--all", expected=None)
    assert dmsnap("status", name, expected=None)[0]["hydration"] is None
    assert sha256(target) == content


def test_the_former_primary_has_the_name_of_the_half_copy(lab: Lab) -> None:
    """It carries the volume's file system, and no label that says what it is."""
    name, _ = a_volume(lab)
    (former,) = (row[0] for row in catalogue_rows("select backing from volume"))
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)
    target = lab.disk(DEVICE_SIZE)
    cut_off(name, "--onto", target)
    content = sha256(former)
    booted(name, lambda: exchanged(former, target))
    dmsnap("hydrate", name, expected=ExitCode.TOO_SMALL)
    dmsnap("hydrate", name, "--abandon")
    assert sha256(target) == content


def test_a_disk_without_anything_on_it_has_the_name_of_the_half_copy(lab: Lab) -> None:
    """Nothing that could be recognised. With the names that were, the move goes on."""
    name, _ = a_volume(lab)
    target, strange = lab.disk(DEVICE_SIZE), lab.disk(DEVICE_SIZE)
    fill(Path(strange), DEVICE_SIZE)
    run("blockdev", "--flushbufs", strange)
    cut_off(name, "--onto", target)
    booted(name, lambda: exchanged(strange, target))
    content = sha256(target)
    assert "another device" in refused(ExitCode.FOREIGN_DEVICE, "hydrate", name)
    assert sha256(target) == content
    booted(name, lambda: exchanged(strange, target))
    assert dmsnap("hydrate", name)["device"] == target
    assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0


@pytest.mark.parametrize("promoted", [True, False], ids=["former-primary", "left-behind"])
def test_a_link_that_leads_to_a_former_device_now(lab: Lab, promoted: bool) -> None:
    """Begun by a version that did not record which device it was."""
    name, _ = a_volume(lab)
    (former,) = (row[0] for row in catalogue_rows("select backing from volume"))
    if promoted:
        dmsnap("swap", name, "--trial")
        dmsnap("swap", "commit", name)
    else:
        dmsnap("hydrate", name, "--onto", lab.disk(SIZE))
    link, content = lab.directory / "link", sha256(former)
    link.symlink_to(lab.disk(DEVICE_SIZE))
    cut_off(name, "--onto", link)
    forget_identity(name)
    link.unlink()
    link.symlink_to(former)
    booted(name, lambda: None)
    dmsnap("hydrate", name, expected=ExitCode.TOO_SMALL if promoted else ExitCode.FOREIGN_DEVICE)
    dmsnap("hydrate", name, "--abandon")
    assert sha256(former) == content


def forget_identity(name: str) -> None:
    with Session.open() as session:
        volume = session.catalogue.find_volume(name)
        assert volume is not None
        assert volume.hydration is not None
        unknown = replace(volume.hydration, identity="")
        session.catalogue.update_volume(replace(volume, hydration=unknown))
