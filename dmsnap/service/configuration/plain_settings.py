"""Settings that are certainly right, found so without pydantic.

To import it and to make its model takes as long as half of a recovery's start, and a host with one
setting would pay that with every command. What is in doubt is left to pydantic, which also names
every mistake.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

_EXACT = 2**53  # every whole number up to this is a float


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be. annotated_types says the same with thirteen classes."""

    lowest: float
    highest: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        limits = {"ge": self.lowest, "le": self.highest}
        return handler(source) | {name: end for name, end in limits.items() if end is not None}


class _InDoubtError(Exception):
    """A value that this cannot judge."""


def read(kind: type[Settings], values: Mapping[str, object]) -> Settings | None:
    """The dataclass that pydantic makes of them, too; None: it is for pydantic to say."""
    hints = get_type_hints(kind, include_extras=True)
    try:
        return kind(**{name: _value(hints.get(name), value) for name, value in values.items()})
    except _InDoubtError:
        return None


def _value(hint: Any, value: object) -> object:
    origin = get_origin(hint)
    if origin in (Union, UnionType):  # with None, which TOML does not have
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
        return _value(hint, value)
    if origin is Annotated:
        hint, limits = get_args(hint)
        return _within(limits, _value(hint, value))
    if hint is Path and type(value) is str:
        return Path(value)
    if hint is float and type(value) is int and abs(value) <= _EXACT:
        return float(value)
    # Not isinstance(): a bool is an int.
    if type(value) is hint:
        return value
    raise _InDoubtError


def _within(limits: Range, value: Any) -> object:
    highest = value if limits.highest is None else limits.highest
    if not limits.lowest <= value <= highest:  # nor is NaN
        raise _InDoubtError
    return value
