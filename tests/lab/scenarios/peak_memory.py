"""The most memory that commands take, each as a process of its own."""

import json
import tempfile
from dataclasses import dataclass, field
from typing import Any

from conftest import run

KIB, MIB = 1024, 1024 * 1024
LIMIT_BYTES = 150 * MIB
HANGS_SECONDS = 1200


def measured(*argv: object, expected: int | None = 0) -> tuple[str, int]:
    """What a program writes, and the most that it or one that it started had resident, in bytes.

    GNU time starts it, and tells what wait4(2) says of it. The kernel counts for a process what it
    had before exec, too, which is what it was forked from: pytest has more than many a command.
    """
    with tempfile.NamedTemporaryFile(prefix="peak-") as figure:
        time = ("/usr/bin/time", "--quiet", "--format=%M", f"--output={figure.name}")
        written = run(*time, *argv, expected=expected, timeout=HANGS_SECONDS)
        return written, int(figure.read()) * KIB


@dataclass
class Peaks:
    """What commands took at most, by their words."""

    bytes_by_command: dict[str, int] = field(default_factory=dict)

    def dmsnap(self, *words: object, expected: int | None = 0) -> Any:
        """Run a command with ``--json`` and note what it took; its result."""
        written, peak_bytes = measured("dmsnap", *words, "--json", expected=expected)
        command = " ".join(map(str, words))
        print(f"{peak_bytes / MIB:6.1f} MiB  {command}")
        self.bytes_by_command[command] = max(peak_bytes, self.bytes_by_command.get(command, 0))
        return json.loads(written)

    def require_small(self) -> None:
        """None took more than any may."""
        too_large = {c: peak for c, peak in self.bytes_by_command.items() if peak > LIMIT_BYTES}
        assert self.bytes_by_command, "nothing was measured"
        assert not too_large, f"more than {LIMIT_BYTES} bytes: {too_large}"
