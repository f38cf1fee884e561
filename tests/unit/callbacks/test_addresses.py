"""Which hosts may be called back: public ones, and those that the settings list."""

from __future__ import annotations

import ipaddress
import socket
import threading

import pytest

from bridge.callbacks.addresses import Addresses, NotAllowed, Unresolved, is_public
from bridge.settings.callbacks import Allowed, allowed_of

PRIVATE = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "192.0.3.1", "2606:4700:4700::1111", "2a00:1450::1",
          "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip
#: Spellings of loopback and of the metadata service that a C library takes for addresses.
SPELLED = [
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.0.0.1.", "[::1]",
    "[::ffff:127.0.0.1]", "[0:0:0:0:0:0:0:1]", "2852039166", "0xa9fea9fe", "169.254.43518", "0",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_the_public_internet_is_not_called(text: str) -> None:
    """Neither by its address nor by a name that leads there; among others it spoils the whole answer."""
    assert not is_public(ipaddress.ip_address(text))
    for answer in ([text], ["8.8.8.8", text], [text, "8.8.8.8"]):
        with pytest.raises(NotAllowed, match="not public"):
            Addresses(Allowed(), lambda *_, found=answer: found).resolve("shop.example.com", 443, 1.0)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_called(text: str) -> None:
    """As it is, also one that is written as IPv6 and meant as IPv4."""
    assert is_public(ipaddress.ip_address(text))
    assert Addresses(Allowed(), lambda *_: [text]).resolve("shop.example.com", 443, 1.0) == [text]


@pytest.mark.parametrize("host", SPELLED)
def test_an_address_in_any_spelling_is_found_out_at_the_door_and_at_the_call(host: str) -> None:
    """The system's resolver takes all of these for addresses, so they are judged as such."""
    assert "no public address" in str(Addresses(Allowed()).fault(host))
    if not host.startswith("["):
        with pytest.raises((NotAllowed, Unresolved)):  # a C library that does not know the spelling has no such name
            Addresses(Allowed()).resolve(host, 443, 5.0)


def test_names_of_this_machine_and_network_are_refused_at_the_door() -> None:
    """Without a look at DNS, which a door has no time for; other names are judged when they are called."""
    for name in ("localhost", "LOCALHOST.", "a.localhost", "printer.local", "metadata.google.internal"):
        assert "no public host" in str(Addresses(Allowed()).fault(name))
    assert Addresses(Allowed()).fault("shop.example.com") is None
    assert Addresses(Allowed()).fault("8.8.8.8") is None


def test_the_settings_list_names_and_networks() -> None:
    """A listed name may lead anywhere; a listed network may be led to by any name; nothing else changes."""
    by_name = Addresses(allowed_of("Hooks.Internal, localhost"), lambda *_: ["10.2.0.7"])
    assert by_name.fault("hooks.internal") is None
    assert by_name.resolve("HOOKS.internal.", 443, 1.0) == ["10.2.0.7"]
    with pytest.raises(NotAllowed):
        by_name.resolve("other.internal", 443, 1.0)
    by_network = Addresses(allowed_of("10.2.0.0/16, fd00:1::/32"), lambda *_: ["10.2.0.7", "::ffff:10.2.0.8"])
    assert by_network.resolve("anything.example.com", 443, 1.0) == ["10.2.0.7", "::ffff:10.2.0.8"]
    assert by_network.fault("10.2.0.7") is None
    assert by_network.fault("10.3.0.7") is not None


@pytest.mark.parametrize("text", ["10.2.0.1/16", "https://hooks.internal", "a b", "10.2", "hooks.internal:8443", "*"])
def test_what_is_neither_name_nor_network_is_no_setting(text: str) -> None:
    """A mistake here would open a door or keep one shut."""
    with pytest.raises(ValueError, match="neither a host's name nor"):
        allowed_of(text)


def test_all_that_is_wrong_with_the_setting_is_told_at_once() -> None:
    """Not one mistake for each start."""
    with pytest.raises(ValueError, match=r"'a b', '\*' are neither"):
        allowed_of("a b, hooks.internal, *, 10.2.0.0/16")


def test_a_resolver_that_hangs_is_waited_for_no_longer_than_said() -> None:
    """A try has a deadline, and the look-up is part of it."""
    hangs = threading.Event()

    def lookup(_name: str, _port: int) -> list[str]:
        hangs.wait(30)
        return ["8.8.8.8"]

    with pytest.raises(Unresolved, match="no answer of the resolver"):
        Addresses(Allowed(), lookup).resolve("shop.example.com", 443, 0.05)
    hangs.set()


def test_a_name_that_leads_nowhere_is_no_fault_of_the_address() -> None:
    """It is tried again: names come and go."""

    def lookup(_name: str, _port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Unresolved, match="Name or service not known"):
        Addresses(Allowed(), lookup).resolve("shop.example.com", 443, 1.0)
