"""Log records as entries of systemd's journal, with fields that can be searched for.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of fields. Where standard error
is not the journal's, records go there as lines.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
STREAM_VARIABLE = "JOURNAL_STREAM"

# What a record may carry (``extra=``); the journal has it as DMSNAP_VOLUME and so on.
FIELDS = ("volume", "operation", "job", "point")

# A datagram is limited by the socket's buffer, 208 KiB by default; longer ones need a memfd.
VALUE_BYTES = 32768

_STANDARD_ERROR = 2

# syslog(3)
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_CRITICAL = 2


class JournalHandler(logging.Handler):
    """Sends records to the journal; what it does not take is written to standard error."""

    def __init__(self, identifier: str, address: Path = SOCKET) -> None:
        super().__init__()
        self.identifier = identifier
        self.address = str(address)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(entry(record, self.format(record), self.identifier), self.address)
        except OSError:
            self.handleError(record)


def entry(record: logging.LogRecord, message: str, identifier: str) -> bytes:
    """The datagram for a record."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(_PRIORITIES.get(record.levelno, _CRITICAL)),
        "SYSLOG_IDENTIFIER": identifier,
        "DMSNAP_LOGGER": record.name,
        **dict(_extra(record)),
    }
    return b"".join(_field(name, _bytes(value)) for name, value in fields.items())


def _bytes(value: str) -> bytes:
    """Names of files may have bytes in them that are no UTF-8: those are surrogates here."""
    return value.encode(errors="backslashreplace")[:VALUE_BYTES]


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    for name in FIELDS:
        value = getattr(record, name, None)
        if value is not None:
            yield f"DMSNAP_{name.upper()}", str(value)


def _field(name: str, value: bytes) -> bytes:
    """A value with a line's end in it is preceded by its length."""
    if b"\n" not in value:
        return b"%b=%b\n" % (name.encode(), value)
    return b"%b\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)


def handler(
    identifier: str,
    environment: Mapping[str, str] = os.environ,
    descriptor: int = _STANDARD_ERROR,
) -> logging.Handler:
    """Where a service's records go: the journal, or else standard error."""
    if _is_journal(descriptor, environment.get(STREAM_VARIABLE, "")):
        entries = JournalHandler(identifier)
        entries.setFormatter(logging.Formatter("%(message)s"))
        return entries
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter(f"{identifier}: %(message)s"))
    return lines


def _is_journal(descriptor: int, stream: str) -> bool:
    """Whether systemd connected a descriptor to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    status = os.fstat(descriptor)
    return stream == f"{status.st_dev}:{status.st_ino}"
