"""Text for terminals: what files, programs and labels are called is chosen by others.

A control character is a command to a terminal, and a byte that is no UTF-8 is refused by a stream
that is strict: both are shown as their code. Newlines and tabs are ours.
"""

import logging
import re

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# JSON has the others as codes already.
_LEFT_BY_JSON = re.compile("[\x7f-\x9f\ud800-\udfff]")
# A byte that is no UTF-8 in a name (PEP 383).
_BYTES, _SURROGATES = range(0xDC80, 0xDD00), 0xDC00


def shown(text: str) -> str:
    """``text`` as it may be written to a terminal."""
    return _COMMANDS.sub(_code, text)


def shown_in_json(text: str) -> str:
    """The same of a JSON text, which stays the same value."""
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number in _BYTES:
        number -= _SURROGATES
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class Formatter(logging.Formatter):
    """What is told beside a result."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))
