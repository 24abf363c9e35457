"""What a service tells systemd, told to a socket of our own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dmsnap.host.notification import Notifier

PATH, ABSTRACT = "path", "abstract"


@pytest.fixture(params=[PATH, ABSTRACT])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as systemd gives it, and the socket behind it."""
    name = str(tmp_path / "notify") if request.param == PATH else f"@dmsnap-test-{uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        receiver.settimeout(10)
        yield name, receiver


def test_each_state_is_a_datagram(systemd: tuple[str, socket.socket]) -> None:
    address, receiver = systemd
    notifier = Notifier.of({"NOTIFY_SOCKET": address})
    notifier.ready("watching data")
    notifier.alive()
    notifier.status("two\nlines")
    notifier.stopping("ending")
    assert [receiver.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=watching data",
        b"WATCHDOG=1",
        b"STATUS=two lines",
        b"STOPPING=1\nSTATUS=ending",
    ]


def test_nobody_to_tell(tmp_path: Path) -> None:
    Notifier().ready("x")
    Notifier.of({"NOTIFY_SOCKET": ""}).alive()
    Notifier(str(tmp_path / "gone")).stopping("x")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_long_systemd_waits(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier.of(environment).watchdog_seconds == seconds
