"""Whether files of certificates can be used, asked at the start: later a library says no more than that TLS failed."""

from __future__ import annotations

import ssl
from pathlib import Path


def authorities_fault(path: str | Path) -> str | None:
    """Why the certificates in this file cannot be trusted; None for good ones."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "holds no certificates (PEM)"
    except OSError:
        return unreadable(path)
    return None


def unreadable(path: str | Path) -> str | None:
    """Why this file cannot be read; None where it can."""
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"
