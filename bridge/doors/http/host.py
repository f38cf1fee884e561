"""Whose name a request's `Host` header gives."""

from __future__ import annotations

import re

from bridge.settings.api import is_loopback

#: RFC 9110, 7.2, without what a name on this machine never has: user, path, escapes.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.\-]{1,253})(?::[0-9]{0,5})?")


def is_loopback_host(host: str) -> bool:
    """Whether the header is a loopback name or address and perhaps a port, and nothing beside."""
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1].lower())
