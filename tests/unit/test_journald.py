"""Log records as entries of the journal."""

import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from dmsnap.host import journald
from dmsnap.host.journald import JournalHandler


def record(message: str, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("dmsnap.x", level, __file__, 1, message, None, None)
    made.__dict__.update(extra)
    return made


def test_fields_of_a_record() -> None:
    found = journald.entry(record("m", volume="data", job=7, point=None), "said", "dmsnapd")
    assert found.split(b"\n")[:-1] == [
        b"MESSAGE=said",
        b"PRIORITY=4",
        b"SYSLOG_IDENTIFIER=dmsnapd",
        b"DMSNAP_LOGGER=dmsnap.x",
        b"DMSNAP_VOLUME=data",
        b"DMSNAP_JOB=7",
    ]


def test_lines_do_not_make_fields() -> None:
    """What is logged may come from elsewhere: it must not end its own field."""
    found = journald.entry(record("m"), "one\nPRIORITY=0", "dmsnapd")
    assert found.startswith(b"MESSAGE\n" + (14).to_bytes(8, "little") + b"one\nPRIORITY=0\n")


def test_what_is_no_text_is_logged_all_the_same() -> None:
    """A service that failed of it would do so again at each of its starts."""
    path = os.fsdecode(b"/srv/\xff.img")
    found = journald.entry(record("m", volume=path), f"{path} is gone", "dmsnapd")
    assert b"MESSAGE=/srv/\\udcff.img is gone\n" in found
    assert b"DMSNAP_VOLUME=/srv/\\udcff.img\n" in found


def test_the_handler_sends_one_datagram(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(10)
        handler = JournalHandler("dmsnapd", tmp_path / "journal")
        handler.emit(record("x" * 200_000, logging.CRITICAL))
        received = receiver.recv(1 << 20)
    assert b"\nPRIORITY=2\n" in received
    assert len(received) < 2 * journald.VALUE_BYTES


def test_only_where_standard_error_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        status = os.fstat(stream.fileno())
        connected = f"{status.st_dev}:{status.st_ino}"
        entries = journald.handler("d", {"JOURNAL_STREAM": connected}, stream.fileno())
        assert isinstance(entries, JournalHandler)
        for environment in ({}, {"JOURNAL_STREAM": "1:2"}):
            lines = journald.handler("d", environment, stream.fileno())
            lines.emit(record("said"))
    assert (tmp_path / "stream").read_text() == "d: said\n" * 2
