"""The way to an iSCSI portal: a route, the link that it takes, and whether something listens.

Asked before a login, whose own deadlines are minutes, and after a failure, to name its reason.
"""

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dmsnap.errors import OperatingSystemError, UnreachableError
from dmsnap.host.portal import Portal
from dmsnap.host.system_call import failure, system_call

# linux/if.h, linux/rtnetlink.h
IFF_UP = 1
RTMGRP_LINK = 1

# What IFLA_OPERSTATE says of links that carry nothing; loopback and dummy links say UNKNOWN.
DEAD = ("DOWN", "NOTPRESENT", "LOWERLAYERDOWN", "DORMANT")

CONNECT_SECONDS = 5.0
NETLINK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    up: bool


def require(portal: Portal, *, connect_seconds: float = CONNECT_SECONDS) -> None:
    """Raise :class:`UnreachableError` unless a route, a link that is up and a listener are there.

    Opens a connection and closes it again. Needs no privileges.
    """
    link = link_to(portal)
    if not link.up:
        raise UnreachableError(f"the link {link.name} to {portal} is down", portal=str(portal))
    try:
        with socket.create_connection((portal.address, portal.port), connect_seconds):
            pass
    except OSError as error:
        raise _unreachable(portal, error, connect_seconds) from error


def _unreachable(portal: Portal, error: OSError, connect_seconds: float) -> UnreachableError:
    if isinstance(error, ConnectionRefusedError):
        sentence = f"nothing listens at {portal}"
    elif isinstance(error, TimeoutError):
        sentence = f"{portal} does not answer within {connect_seconds:g} s"
    else:
        sentence = f"{portal} cannot be reached: {error.strerror}"
    return UnreachableError(sentence, portal=str(portal))


def link_to(portal: Portal) -> Link:
    """The link that packets to ``portal`` take, else :class:`UnreachableError`."""
    # Imported where there is a portal: it takes a third of a command's start.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        try:
            route = next(iter(netlink.route("get", dst=portal.address)))
        except NetlinkError as error:
            if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise UnreachableError(
                    f"there is no route to {portal}", portal=str(portal)
                ) from error
            raise failure(f"ask for the route to {portal}", error.code) from error
        return _link(next(iter(netlink.get_links(route.get_attr("RTA_OIF")))))


@dataclass(frozen=True, slots=True)
class LinkWatch:
    """What happens to the link to a portal. Made by :func:`watched`."""

    portal: Portal
    link: Link
    listener: socket.socket

    def events(self) -> list[str]:
        """What the kernel has announced so far, as sentences: it went down, it came up again."""
        found: list[str] = []
        was_up = True
        for message in self._messages():
            if message["index"] != self.link.index:
                continue
            gone = message["event"] == "RTM_DELLINK"
            up = not gone and _link(message).up
            if up != was_up:
                did = "came up again" if up else "was taken away" if gone else "went down"
                found.append(f"the link {self.link.name} to {self.portal} {did} meanwhile")
            was_up = up
        return found

    def _messages(self) -> Iterator[Mapping[str, Any]]:
        """The socket keeps them until they are asked for: nothing need run meanwhile."""
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        marshal = MarshalRtnl()
        with suppress(BlockingIOError):
            while True:
                try:
                    received = self.listener.recv(NETLINK_BYTES, socket.MSG_DONTWAIT)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # some were lost, the latest were not
                        raise
                    continue
                yield from marshal.parse(received)


@contextmanager
def watched(portal: Portal) -> Iterator[LinkWatch | None]:
    """Listen to what the kernel says of links while something uses the way to ``portal``.

    None where there is no way to it already.
    """
    try:
        link = link_to(portal)
    except (UnreachableError, OperatingSystemError):
        yield None
        return
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with system_call("listen to the kernel's announcements of links"):
        listener = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    with listener:
        with system_call("listen to the kernel's announcements of links"):
            listener.bind((0, RTMGRP_LINK))
        yield LinkWatch(portal, link, listener)


def _link(message: Mapping[str, Any]) -> Link:
    attributes = dict(message["attrs"])
    up = bool(message["flags"] & IFF_UP) and attributes.get("IFLA_OPERSTATE") not in DEAD
    return Link(message["index"], attributes["IFLA_IFNAME"], up)
