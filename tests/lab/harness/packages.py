"""Packages of a suite, unpacked and not installed."""

from collections.abc import Sequence
from pathlib import Path

from harness import apt_sources, program
from harness.program import BOUND_TO_US, PRIVATE_NAMESPACES


def extract(suite: str, names: Sequence[str], target: Path) -> None:
    """Unpack some packages of a suite, with what they depend on, into ``target``."""
    settings = [f"--aptopt={line}" for line in apt_sources.passed_on_options()]
    mmdebstrap = ["mmdebstrap", "--mode=root", "--variant=extract", *settings]
    include = f"--include={','.join(names)}"
    argv = [*BOUND_TO_US, *PRIVATE_NAMESPACES, *mmdebstrap, include, suite, str(target), "-"]
    program.output(argv, text=apt_sources.lines_for(suite))
