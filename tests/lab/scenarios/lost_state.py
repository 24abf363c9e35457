"""Losing what dmsnap has recorded: its catalogue, its directory, the stack as a boot loses it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import CATALOGUE, Lab, dm_devices, dmsnap, loop_files, run, wait_until

from dmsnap._native import label as labels
from dmsnap._native.label import Label

STATE = Path("/var/lib/dmsnap")
UNITS = Path("/etc/systemd/system")


def lose_catalogue() -> None:
    for path in CATALOGUE.parent.glob("catalogue.db*"):
        path.unlink()


def lose_state_directory() -> None:
    run("rm", "-rf", STATE, "/run/dmsnap")


def lose_boot_files(name: str) -> None:
    for path in [*UNITS.glob(f"*/dmsnap-{name}.conf"), UNITS / f"dmsnap-assemble@{name}.service.d"]:
        run("rm", "-rf", path)
    run("rm", "-f", f"/etc/udev/rules.d/64-0-dmsnap-{name}.rules")


def lose_stack(lab: Lab, *mount_points: Path) -> None:
    """As a boot does: no dm device of ours is there, no loop device of the store."""
    for mount_point in mount_points:
        run("umount", mount_point)

    def is_gone() -> bool:
        for name in dm_devices():
            subprocess.run(["dmsetup", "remove", name], capture_output=True, check=False)
        return not dm_devices()

    wait_until("no dm device is left", is_gone)
    for loop in of_the_store(lab):
        run("losetup", "-d", f"/dev/{loop}")
    wait_until("no loop device is left", lambda: not of_the_store(lab))


def of_the_store(lab: Lab) -> list[str]:
    """The loop devices over the files of the store."""
    return [loop for file, loop in loop_files().items() if file.startswith(lab.store())]


def lose_disk(lab: Lab, disk: str) -> None:
    """The disk is gone, and its image, too."""
    image = next(file for file, loop in loop_files().items() if f"/dev/{loop}" == disk)
    run("losetup", "-d", disk)
    wait_until(f"{disk} is detached", lambda: image not in loop_files())
    Path(image).unlink()
    lab.loops.remove(disk)


@contextmanager
def label_of(disk: str) -> Iterator[tuple[int, int, Label]]:
    """A descriptor of a recovery volume that nobody uses, its size and its label."""
    size_bytes = int(run("blockdev", "--getsize64", disk))
    fd = os.open(disk, os.O_RDWR | os.O_SYNC)
    try:
        yield fd, size_bytes, labels.read(fd, size_bytes, disk)
    finally:
        os.close(fd)
    run("blockdev", "--flushbufs", disk)


def write_label(disk: str, **changes: Any) -> Label:
    """The label on a disk with other values in some fields."""
    with label_of(disk) as (fd, size_bytes, current):
        return labels.write(fd, size_bytes, replace(current, **changes), disk)


def spoil_sector(disk: str, slot: int) -> None:
    """One byte of one of the two label sectors."""
    with label_of(disk) as (fd, size_bytes, _):
        at = labels.offset(size_bytes) + slot * 4096 + 200
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x5A]), at)


def points_on(name: str) -> list[str]:
    """The points of a volume, the newest first."""
    return [point["id"] for point in reversed(dmsnap("point", "list", name))]
