"""What a measurement ran on, as the machine itself says it."""

import os
import shutil
import subprocess
from pathlib import Path

from measure.model import Machine
from measure.process import run

PROBES = {
    "fio": ("fio", "--version"),
    "nbdcopy": ("nbdcopy", "--version"),
    "nbdkit": ("nbdkit", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "dd": ("dd", "--version"),
    "ddrescue": ("ddrescue", "--version"),
    "rsync": ("rsync", "--version"),
    "cmp": ("cmp", "--version"),
    "dmsetup": ("dmsetup", "--version"),
    "era_invalidate": ("era_invalidate", "--version"),
    "python": ("python3", "--version"),
    "sqlite3": ("sqlite3", "--version"),
}


def describe(name: str, scratch: Path) -> Machine:
    """The machine that this process runs on; ``scratch`` says on what storage the bench works."""
    return Machine(
        name=name,
        system=field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        kernel=f"{os.uname().sysname} {os.uname().release}",
        processor=field(Path("/proc/cpuinfo"), "model name", ":") or os.uname().machine,
        nr_processors=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        storage=storage(scratch),
        versions=versions(),
        load_average=os.getloadavg()[0],
    )


def field(path: Path, name: str, separator: str) -> str:
    """The first value of ``name`` in a file of lines ``name separator value``; empty if none."""
    for line in path.read_text().splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return ""


def storage(directory: Path) -> str:
    """The file system below ``directory``, its device and how that is scheduled."""
    words = run("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", directory)
    fs_type, _, source = words.strip().partition(" ")
    device = Path(source.strip()).name
    queue = Path("/sys/class/block") / device / "queue"
    if not queue.is_dir():
        return f"{fs_type} on {source.strip()}"
    scheduler = (queue / "scheduler").read_text().strip()
    kind = "rotating" if (queue / "rotational").read_text().strip() == "1" else "not rotating"
    return f"{fs_type} on {source.strip()} ({kind}, scheduler {scheduler})"


def versions() -> tuple[tuple[str, str], ...]:
    """The first line that each program there says of itself."""
    found = []
    for name, argv in PROBES.items():
        if shutil.which(argv[0]) is None:
            continue
        said = subprocess.run(argv, capture_output=True, text=True, check=False)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        found.append((name, lines[0].strip() if lines else ""))
    return tuple(found)


def revision(checkout: Path) -> str:
    """The commit under measurement, with ``-dirty`` where files differ from it.

    Results of sections that were measured just now are no difference.
    """
    commit = run("git", "-C", checkout, "rev-parse", "--short=12", "HEAD").strip()
    changed = run("git", "-C", checkout, "status", "--porcelain", "--", ".", ":!docs").strip()
    return f"{commit}-dirty" if changed else commit
