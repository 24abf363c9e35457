"""The network interfaces of this host: whether an address to listen at is its own, and up."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from dmsnap.errors import NotFoundError, WrongStateError, WrongWordError

IFF_UP = 1  # linux/if.h

# RFC 2863's words. Loopback and dummy interfaces say UNKNOWN for good.
OPERATING = ("UP", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface and its addresses, without their lengths; ``state`` is RFC 2863's word."""

    name: str
    up: bool
    state: str
    addresses: tuple[str, ...]

    @property
    def carries(self) -> bool:
        return self.up and self.state in OPERATING


def interfaces() -> list[Interface]:
    """Those of this network namespace. Needs no privileges."""
    # Imported where it is needed: it takes as long as the rest of a command's start.
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        links, addresses = list(netlink.get_links()), list(netlink.get_addr())
    return [
        Interface(
            name=str(link.get_attr("IFLA_IFNAME")),
            up=bool(link["flags"] & IFF_UP),
            state=str(link.get_attr("IFLA_OPERSTATE")),
            addresses=tuple(
                # Of a point-to-point link IFA_ADDRESS is the other end's.
                str(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
                for entry in addresses
                if entry["index"] == link["index"]
            ),
        )
        for link in links
    ]


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """A numeric address: a name could be another host's by the next boot."""
    try:
        return ip_address(text)
    except ValueError as error:
        raise WrongWordError(f"{text!r} is no IP address, as 192.0.2.1 or 2001:db8::1") from error


def is_of_this_host(address: str) -> bool:
    """Whether what answers at an address, or at the directory of a socket, is on this host.

    What has an address of its own here, as in a container, is not known to be.
    """
    try:
        wanted = ip_address(address.partition("%")[0])  # without the interface of a link-local one
    except ValueError:
        return True
    return wanted.is_loopback or any(_has(entry, wanted) for entry in interfaces())


def require_local(text: str, found: list[Interface] | None = None) -> None:
    """Raise unless the address is this host's, on an interface that is up and has a carrier.

    The address of all interfaces (0.0.0.0, ::) needs one that is up.
    """
    wanted = parse_address(text)
    known = interfaces() if found is None else found
    holders = [entry for entry in known if wanted.is_unspecified or _has(entry, wanted)]
    if not holders:
        others = sorted({address for entry in known for address in entry.addresses})
        raise NotFoundError(
            f"{text} is no address of this host",
            hint=f"it has {', '.join(others) or 'none'}",
            address=text,
        )
    if not any(entry.carries for entry in holders):
        names = ", ".join(f"{entry.name} ({_why(entry)})" for entry in holders)
        raise WrongStateError(
            f"{text} cannot be reached: its link {names}",
            hint=f"ip link set {holders[0].name} up, or put the cable in",
            address=text,
        )


def _has(entry: Interface, wanted: IPv4Address | IPv6Address) -> bool:
    return any(ip_address(address) == wanted for address in entry.addresses)


def _why(entry: Interface) -> str:
    return f"is {entry.state}" if entry.up else "is switched off"
