"""Mistakes in configuration files: where, what, what is allowed, and what was probably meant."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dmsnap.errors import ConfigurationError
from dmsnap.service.configuration import toml_position

_VALUE_ERROR = "Value error, "
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)")
_QUOTED = re.compile(r"'([^']*)'")

HINT = "dmsnap config check shows every mistake with its line"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a key. ``allowed``: the words that could stand there, if they are few."""

    key: tuple[str | int, ...]
    sentence: str
    allowed: tuple[str, ...] = ()
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Mistake:
    """A flaw and the place of the key, or of the table that it is missing in."""

    file: str
    line: int | None
    key: str
    sentence: str
    allowed: tuple[str, ...] = ()
    nearest: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = f"{place}: {self.key}" if self.key else place
        meant = f"; did you mean {self.nearest}?" if self.nearest else ""
        allowed = f"; allowed are {', '.join(self.allowed)}" if self.allowed else ""
        return f"{subject}: {self.sentence}{meant}{allowed}"


def dotted(key: Sequence[str | int]) -> str:
    """``policy.daily.hooks[0]``; a name that TOML wants in quotes has them."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_bare(part)}" for part in key]
    return "".join(parts).removeprefix(".")


def _bare(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'


def of_word(key: Sequence[str | int], sentence: str, word: str, allowed: Sequence[str]) -> Flaw:
    """The flaw of a word that is none of ``allowed``, with the nearest of them."""
    near = get_close_matches(word, allowed, n=1)
    return Flaw(tuple(key), sentence, tuple(allowed), near[0] if near else None)


def of_key(key: Sequence[str | int], allowed: Sequence[str]) -> Flaw:
    """The flaw of a key that may not stand where it does."""
    word = str(key[-1])
    if word in allowed:
        return Flaw(tuple(key), f"is for tables: write [{word}.NAME]")
    return of_word(key, "there is no such key", word, allowed)


def of_validation(
    errors: Sequence[Any],
    above: Sequence[str],
    allowed: Mapping[str, Sequence[str]],
    choices: Mapping[str, Sequence[str]],
) -> Iterator[Flaw]:
    """What pydantic found (``ValidationError.errors()``) in a table below the key ``above``.

    ``allowed``: the keys of the table, under ``""``, and of those inside it, under their names.
    ``choices``: the words of keys that have a choice of some, told where such a key is missing.
    """
    for error in errors:
        key = (*above, *error["loc"])
        kind, words = error["type"], _QUOTED.findall(str(error.get("ctx", {}).get("expected", "")))
        if kind == "unexpected_keyword_argument":
            inside = str(error["loc"][0]) if len(error["loc"]) > 1 else ""
            yield of_key(key, allowed.get(inside, ()))
        elif kind in ("enum", "literal_error"):
            yield of_word(key, f"{error['input']!r} is no choice", str(error["input"]), words)
        elif kind == "missing":
            yield Flaw(key, _sentence(error), tuple(choices.get(dotted(error["loc"]), ())))
        else:
            yield Flaw(key, _sentence(error))


_SENTENCES = {
    "dataclass_type": "must be a table",
    "missing": "is missing",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def _sentence(error: Any) -> str:
    message: str = error["msg"]
    if message.startswith(_VALUE_ERROR):
        return message.removeprefix(_VALUE_ERROR)
    return _SENTENCES.get(error["type"], message.replace("Input should be", "must be"))


def located(file: str, text: str, flaw: Flaw) -> Mistake:
    """The mistake that a flaw of ``file``, which holds ``text``, is."""
    line = toml_position.line_of(text, tuple(str(part) for part in flaw.key))
    return Mistake(file, line, dotted(flaw.key), flaw.sentence, flaw.allowed, flaw.nearest)


def of_error(file: str, error: ConfigurationError) -> Mistake:
    """The mistake of a file that could not be read at all; tomllib says where, in its way."""
    sentence = str(error).removeprefix(file).lstrip(": ")
    found = _AT_LINE.search(sentence)
    if found is None:
        return Mistake(file, None, "", sentence)
    return Mistake(file, int(found[1]), "", f"{sentence[: found.start()]}, column {found[2]}")


def configuration_error(mistakes: Sequence[Mistake]) -> ConfigurationError:
    """One error for all mistakes."""
    sentence = "; ".join(map(str, mistakes))
    return ConfigurationError(sentence, hint=HINT, mistakes=list(mistakes))
