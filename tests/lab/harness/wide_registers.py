"""What user-mode-linux needs on a processor with more registers than it knows of."""

from pathlib import Path

from harness import program
from harness.cache import Layers, key_of

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "wide_registers.so"
COMPILE = ("gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-ffreestanding", "-nostdlib")


def obtain(layers: Layers) -> Path:
    """Return a library that is loaded before the kernel's libc: wide_registers.c says what for."""

    def build(content: Path) -> None:
        program.output([*COMPILE, "-o", str(content / LIBRARY), str(SOURCE)])

    key = key_of(*COMPILE, SOURCE.read_bytes())
    return layers.obtain("wide-registers", key, build) / LIBRARY
