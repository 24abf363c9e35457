"""Directories that are root's alone, with all that is missing above them.

``Path.mkdir(parents=True)`` gives the ones above the usual mode: in a state directory that others
can read, they could hold locks that everybody waits for.
"""

from pathlib import Path

MODE = 0o700


def make(path: Path) -> None:
    """Make what is missing; nothing happens to what exists. Raises ``OSError``."""
    for each in reversed([each for each in path.parents if not each.exists()]):
        each.mkdir(MODE, exist_ok=True)
    path.mkdir(MODE, exist_ok=True)
