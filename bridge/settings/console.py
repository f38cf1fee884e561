"""Whether the console may be open to whoever can reach its address."""

from __future__ import annotations

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path

from bridge.settings.api import is_loopback

HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")


def networks(value: object) -> object:
    """Addresses and networks of proxies, with commas between them."""
    if not isinstance(value, str):
        return value
    found = []
    for word in filter(None, (word.strip() for word in value.split(","))):
        try:
            found.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            fault = f"{word!r} is no address or network: write 10.0.0.7 or 10.0.0.0/8"
            raise ValueError(fault) from None
    return tuple(found)


def header(value: str) -> str:
    """A header's name."""
    if value and not HEADER.fullmatch(value):
        fault = "must be the name of a header, for example X-Forwarded-User"
        raise ValueError(fault)
    return value


def console_faults(bind: str, password_file: Path | None, user_header: str) -> list[str]:
    """What is wrong with the console at this address."""
    faults: list[str] = []
    if find_spec("jinja2") is None:
        faults.append("BRIDGE_CONSOLE: needs jinja2: install runpod-bridge[console], or set it off")
    if not bind:
        faults.append("BRIDGE_CONSOLE: is on, and BRIDGE_HTTP_BIND is empty: name an address, or set it off")
    if password_file is not None and not password_file.is_file():
        faults.append(f"BRIDGE_CONSOLE_PASSWORD_FILE: there is no file {password_file}")
    if bind and password_file is None and not user_header and not is_loopback(bind.rpartition(":")[0]):
        who = f"BRIDGE_CONSOLE_PASSWORD_FILE: is not set, and {bind} can be reached from elsewhere"
        faults.append(f"{who}: name a file with a password, or BRIDGE_CONSOLE_USER_HEADER, or bind to 127.0.0.1")
    return faults
