"""Loop and dm devices of the bench's own, gone at the end of their block."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure.process import run

SECTOR, KIB, MIB, GIB, TIB = 512, 1 << 10, 1 << 20, 1 << 30, 1 << 40


@contextmanager
def loop(path: Path, size_bytes: int, *, allocated: bool = False) -> Iterator[Path]:
    """A loop device over a new file, which is removed with it. A tmpfs cannot do direct I/O."""
    with path.open("xb") as file:
        file.truncate(size_bytes)
    direct = "off" if run("stat", "-f", "-c", "%T", path).strip() == "tmpfs" else "on"
    try:
        if allocated:
            # Written, not fallocate(): an unwritten extent is converted at its first write, and
            # the first contestant alone would pay for it.
            run("dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={size_bytes}",
                "iflag=count_bytes", "conv=notrunc,fsync")  # fmt: skip
        device = run("losetup", "--find", "--show", f"--direct-io={direct}", path).strip()
        try:
            yield Path(device)
        finally:
            run("losetup", "--detach", device)
    finally:
        path.unlink()


@contextmanager
def dm(name: str, table: str) -> Iterator[Path]:
    """A dm device with one table; needs device-mapper, so only in a guest."""
    run("dmsetup", "create", name, "--table", table)
    try:
        yield Path("/dev/mapper") / name
    finally:
        run("dmsetup", "remove", "--retry", name)


def sectors(device: Path) -> int:
    """The size of a device in sectors, as dm tables want it."""
    return int(run("blockdev", "--getsz", device))
