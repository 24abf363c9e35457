"""``make install`` into a directory of its own, and ``make uninstall``: what runs, what is left.

Made in a copy of the checkout, so that nothing but the test's directory is written to. What dmsnap
needs of others is not downloaded for it: the packages that the commands here import are those that
the tests run with.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import _cffi_backend
import annotated_types
import click
import pydantic
import pydantic_core
import typing_extensions
import typing_inspection

from dmsnap.errors import ExitCode
from dmsnap.version import __version__

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("dmsnap", "native", "udev-rules", "systemd", "docs")
BUILT = ("*.so", "*.o", "__pycache__", "dmsnap-watchdog", "_core.c", "_libdm.c", "tests", "fuzz")
STAMP = ".venv/.dmsnap-built"
OFFLINE = {"PIP_NO_CACHE_DIR": "1", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "DMSNAP_CFLAGS": "-O0"}
PREFIX = "/opt/dms"
OF_OTHERS = (
    _cffi_backend, annotated_types, click, pydantic, pydantic_core, typing_extensions,
    typing_inspection,
)  # fmt: skip
# By an administrator, in our directories; by dmsnap, as it ran.
OTHERS = (f"{PREFIX[1:]}/bin/other", f"{PREFIX[1:]}/lib/systemd/system/other.service")
KEPT = ("var/lib/dmsnap/catalogue.db", "var/lib/dmsnap/store/volume-cow-1.img")


def copy_of_checkout(place: Path) -> Path:
    place.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns(*BUILT)
        shutil.copytree(CHECKOUT / name, place / name, ignore=ignored)
    for path in CHECKOUT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, place)
    (place / ".venv").symlink_to(sys.prefix)
    return place


def make(goal: str, source: Path, destination: Path) -> None:
    """A goal, staged; without what an outer make hands down, and without the network.

    ``-o``: what is in ``.venv`` is not to be made of the copy.
    """
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    completed = subprocess.run(
        ["make", "-C", source, "-o", STAMP, goal, f"DESTDIR={destination}", f"PREFIX={PREFIX}"],
        env=environment | OFFLINE | {"TMPDIR": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def installed(program: str, destination: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an installed program, with nothing of the checkout in its way."""
    path = destination / PREFIX[1:] / "bin" / program
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return subprocess.run(
        [path, *words], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


def files_below(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()}


def test_installed_run_and_taken_out_again(tmp_path: Path) -> None:
    source, stage = copy_of_checkout(tmp_path / "source"), tmp_path / "stage"
    make("install", source, stage)
    check_places(stage)
    check_programs(stage, tmp_path / "image")
    for name in (*OTHERS, *KEPT):
        (stage / name).write_text("kept")
    for _ in range(2):
        make("uninstall", source, stage)
        assert files_below(stage) == {*OTHERS, *KEPT}


def check_places(stage: Path) -> None:
    """Everything is below the prefix, and says so; but for the state, which is root's alone."""
    assert {path.name for path in stage.iterdir()} == {PREFIX.split("/")[1], "var"}
    assert (stage / "var/lib/dmsnap").stat().st_mode & 0o777 == 0o700
    assert not files_below(stage / "var")
    prefix = stage / PREFIX[1:]
    units = {path.name: path.read_text() for path in (prefix / "lib/systemd/system").iterdir()}
    assert units.keys() == {path.name for path in (CHECKOUT / "systemd").iterdir()}
    for name, text in units.items():
        assert "/usr/local" not in text, name
        assert f"={PREFIX}/bin/dmsnap" in text, name
    for rules in (CHECKOUT / "udev-rules").iterdir():
        assert (prefix / "lib/udev/rules.d" / rules.name).read_text() == rules.read_text()
    assert (prefix / "share/doc/dmsnap/MANUAL.md").exists()


def check_programs(stage: Path, image: Path) -> None:
    """They run from where they are staged, with the core that was built for them."""
    library = stage / PREFIX[1:] / "lib/dmsnap"
    shown = installed("dmsnap", stage, "--version")
    assert (shown.stdout, shown.stderr) == (f"dmsnap {__version__}\n", "")
    assert os.access(library / "dmsnap/_native/dmsnap-watchdog", os.X_OK)
    for package in OF_OTHERS:
        of_others(package, library)
    image.write_bytes(bytes(2**20))
    shown = installed("dmsnap", stage, "inspect", "label", str(image))
    assert shown.returncode == ExitCode.CORRUPT, shown
    assert shown.stderr.startswith("dmsnap: ")
    shown = installed("dmsnapd", stage, "--help")
    assert shown.stdout.startswith("usage: dmsnapd"), shown


def of_others(package: ModuleType, library: Path) -> None:
    path = Path(str(package.__file__))
    if path.name == "__init__.py":
        shutil.copytree(path.parent, library / path.parent.name)
    else:
        shutil.copy(path, library)
