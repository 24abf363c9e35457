"""I/O priorities: as ionice(1) sees them, and back again."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from dmsnap._native import io_priority
from dmsnap._native.io_priority import IoClass, IoPriority, lowered
from dmsnap.errors import DmsnapError
from dmsnap.service.configuration.configuration_check import check

LOW = IoPriority(IoClass.BEST_EFFORT, 7)
IDLE = IoPriority(IoClass.IDLE)


def seen() -> str:
    """What util-linux says of this thread."""
    ionice = shutil.which("ionice")
    if ionice is None:
        pytest.skip("ionice is not installed")
    pid = str(threading.get_native_id())
    return subprocess.run([ionice, "-p", pid], capture_output=True, text=True, check=True).stdout


def test_it_is_lowered_for_a_while() -> None:
    before = io_priority.current()
    with lowered(LOW):
        assert seen() == "best-effort: prio 7\n"
        with lowered(IDLE):
            assert seen() == "idle\n"
        assert io_priority.current() == LOW
    assert io_priority.current() == before
    with lowered(None):
        assert io_priority.current() == before


def test_it_comes_back_whatever_happens() -> None:
    before = io_priority.current()
    with pytest.raises(KeyError), lowered(IDLE):
        raise KeyError
    assert io_priority.current() == before


def test_threads_begun_meanwhile_have_it() -> None:
    found: list[IoPriority] = []
    with lowered(IDLE):
        thread = threading.Thread(target=lambda: found.append(io_priority.current()))
        thread.start()
        thread.join()
    assert found == [IDLE]


def test_texts() -> None:
    for each in (LOW, IDLE, IoPriority(IoClass.NONE)):
        assert IoPriority.parse(str(each)) == each
    assert str(LOW) == "best-effort:7"
    for text in ("", "idler", "best-effort:x", "best-effort:"):
        with pytest.raises(ValueError, match="is no I/O priority"):
            IoPriority.parse(text)


def test_what_there_is_not_is_refused() -> None:
    before = io_priority.current()
    with pytest.raises(DmsnapError, match="there is no I/O priority"):
        io_priority.apply(IoPriority(IoClass.BEST_EFFORT, 8))
    assert io_priority.current() == before


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", None),
        ('io_class = "idle"', IDLE),
        ('io_class = "best-effort"', IoPriority(IoClass.BEST_EFFORT, 0)),
        ('io_class = "best-effort"\nio_level = 7', LOW),
    ],
)
def test_what_a_policy_declares(tmp_path: Path, keys: str, expected: IoPriority | None) -> None:
    (tmp_path / "dmsnap.toml").write_text(f"[policy.p]\n{keys}\n")
    checked = check(tmp_path, calendars=False)
    assert checked.ok
    assert checked.declared.policy["p"].io_priority == expected


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('io_class = "realtime"', "best-effort"),
        ('io_class = "best-effort"\nio_level = 8', "less than or equal to 7"),
        ('io_class = "idle"\nio_level = 3', "means nothing without"),
        ("io_level = 3", "means nothing without"),
        ('io_class = "idle"\nmake = "snapshot"', "means nothing where"),
    ],
)
def test_what_none_can_declare(tmp_path: Path, keys: str, sentence: str) -> None:
    (tmp_path / "dmsnap.toml").write_text(f"[policy.p]\n{keys}\n")
    (found,) = check(tmp_path, calendars=False).mistakes
    assert sentence in str(found)
