"""The way to a portal: who listens, and what the kernel says of links."""

import socket
from collections.abc import Iterator

import pytest
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from dmsnap.errors import ExitCode, UnreachableError
from dmsnap.host import route
from dmsnap.host.portal import Portal
from dmsnap.host.route import IFF_UP, Link, LinkWatch

PORTAL = Portal("192.0.2.7")
LINK = Link(7, "eth7", up=True)


def test_a_portal_that_listens_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        portal = Portal("127.0.0.1", server.getsockname()[1])
        route.require(portal)
        assert route.link_to(portal).name == "lo"
    with pytest.raises(UnreachableError, match=f"nothing listens at {portal}") as caught:
        route.require(portal)
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_portals_are_written_as_they_are_typed() -> None:
    assert str(PORTAL) == "192.0.2.7:3260"
    assert str(Portal("2001:db8::1", 860)) == "[2001:db8::1]:860"


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, LinkWatch]]:
    """Who announces links, and a watch that listens."""
    sender, listener = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, listener:
        yield sender, LinkWatch(PORTAL, LINK, listener)


def announced(index: int, state: str, *, up: bool = True, kind: int = RTM_NEWLINK) -> bytes:
    message = ifinfmsg()
    message["index"] = index
    message["flags"] = IFF_UP if up else 0
    message["attrs"] = [("IFLA_IFNAME", f"eth{index}"), ("IFLA_OPERSTATE", state)]
    message["header"]["type"] = kind
    message.encode()
    return bytes(message.data)


def test_what_happened_to_the_link_is_told_in_its_order(
    kernel: tuple[socket.socket, LinkWatch],
) -> None:
    sender, watch = kernel
    for message in (
        announced(7, "UP"),
        announced(8, "DOWN"),
        announced(7, "DOWN"),
        announced(7, "DOWN", up=False),
        announced(7, "UNKNOWN"),
        announced(7, "UP", up=False),
        announced(7, "DOWN", kind=RTM_DELLINK),
    ):
        sender.send(message)
    assert watch.events() == [
        "the link eth7 to 192.0.2.7:3260 went down meanwhile",
        "the link eth7 to 192.0.2.7:3260 came up again meanwhile",
        "the link eth7 to 192.0.2.7:3260 went down meanwhile",
    ]
    assert watch.events() == []


def test_a_link_that_is_taken_away(kernel: tuple[socket.socket, LinkWatch]) -> None:
    sender, watch = kernel
    sender.send(announced(7, "UP", kind=RTM_DELLINK))
    assert watch.events() == ["the link eth7 to 192.0.2.7:3260 was taken away meanwhile"]


def test_a_watch_on_the_kernel_itself() -> None:
    with route.watched(Portal("127.0.0.1")) as watch:
        assert watch is not None
        assert watch.link.up
        assert watch.events() == []
