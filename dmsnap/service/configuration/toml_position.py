"""In which line of a TOML file a key is.

Neither tomllib nor another parser that is packaged says it. But a statement is over with the first
line with which tomllib can read it by itself: a string or an array that goes on is none before. So
the lines are found by the parser that reads the file, and by no second one that could differ.
"""

import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache

Key = tuple[str, ...]


@lru_cache(maxsize=16)
def lines(text: str) -> Mapping[Key, int]:
    """The line, counted from 1, in which each key and table of a file begins that tomllib reads."""
    found: dict[Key, int] = {}
    header: Key = ()
    for line, statement, values in _statements(text):
        keys = list(_keys(values))
        if statement.lstrip().startswith("["):
            header = keys[-1]
            keys = [header[:length] for length in range(1, len(header) + 1)]
        else:
            keys = [(*header, *key) for key in keys]
        for key in keys:
            found.setdefault(key, line)
    return found


def line_of(text: str, key: Key) -> int | None:
    """The line of ``key``, or of the innermost table around it that has one."""
    known = lines(text)
    prefixes = (key[:length] for length in range(len(key), 0, -1))
    return next((known[prefix] for prefix in prefixes if prefix in known), None)


def _statements(text: str) -> Iterator[tuple[int, str, Mapping[str, object]]]:
    """Each statement, the line in which it begins, and what it says. Comments say nothing."""
    pending: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        pending.append(line)
        statement = "\n".join(pending)
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if values:
            yield number - len(pending) + 1, statement, values
        pending = []


def _keys(values: object, above: Key = ()) -> Iterator[Key]:
    """Every key in ``values``, outer ones first; a table of an array is looked for in its array."""
    if isinstance(values, list) and values and isinstance(values[-1], dict):
        yield from _keys(values[-1], above)
    if isinstance(values, dict):
        for name, value in values.items():
            yield (*above, name)
            yield from _keys(value, (*above, name))
