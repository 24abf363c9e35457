"""Libraries that are loaded before user-mode-linux's libc; each says in C what for."""

from pathlib import Path

from harness import program
from harness.cache import Layers, key_of

SOURCES = Path(__file__).with_name("preload")
COMPILE = ("gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-ffreestanding", "-nostdlib")
WIDE_REGISTERS = "wide_registers"
UNFLUSHED = "unflushed"


def _library(name: str) -> str:
    return f"{name}.so"


def obtain(layers: Layers, *, flushes: bool) -> tuple[Path, ...]:
    """Return the libraries for a guest whose flushes reach the host's disk, or do not."""
    names = (WIDE_REGISTERS, *(() if flushes else (UNFLUSHED,)))

    def build(content: Path) -> None:
        for name in (WIDE_REGISTERS, UNFLUSHED):
            source = str(SOURCES / f"{name}.c")
            program.output([*COMPILE, "-o", str(content / _library(name)), source])

    parts = (path.read_bytes() for path in sorted(SOURCES.glob("*.c")))
    directory = layers.obtain("preload", key_of(*COMPILE, *parts), build)
    return tuple(directory / _library(name) for name in names)
