"""What happens to the volumes."""

import os
import re
import shutil
from pathlib import Path

from demonstration.program import Dmsnap, FailedError, run
from demonstration.volume import MIB, Volume
from demonstration.workload import FILES, file_name

GARBAGE_BYTES = 64 * MIB
SECTOR_BYTES = 512
DELETE_ATTEMPTS = 50


def overwrite_start(volume: Volume) -> None:
    """Garbage over the beginning of the primary, below the mounted file system."""
    run(
        "dd", "if=/dev/urandom", f"of={volume.primary}", "bs=1M",
        f"count={GARBAGE_BYTES // MIB}", "oflag=direct", "conv=notrunc,fsync", "status=none",
    )  # fmt: skip
    if run("blkid", "--probe", "-o", "value", "-s", "TYPE", volume.primary, expected=None):
        raise FailedError(f"{volume.primary} still looks like a file system")


def delete_everything(volume: Volume) -> None:
    """``rm -rf`` in the mounted volume, while the application goes on writing."""
    for _ in range(DELETE_ATTEMPTS):
        for entry in volume.mount_point.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        if not any(volume.mount_point.iterdir()):
            os.sync()
            return
    raise FailedError(f"{volume.mount_point} could not be emptied")


def spoil_replica(dmsnap: Dmsnap, volume: Volume, point: str) -> str:
    """Change one sector of a file on the recovery volume behind dmsnap's back; returns its name.

    It proves that the checks can fail. The file is one that the application never changes.
    """
    mounted = Path(dmsnap("point", "mount", point).result["mount_point"])
    name = file_name(0)
    listing = run("filefrag", "-b512", "-v", mounted / FILES / name)
    extent = re.search(r"^ *0: +\d+\.\. +\d+: +(\d+)\.\.", listing, re.MULTILINE)
    if extent is None:
        raise FailedError(f"filefrag shows no extent of {name}:\n{listing}")
    dmsnap("point", "umount", point)
    run(
        "dd", "if=/dev/urandom", f"of={volume.recovery}", f"bs={SECTOR_BYTES}", "count=1",
        f"seek={extent[1]}", "oflag=direct", "conv=notrunc,fsync", "status=none",
    )  # fmt: skip
    return name
