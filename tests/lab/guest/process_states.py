"""What everybody in a guest waits for, as /proc and /sys say it: nothing is asked that may hang."""

from collections.abc import Iterator
from pathlib import Path


def states() -> Iterator[str]:
    """Every process, then every block device that has something under way, a line or two each."""
    yield from map(state_of, sorted(Path("/proc").glob("[0-9]*")))
    yield from filter(None, map(device_state, sorted(Path("/sys/block").iterdir())))


def state_of(process: Path) -> str:
    """What a process is, its state and, where the kernel tells it, where in the kernel it is."""
    command = text_of(process / "cmdline").replace("\0", " ")
    state = text_of(process / "stat").rpartition(")")[2].split()[:1]
    places = [text_of(process / name).strip() for name in ("wchan", "stack", "syscall")]
    what = f"{process.name} {' '.join(state)} {command[:200]}"
    return f"{what}\n  {' '.join(places)}\n" if command else ""


def device_state(device: Path) -> str:
    """Requests under way, reads and writes; of a dm device also whether it is suspended."""
    under_way = text_of(device / "inflight").split()
    suspended = text_of(device / "dm/suspended").strip() == "1"
    if not suspended and not any(map(int, under_way)):
        return ""
    name = " ".join([device.name, text_of(device / "dm/name").strip()]).strip()
    return f"{name}: {' '.join(under_way)} under way{', suspended' * suspended}\n"


def text_of(path: Path) -> str:
    """What a file of /proc says; nothing where the kernel or the process has none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
