"""In the guest `import dmsnap` means the installed one.

`python3 -m` puts the current directory first, and the checkout there has no native parts.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

INSTALLED = "/opt/lab/dmsnap/lib"


class InstalledDmsnap:
    """Finds the top package; its submodules follow from there."""

    @staticmethod
    def find_spec(
        name: str,
        _path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return where dmsnap is installed, and nothing for other names."""
        return PathFinder.find_spec(name, [INSTALLED], target) if name == "dmsnap" else None


sys.meta_path.insert(0, InstalledDmsnap)
