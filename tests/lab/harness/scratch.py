"""The guest's scratch disk: a sparse file with an ext4 file system."""

from pathlib import Path

from harness import program

SIZE_BYTES = 12 << 30
INODES = 200_000


def create(image: Path) -> None:
    """Make the disk unless `image` exists: a disk that was booted before is used as it was left."""
    if image.exists():
        return
    with image.open("xb") as file:
        file.truncate(SIZE_BYTES)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    argv = ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-N", str(INODES), "-E", options, str(image)]
    program.output(argv, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
