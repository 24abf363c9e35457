"""The udev rules, read as text: what they match and that every jump lands."""

import fnmatch
import re
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parents[2] / "udev-rules"
RULES = DIRECTORY / "11-dmsnap.rules"
SNAPSHOTS = DIRECTORY / "11-dmsnap-snapshots.rules"
MAPS = DIRECTORY / "59-dmsnap-maps.rules"
TYPES = DIRECTORY / "64-2-dmsnap-twins.rules"
EACH = pytest.mark.parametrize("path", [RULES, SNAPSHOTS, MAPS, TYPES], ids=lambda path: path.name)
VOLUME = "0b5a4f0e-51a4-4f0c-9a77-5d3ed6d5d4a2"


def rules(path: Path = RULES) -> list[str]:
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def matches(key: str, operator: str, path: Path = RULES) -> list[str]:
    pattern = re.compile(rf'{re.escape(key)}{operator}"([^"]*)"')
    return [match[1] for line in rules(path) for match in pattern.finditer(line)]


@EACH
def test_every_jump_lands_below(path: Path) -> None:
    labels = {match[1]: at for at, line in enumerate(rules(path)) if (match := is_label(line))}
    for at, line in enumerate(rules(path)):
        for target in re.findall(r'GOTO="([^"]+)"', line):
            assert labels[target] > at


def is_label(line: str) -> re.Match[str] | None:
    return re.match(r'LABEL="([^"]+)"', line)


@EACH
def test_rules_are_well_formed(path: Path) -> None:
    item = re.compile(r'[A-Z_]+(\{[^}]+\})?(==|!=|=|\+=|:=)"[^"]*"')
    for line in rules(path):
        for part in line.split(", "):
            assert item.fullmatch(part), part


@pytest.mark.parametrize(
    ("uuid", "ours", "front"),
    [
        (f"DMSNAP-{VOLUME}-front", True, True),
        (f"DMSNAP-{VOLUME}-origin", True, False),
        (f"DMSNAP-{VOLUME}-point-front", True, False),
        ("LVM-abc", False, False),
        ("", False, False),
    ],
)
def test_whom_they_match(uuid: str, ours: bool, front: bool) -> None:
    (prefix,) = matches("ATTR{dm/uuid}", "!=")
    (shown,) = matches("ATTR{dm/uuid}", "==")
    assert fnmatch.fnmatchcase(uuid, prefix) is ours
    assert fnmatch.fnmatchcase(uuid, shown) is front


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("vg-dmsnap--snapshot--0a1b2c3d", True),
        ("my--vg-dmsnap--snapshot--0a1b2c3d", True),
        ("vg-dmsnap--snapshot--0a1b2c3d-cow", False),
        ("vg-data", False),
        ("dmsnap--snapshot--0a1b2c3d", False),
    ],
)
def test_which_snapshots_are_hidden(name: str, ours: bool) -> None:
    (pattern,) = matches("ATTR{dm/name}", "!=", SNAPSHOTS)
    assert fnmatch.fnmatchcase(name, pattern) is ours
    (prefix,) = matches("ATTR{dm/uuid}", "!=", SNAPSHOTS)
    assert fnmatch.fnmatchcase("LVM-abc", prefix)
    assert not fnmatch.fnmatchcase(f"DMSNAP-{VOLUME}-front", prefix)
