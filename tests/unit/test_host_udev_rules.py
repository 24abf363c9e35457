"""The udev rules, read as text: what they match and that every jump lands."""

import fnmatch
import re
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "udev-rules" / "11-dmsnap.rules"
VOLUME = "0b5a4f0e-51a4-4f0c-9a77-5d3ed6d5d4a2"


def rules() -> list[str]:
    lines = RULES.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def matches(key: str, operator: str) -> list[str]:
    pattern = re.compile(rf'{re.escape(key)}{operator}"([^"]*)"')
    return [match[1] for line in rules() for match in pattern.finditer(line)]


def test_every_jump_lands_below() -> None:
    labels = {match[1]: at for at, line in enumerate(rules()) if (match := is_label(line))}
    for at, line in enumerate(rules()):
        for target in re.findall(r'GOTO="([^"]+)"', line):
            assert labels[target] > at


def is_label(line: str) -> re.Match[str] | None:
    return re.match(r'LABEL="([^"]+)"', line)


def test_rules_are_well_formed() -> None:
    item = re.compile(r'[A-Z_]+(\{[^}]+\})?(==|!=|=|\+=|:=)"[^"]*"')
    for line in rules():
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
