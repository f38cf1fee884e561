"""Blots secrets out of bytes that nobody can read: what is set aside is kept as it came, but for them (I11)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

_NAMES = r"api_?key|[a-z_\-]*token|[a-z_\-]*secret|s3config|authorization|password"
#: A body in an envelope of kombu's.
_BODY = re.compile(rb'("body"\s*:\s*")([A-Za-z0-9+/=]{8,})')
_SHOWN = b"***"


def blot(raw: bytes, names: Iterable[str] = ()) -> bytes:
    """The bytes without what stands behind a secret's name, in JSON, in JSON within JSON, and in a body in base64."""
    wanted = "|".join([_NAMES, *(re.escape(name) for name in names)]).encode()
    # A name in quotes of any depth; then a text up to the quote that ends it, an object up to its end, or a bare word.
    pattern = re.compile(
        rb"""(\\*["'](?:""" + wanted + rb""")\\*["']\s*:\s*)"""
        rb"""(?:(["'])(?:\\.|(?!\2).)*|(\\+["'])(?:(?!\3).)*|\{[^}]*|[^\s,"'\\{}\[\]]+)""",
        re.IGNORECASE | re.DOTALL,
    )
    plain = pattern.sub(rb"\1" + _SHOWN, raw)
    return _BODY.sub(lambda found: found[1] + _in_base64(found[2], pattern), plain)


def _in_base64(body: bytes, pattern: re.Pattern[bytes]) -> bytes:
    whole = body.rstrip(b"=")
    try:
        text = base64.b64decode(
            whole[: len(whole) // 4 * 4] if len(whole) % 4 == 1 else whole + b"=" * (-len(whole) % 4)
        )
    except (binascii.Error, ValueError):
        return body
    plain = pattern.sub(rb"\1" + _SHOWN, text)
    return body if plain == text else base64.b64encode(plain)
