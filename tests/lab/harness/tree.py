"""The guests' root trees: Debian 12 and 13, made by mmdebstrap."""

from pathlib import Path

from harness import apt_sources, program
from harness.cache import Layers, key_of
from harness.errors import LabError
from harness.program import BOUND_TO_US, PRIVATE_NAMESPACES

PACKAGES = Path(__file__).parents[1] / "packages"
SETUP = PACKAGES / "tree-setup"
LEFT_OUT = ("doc", "info", "locale", "man", "lintian", "bug")


def packages(suite: str) -> list[str]:
    """Return the package list of a suite: the common one and its own, if it has one."""
    lists = [path for path in (PACKAGES / "common", PACKAGES / suite) if path.exists()]
    lines = [line.strip() for path in lists for line in path.read_text().splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


def key(suite: str) -> str:
    """Return the cache key of a suite's tree."""
    return key_of(suite, *packages(suite), SETUP.read_bytes(), Path(__file__).read_bytes())


def _argv(suite: str, target: Path) -> list[str]:
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    settings = [f"--aptopt={line}" for line in apt_sources.passed_on_options()]
    return [
        *BOUND_TO_US,
        *PRIVATE_NAMESPACES,
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(packages(suite))}",
        *without,
        *settings,
        f"--customize-hook={SETUP}",
        suite,
        str(target),
        "-",
    ]


def obtain(layers: Layers, suite: str) -> Path:
    """Return the directory of a suite's tree, built if need be: a minute, with the network."""

    def build(content: Path) -> None:
        # mmdebstrap's report of a failure is long and ends with how it cleaned up: keep all of it.
        try:
            program.output(_argv(suite, content), text=apt_sources.lines_for(suite))
        except LabError as error:
            raise LabError(f"The {suite} tree could not be built. {error}") from error

    return layers.obtain(f"tree-{suite}", key(suite), build)
