"""What the runner says about itself, on stderr: stdout is COMMAND's."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """Says what takes long; with `verbose` also how long it took."""

    verbose: bool

    def say(self, sentence: str) -> None:
        """Print one line."""
        print(f"lab: {sentence}", file=sys.stderr, flush=True)

    def detail(self, sentence: str) -> None:
        """Print one line if the user asked for more."""
        if self.verbose:
            self.say(sentence)

    @contextmanager
    def timed(self, doing: str) -> Iterator[None]:
        """Announce something slow, and say afterwards how long it took."""
        self.say(f"{doing} …")
        begin = time.monotonic()
        yield
        self.detail(f"{doing} took {time.monotonic() - begin:.1f} s")
