"""Two guests with a network of their own: packets pass, and pass again after a pulled plug."""

from collections.abc import Iterator

import pytest
from harness.cable import cable
from harness.computer import Computer, computer

ADDRESSES = ("10.77.0.1", "10.77.0.2")
MEMORY_MIB = 768
# To a port where nobody listens: what the dead do not receive must not reach who comes after them.
DATAGRAM = (
    "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "[s.sendto(bytes(1000), (sys.argv[1], 9)) for _ in range(300)]"
)


@pytest.fixture(scope="module")
def guests() -> Iterator[tuple[Computer, Computer]]:
    with (
        cable() as (one, two),
        computer({}, init="minimal", memory_mib=MEMORY_MIB, plug=one) as left,
        computer({}, init="minimal", memory_mib=MEMORY_MIB, plug=two) as right,
    ):
        for guest, address in zip((left, right), ADDRESSES, strict=True):
            start(guest, address)
        yield left, right


def start(guest: Computer, address: str) -> None:
    guest.boot()
    guest.shell(f"ip address add {address}/24 dev vec0; ip link set vec0 up")


def send(sender: Computer, receiver: Computer, address: str) -> None:
    """A mebibyte over TCP, and its digest there."""
    sender.shell("head -c 1M /dev/urandom >/tmp/sent")
    receiver.shell(
        'python3 -c \'import socket; s = socket.create_server(("0.0.0.0", 9)); '
        'c = s.accept()[0]; f = open("/tmp/received", "wb")\n'
        "while d := c.recv(65536): f.write(d)' >/dev/null 2>&1 & echo $! >/tmp/receiver\n"
        "until grep -q ':0009 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done"
    )
    sender.shell(f"cat /tmp/sent >/dev/tcp/{address}/9")
    receiver.shell("tail --pid=$(cat /tmp/receiver) -f /dev/null")
    digests = [
        guest.run("sha256sum", path).split()[0]
        for guest, path in ((sender, "/tmp/sent"), (receiver, "/tmp/received"))  # noqa: S108
    ]
    assert digests[0] == digests[1]


def test_both_ways(guests: tuple[Computer, Computer]) -> None:
    left, right = guests
    send(left, right, ADDRESSES[1])
    send(right, left, ADDRESSES[0])


def test_after_one_was_cut_off(guests: tuple[Computer, Computer]) -> None:
    left, right = guests
    left.pull_plug()
    right.shell(f"python3 -c '{DATAGRAM}' {ADDRESSES[0]}")
    start(left, ADDRESSES[0])
    send(right, left, ADDRESSES[0])
    send(left, right, ADDRESSES[1])
