"""Errors: a sentence, fields, a hint, and an exit code of its own for each kind."""

import inspect
import re
from pathlib import Path

import pytest

from dmsnap import errors
from dmsnap.errors import (
    DmsnapError,
    ExitCode,
    InterruptedBySignal,
    MissingTargetError,
    MountPointTakenError,
    NotThisFormatError,
    ReadOnlyError,
    StoreOnVolumeError,
    TooSmallError,
)
from dmsnap.units import GIB

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, DmsnapError) and kind is not DmsnapError
]


def test_every_kind_has_an_exit_code_of_its_own() -> None:
    """But what is a kind of another, and what ends with the signal's code."""
    codes = {
        kind: kind.exit_code
        for kind in CLASSES
        if kind not in (NotThisFormatError, MountPointTakenError, InterruptedBySignal)
    }
    assert len(set(codes.values())) == len(codes)
    assert ExitCode.FAILURE not in codes.values()


def test_exit_codes_are_what_a_shell_can_tell_apart() -> None:
    values = [code.value for code in ExitCode]
    assert len(set(values)) == len(values)
    below_signals = [value for value in values if value < 125]
    assert [value for value in values if value not in below_signals] == [130, 143]


def test_the_manual_lists_every_exit_code() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "MANUAL.md").read_text()
    section = manual.split("## Exit codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \| (.+) \|$", section, re.MULTILINE)
    assert [(int(number), name) for number, name, _ in rows] == [
        (code.value, code.name) for code in ExitCode
    ]
    assert all(meaning.strip() for _, _, meaning in rows)


def test_an_error_carries_what_it_was_made_of() -> None:
    error = TooSmallError("/dev/sdb", GIB, GIB + 4096, "a recovery volume of /dev/sda")
    assert str(error) == (
        "/dev/sdb has 1 GiB, a recovery volume of /dev/sda needs 1.0 GiB: 4096 bytes are missing"
    )
    assert error.fields["missing_bytes"] == 4096
    assert error.hint is None
    assert error.exit_code is ExitCode.TOO_SMALL


@pytest.mark.parametrize(
    ("target", "module"),
    [("era", "dm-era"), ("snapshot-origin", "dm-snapshot"), ("snapshot", "dm-snapshot")],
)
def test_a_missing_target_names_its_module(target: str, module: str) -> None:
    error = MissingTargetError(target)
    assert repr(target) in str(error)
    assert error.hint == f"load it with: modprobe {module}"


def test_sentences_name_the_device() -> None:
    assert "/dev/sdb" in str(ReadOnlyError("/dev/sdb", "protecting"))
    error = StoreOnVolumeError("/srv/store", "/dev/sda")
    assert "/srv/store" in str(error)
    assert "/dev/sda" in str(error)
    assert error.hint
