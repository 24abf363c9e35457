"""user-mode-linux of another suite than the tree's."""

import shutil
import tempfile
from pathlib import Path

from harness import packages
from harness.cache import Layers, key_of

PACKAGE = "user-mode-linux"
PROGRAM = "linux.uml"
MODULES = "modules"


def obtain(layers: Layers, suite: str) -> Path:
    """Return the directory with the kernel of a suite, a program, and its modules."""

    def build(content: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="jail-", dir=content.parent) as name:
            extracted = Path(name) / "packages"
            packages.extract(suite, (PACKAGE,), extracted)
            shutil.copy2(extracted / "usr/bin/linux.uml", content / PROGRAM)
            shutil.copytree(extracted / "usr/lib/uml/modules", content / MODULES)

    return layers.obtain(f"uml-{suite}", key_of(suite, Path(__file__).read_bytes()), build)
