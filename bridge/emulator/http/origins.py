"""Who may call an emulator that listens on loopback: programs, and its own page; never somebody else's page.

A browser lets any page send a request to loopback, and a name of the page's own may lead there (DNS rebinding). Such a
request shows itself by `Origin`, by `Host`, or by a content type that a form can have.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Mapping

Headers = Mapping[bytes, bytes]


def is_loopback(name: str) -> bool:
    """Return whether `name`, an address or a host's name, leads to this machine alone, whatever a DNS server says."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def from_a_stranger(headers: Headers) -> bool:
    """Return whether a page that is not served from loopback sends this."""
    origin = headers.get(b"origin")
    return origin is not None and not is_loopback(_host_of(origin.decode("latin-1")))


def refused(method: str, headers: Headers, *, loopback: bool) -> str | None:
    """Return why a call of the admin routes, which ask for no key, is refused; None when it is not."""
    host = headers.get(b"host", b"").decode("latin-1")
    if loopback and not is_loopback(_host_of(f"http://{host}")):
        return f"Host {host!r} is not loopback: call it as 127.0.0.1 or localhost, or start it with --host"
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1") not in {f"http://{host}", f"https://{host}"}:
        return "another page's Origin: only the emulator's own page may call this"
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if method == "POST" and kind != b"application/json":
        return "Content-Type must be application/json"
    return None


def _host_of(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""
