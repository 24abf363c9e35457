"""Whether an address to listen at is this host's own, and its link up."""

import pytest

from dmsnap.errors import NotFoundError, WrongStateError, WrongWordError
from dmsnap.host import interface
from dmsnap.host.interface import Interface

LOOPBACK = Interface("lo", True, "UNKNOWN", ("127.0.0.1", "::1"))
WIRED = Interface("eth0", True, "UP", ("192.0.2.1", "2001:db8::1"))
UNPLUGGED = Interface("eth1", True, "DOWN", ("192.0.2.2",))
OFF = Interface("eth2", False, "DOWN", ("192.0.2.3",))
ALL = [LOOPBACK, WIRED, UNPLUGGED, OFF]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "192.0.2.1", "2001:db8:0:0::1", "0.0.0.0", "::"],  # noqa: S104
)
def test_an_address_that_can_be_reached(address: str) -> None:
    interface.require_local(address, ALL)


def test_an_address_of_somebody_else_is_told_with_those_of_this_host() -> None:
    with pytest.raises(NotFoundError, match=r"192\.0\.2\.9 is no address of this host") as raised:
        interface.require_local("192.0.2.9", ALL)
    assert "192.0.2.1" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("address", "why"), [("192.0.2.2", r"eth1 \(is DOWN\)"), ("192.0.2.3", r"eth2 \(is switched")]
)
def test_a_link_that_is_down_is_named(address: str, why: str) -> None:
    with pytest.raises(WrongStateError, match=why):
        interface.require_local(address, ALL)


def test_all_addresses_need_one_link() -> None:
    with pytest.raises(WrongStateError):
        interface.require_local("0.0.0.0", [UNPLUGGED, OFF])  # noqa: S104


def test_names_are_refused() -> None:
    with pytest.raises(WrongWordError, match="localhost"):
        interface.require_local("localhost", ALL)


def test_this_host_has_a_loopback_interface() -> None:
    assert any("127.0.0.1" in found.addresses for found in interface.interfaces())


def test_what_answers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "interfaces", lambda: ALL)
    for address in ("", "/run/postgresql", "@abstract", "127.0.0.1", "127.9.9.9", "::1"):
        assert interface.is_of_this_host(address)
    assert interface.is_of_this_host("192.0.2.3")
    assert interface.is_of_this_host("2001:db8::1%eth0")
    assert not interface.is_of_this_host("192.0.2.9")
    assert not interface.is_of_this_host("2001:db8::2")
