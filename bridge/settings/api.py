"""Whether the HTTP door may be open to whoever can reach its address."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from pathlib import Path


def api_faults(bind: str, tokens_file: Path | None, origins: Collection[str]) -> list[str]:
    """What is wrong with the door at this address."""
    if not bind:
        return ["BRIDGE_API: is on, and BRIDGE_HTTP_BIND is empty: name an address, or set it off"]
    if tokens_file is not None:
        if not tokens_file.is_file():
            return [f"BRIDGE_API_TOKENS_FILE: there is no file {tokens_file}"]
        return []
    if not is_loopback(bind.rpartition(":")[0]):
        who = f"BRIDGE_API_TOKENS_FILE: is not set, and {bind} can be reached from elsewhere"
        return [f"{who}: make a token with `bridge token NAME`, or bind to 127.0.0.1"]
    if "*" in origins:
        return ["BRIDGE_API_ORIGINS: * lets any page of the web ask, and there are no tokens (BRIDGE_API_TOKENS_FILE)"]
    return []


def is_loopback(name: str) -> bool:
    """Whether a host's name or address leads to this machine alone, whatever a DNS server says."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
