"""Which addresses may be called back: what is public, and what the settings list beside it.

A caller names the host, so without this rule he could have the bridge speak to what stands beside it: a cloud's
metadata service, a database, the bridge itself. A name is looked up once, and the call goes to the very addresses that
were judged: a second look-up could answer otherwise (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import threading
from collections.abc import Callable, Sequence

from bridge.settings.callbacks import Allowed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: `socket.getaddrinfo`, or what a test puts in its place.
Lookup = Callable[[str, int], Sequence[str]]

#: What is not the public Internet (IANA's special-purpose registries), and what reaches more than one host.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
#: Global unicast is all that is public of IPv6; of it, what is set aside. Tunnels (Teredo in 2001::/23, 6to4) lead to
#: the IPv4 address that they hold.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)  # fmt: skip
#: NAT64 of IPv6-only networks: the last 32 bits are the IPv4 address that is meant.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotAllowed(Exception):
    """The host leads, or may lead, where nobody may have the bridge call."""


class Unresolved(Exception):
    """The name leads nowhere now."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to one host of the public Internet."""
    address = _meant(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in net for net in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in net for net in _NOT_PUBLIC_6)


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def literal(host: str) -> Address | None:
    """The address that a host is without any DNS: also `127.1`, `0x7f000001`, `2130706433`, `017700000001`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    with contextlib.suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


class Addresses:
    """Judges hosts. Thread-safe."""

    def __init__(self, allowed: Allowed, lookup: Lookup | None = None) -> None:
        """`allowed` comes from BRIDGE_CALLBACK_ALLOW."""
        self._allowed = allowed
        self._lookup = lookup or _system

    def fault(self, host: str) -> str | None:
        """Why a host can never be called, as far as it shows without DNS; None when its name decides later."""
        name = host.lower().rstrip(".")
        if name in self._allowed.names:
            return None
        found = literal(name)
        if found is None:
            local = name == "localhost" or name.endswith((".localhost", ".local", ".internal"))
            return f"{name} is no public host" if local and not self._allowed.networks else None
        return None if self._may(name, found) else f"{found} is no public address"

    def resolve(self, host: str, port: int, within_s: float) -> list[str]:
        """The addresses to call, looked up once. Raises Unresolved, or NotAllowed when any of them is out of bounds."""
        name = host.lower().rstrip(".")
        found = _within(lambda: list(dict.fromkeys(self._lookup(name, port))), within_s)
        for text in found:
            address = ipaddress.ip_address(text.partition("%")[0])
            if not self._may(name, address):
                raise NotAllowed(f"{name} leads to {address}, which is not public (BRIDGE_CALLBACK_ALLOW)")
        return found

    def _may(self, name: str, address: Address) -> bool:
        meant = _meant(address)
        listed = name in self._allowed.names or any(meant in net or address in net for net in self._allowed.networks)
        return listed or is_public(address)


def _system(name: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def _within(look: Callable[[], list[str]], within_s: float) -> list[str]:
    """The system's resolver has no deadline of its own: whoever waits for it has one."""
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look())
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="bridge-callback-dns", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.01, within_s))
    except queue.Empty:
        raise Unresolved(f"no answer of the resolver within {within_s:.1f} s") from None
    if isinstance(answer, Exception):
        raise Unresolved(f"cannot be resolved: {answer}")
    if not answer:
        raise Unresolved("has no address")
    return answer
