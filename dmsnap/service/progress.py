"""Progress of long work, as bytes done of bytes in all."""

from collections.abc import Callable

Progress = Callable[[int, int], None]


def of_total(progress: Progress | None, total_bytes: int) -> Callable[[int], None] | None:
    """``progress`` as the copy engine calls it, with the bytes done alone."""
    if progress is None:
        return None

    def report(done_bytes: int) -> None:
        progress(done_bytes, total_bytes)

    return report
