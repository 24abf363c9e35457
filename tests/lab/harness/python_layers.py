"""The Python layers over a tree: a virtual environment for dmsnap, and dmsnap itself."""

import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from harness import pip_settings, program
from harness.cache import Layers, key_of, key_of_files
from harness.errors import LabError
from harness.jail import DEV, PROC, Jail, Mount, tmpfs

VENV = "/opt/lab/venv"
DMSNAP = "/opt/lab/dmsnap"
SOURCE = "/opt/lab/source"
FINDER = Path(__file__).parents[1] / "guest" / "lab_installed_dmsnap.py"
SITE_HOOK = f"{DMSNAP}/lib\nimport lab_installed_dmsnap\n"

BUILT_FROM = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "dmsnap",
    "native",
    "udev-rules",
    "systemd",
)
COPIED_TOO = ("README.md", "LICENSE", "Makefile")
DATA = ("udev-rules", "systemd")
NOT_SOURCES = ("*.so", "*.o", "*.pyc", "__pycache__", "*.egg-info", "build", ".venv")

TOOLS_PATH = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def requirements(checkout: Path) -> list[str]:
    """Return what pyproject.toml asks of the guest: to build, to run and to test dmsnap."""
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"pyproject.toml of {checkout} cannot be read: {error}.") from error
    table = project.get("project", {})
    optional = table.get("optional-dependencies", {})
    groups = [optional.get(name, []) for name in ("lab", "test")]
    build = project.get("build-system", {}).get("requires", [])
    return sorted({"wheel", *build, *table.get("dependencies", []), *groups[0], *groups[1]})


def sources(checkout: Path) -> list[Path]:
    """Return the files that dmsnap is built from, those that builds leave behind left out."""
    found = []
    for name in BUILT_FROM:
        top = checkout / name
        found += [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    return [
        path
        for path in found
        if not any(
            fnmatch(part, pattern)
            for part in path.relative_to(checkout).parts
            for pattern in NOT_SOURCES
        )
    ]


@dataclass(frozen=True, slots=True)
class PythonLayers:
    """Builds and finds the Python layers over one tree."""

    layers: Layers
    suite: str
    tree: Path
    tree_key: str
    checkout: Path

    def venv_key(self) -> str:
        """Return the key of the virtual environment."""
        recipe = (FINDER.read_bytes(), Path(__file__).read_bytes())
        return key_of(self.tree_key, *recipe, *requirements(self.checkout))

    def obtain_venv(self) -> Path:
        """Return the virtual environment's directory; the guest sees it at VENV."""

        def build(content: Path) -> None:
            with self._jail(content, Mount("rw", str(content), VENV)) as jail:
                self._run(jail, ["/usr/bin/python3", "-m", "venv", VENV])
                self._run(jail, ["pip", "install", *requirements(self.checkout)])
            [site] = content.glob("lib/python3.*/site-packages")
            (site / "dmsnap-lab.pth").write_text(SITE_HOOK)
            shutil.copy(FINDER, site)

        return self.layers.obtain(f"venv-{self.suite}", self.venv_key(), build)

    def obtain_dmsnap(self, venv: Path) -> Path:
        """Return dmsnap as installed from the checkout; the guest sees it at DMSNAP."""

        def build(content: Path) -> None:
            with tempfile.TemporaryDirectory(prefix="source-", dir=content.parent) as name:
                copy = Path(name)
                self._copy_sources(copy)
                mounts = (
                    Mount("ro", str(venv), VENV),
                    Mount("rw", str(content), DMSNAP),
                    Mount("rw", str(copy), SOURCE),
                )
                options = ["--no-deps", "--no-build-isolation", "--no-index"]
                with self._jail(content, *mounts) as jail:
                    self._run(jail, ["pip", "install", *options, f"--target={DMSNAP}/lib", SOURCE])
                for data in DATA:
                    if (copy / data).exists():
                        shutil.copytree(copy / data, content / data)

        files = sources(self.checkout)
        key = key_of(self.venv_key(), key_of_files(files, self.checkout))
        return self.layers.obtain(f"dmsnap-{self.suite}", key, build)

    def _copy_sources(self, copy: Path) -> None:
        extra = [self.checkout / name for name in COPIED_TOO if (self.checkout / name).exists()]
        for path in [*sources(self.checkout), *extra]:
            target = copy / path.relative_to(self.checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    @contextmanager
    def _jail(self, content: Path, *mounts: Mount) -> Iterator[Jail]:
        with tempfile.TemporaryDirectory(prefix="jail-", dir=content.parent) as name:
            resolver = Mount("ro", "/etc/resolv.conf", "/etc/resolv.conf")
            host = Mount("ro", "/", pip_settings.HOST)
            always = (PROC, DEV, tmpfs("/tmp", 4096), resolver, host)  # noqa: S108 - the jail's own
            yield Jail(self.tree, Path(name), (*always, *mounts))

    def _run(self, jail: Jail, command: Sequence[str]) -> None:
        settings = pip_settings.environment()
        program.output(
            jail.argv(command),
            named=" ".join(command),
            env={**settings, "PATH": TOOLS_PATH, "HOME": "/root"},
        )
