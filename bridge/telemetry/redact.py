"""What a log line and a page may show: no secrets, no credentials (I11)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_SECRET = re.compile(r"(api_?key|token|secret|s3config|authorization|password)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r'("(?:api_?key|[a-z_]*token|[a-z]*secret|s3config|authorization|password)"\s*:\s*)("[^"]*"?|\{[^}]*\}?)',
    re.IGNORECASE,
)
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
#: Up to the last @: a password may hold a / that nobody encoded. What stands behind an HTTP address' host is no secret.
_CREDENTIALS = re.compile(
    r"((?!https?:)\b[a-z][a-z0-9+.-]*://)[^\s\"'<>]*@|(https?://)[^/@\s:]*:[^/@\s]+@", re.IGNORECASE
)
_BEARER = re.compile(r"(bearer\s+)[^\s\"',;]+", re.IGNORECASE)


def redact(key: str, value: object) -> object:
    """The value as a log may show it (I11), at any depth: no secrets, no credentials or query strings of URLs."""
    if _SECRET.search(key):
        return "***"
    if isinstance(value, str):
        if "://" in value:
            value = _CREDENTIALS.sub(r"\1\2***@", _QUERY.sub(r"\1?***", value))
        return _BEARER.sub(r"\1***", value)
    if isinstance(value, Mapping):
        return {name: redact(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact("", item) for item in value]
    return value


def blotted(value: object, names: Iterable[str] = (), key: str = "") -> object:
    """As `redact`, for what people are shown of others' messages: names of the settings' own are secret too.

    In text that is no JSON, what follows such a name is blotted out.
    """
    wanted = frozenset(name.lower() for name in names)
    if _SECRET.search(key) or key.lower() in wanted:
        return "***"
    if isinstance(value, Mapping):
        return {name: blotted(item, wanted, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [blotted(item, wanted) for item in value]
    if isinstance(value, str):
        for name in wanted:
            value = re.sub(
                rf'("?{re.escape(name)}"?\s*[:=]\s*)("[^"]*"?|[^\s,;&}}]+)', r"\1***", value, flags=re.IGNORECASE
            )
        value = _SECRET_TEXT.sub(r"\1***", value)
    return redact("", value)
