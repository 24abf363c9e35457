"""A volume that is protected in a guest, for what needs the whole stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure.devices import MIB, loop
from measure.process import run

NAME = "bench"
FRONT = Path("/dev/mapper") / NAME
ORIGIN = f"dmsnap-{NAME}-origin-1"


@dataclass(frozen=True, slots=True)
class Protected:
    """A protected volume and what it stands on."""

    primary: Path
    recovery: Path
    store: Path


@contextmanager
def protected(
    scratch: Path,
    size_bytes: int,
    *,
    mount_point: Path | None = None,
    block_size: str = "64KiB",
) -> Iterator[Protected]:
    """Protect a volume of ``size_bytes``, with ext4 on it if it is to be mounted."""
    store = scratch / "store"
    store.mkdir(exist_ok=True)
    recovery_bytes = size_bytes + size_bytes // 2 + 64 * MIB
    with (
        loop(scratch / "primary", size_bytes, allocated=True) as primary,
        loop(scratch / "recovery", recovery_bytes) as recovery,
    ):
        if mount_point is not None:
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", primary)
            mount_point.mkdir(exist_ok=True)
            run("mount", primary, mount_point)
        try:
            run("dmsnap", "protect", primary, "--name", NAME, "--recovery", recovery,
                "--store", store, "--block-size", block_size)  # fmt: skip
            try:
                yield Protected(primary, recovery, store)
            finally:
                run("dmsnap", "unprotect", NAME, "--forget")
        finally:
            if mount_point is not None:
                run("umount", mount_point)
