"""A command in a tree of its own: private mounts and processes, the tree read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.program import BOUND_TO_US, PRIVATE_NAMESPACES

ENTER = Path(__file__).with_name("enter-jail")


@dataclass(frozen=True, slots=True)
class Mount:
    """Something mounted inside the tree: `target` is the absolute path that the command sees."""

    kind: Literal["ro", "rw", "tmpfs", "proc", "dev"]
    source: str
    target: str


PROC = Mount("proc", "-", "/proc")
DEV = Mount("dev", "-", "/dev")


def tmpfs(target: str, size_mib: int) -> Mount:
    """Return a RAM file system of at most `size_mib` MiB."""
    return Mount("tmpfs", f"{size_mib}M", target)


@dataclass(frozen=True, slots=True)
class Jail:
    """A tree, an empty directory of the host to mount it on, and what else is mounted in it."""

    tree: Path
    mount_point: Path
    mounts: tuple[Mount, ...]

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the argument list that runs `command` inside; it dies with its parent."""
        mounts = [word for each in self.mounts for word in (each.kind, each.source, each.target)]
        enter = [str(ENTER), str(self.tree), str(self.mount_point)]
        return [*BOUND_TO_US, *PRIVATE_NAMESPACES, *enter, *mounts, "--", *command]
