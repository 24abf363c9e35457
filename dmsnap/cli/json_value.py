"""Results as JSON: one function for all of them.

A time in nanoseconds, ``created_ns``, has the same moment beside it as ISO 8601, ``created``.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from pathlib import PurePath
from uuid import UUID

from dmsnap.catalogue.clock import format_time
from dmsnap.cli import terminal_text

_NANOSECONDS = "_ns"


def to_json(value: object) -> object:
    """``value`` in what ``json.dumps`` knows: dataclasses, UUIDs, enums, paths, sequences."""
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return _enum(value)
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _object({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return _object({str(key): item for key, item in value.items()})
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    return str(value)


def _enum(value: Enum) -> object:
    if isinstance(value, Flag):
        return [str(member.name).lower() for member in value]
    return value.value if isinstance(value.value, str) else value.name.lower()


def _object(members: Mapping[str, object]) -> dict[str, object]:
    written: dict[str, object] = {}
    for name, value in members.items():
        written[name] = to_json(value)
        if name.endswith(_NANOSECONDS) and isinstance(value, int):
            written[name.removesuffix(_NANOSECONDS)] = format_time(value) if value else None
    return written


def dumps(value: object) -> str:
    """``value`` as a JSON text for people to read, too."""
    return terminal_text.shown_in_json(json.dumps(to_json(value), indent=2, ensure_ascii=False))
