"""A descriptor, and a signal in the moment of opening."""

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest

from dmsnap.errors import InterruptedBySignal
from dmsnap.host import blockdev
from dmsnap.host.descriptor import opened
from dmsnap.host.signals import interruptible


def open_here(path: Path) -> list[str]:
    """The descriptors that this process has of a file."""
    found = Path("/proc/self/fd").iterdir()
    return [str(each) for each in found if each.is_symlink() and each.readlink() == path]


def signalled(*arguments: object) -> int:
    """open(2), and what is interrupted as soon as it returns."""
    descriptor = REAL(*arguments)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGTERM)
    return descriptor


REAL = os.open


def test_it_is_closed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        assert len(open_here(path)) == 1
        assert not os.get_inheritable(descriptor)
    assert open_here(path) == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_opened_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(tmp_path / "none", os.O_RDONLY):
        pass


def test_a_signal_as_it_is_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """An undo would find the device in use, by this very process."""
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    with (
        pytest.raises(InterruptedBySignal),
        interruptible(),
        patch.object(os, "open", signalled),
        blockdev.open_shared(path, direct=False),
    ):
        pytest.fail("it was not interrupted")
    assert open_here(path) == []
