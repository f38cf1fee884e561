"""Unpacks compressed messages no further than a bound: 1 MB of gzip may hold gigabytes.

Kombu unpacks a message as it makes one, whole, before anybody could look at it. So the bridge's processes put decoders
in the place of kombu's own that stop at the bound, for each compression that kombu has registered.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

from bridge.job.request import RUNSYNC_BODY_MAX

#: Bytes of a body, packed or unpacked. As much as the doors for plain JSON take (RunPod's largest body, and room for
#: the request around it), thrice: Celery's JSON spells a letter of two bytes as an escape of six.
BODY_MAX = 3 * (RUNSYNC_BODY_MAX + 1024 * 1024)
#: Bytes of an envelope on a Redis list: a body in base64, and room for headers.
ENVELOPE_MAX = BODY_MAX * 4 // 3 + 1024 * 1024
#: Memory that a stream of LZMA may ask for: its strongest preset needs 65 MB.
_LZMA_MEMORY = 128 * 1024 * 1024


class TooLarge(Exception):
    """The body is over BODY_MAX, or unpacks to more."""


def _until_full(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """For the decompressors of the standard library's form; streams that follow one another are one."""

    def unpack(packed: bytes) -> bytes:
        found: list[bytes] = []
        left, rest = BODY_MAX + 1, packed
        while rest and left > 0:
            stream = make()
            while left > 0 and not stream.eof:
                part = stream.decompress(rest, left)
                rest = b""
                found.append(part)
                left -= len(part)
                if not part and stream.needs_input and not stream.eof:
                    raise EOFError("the compressed data ends before its end")
            rest = stream.unused_data if stream.eof else b""
        return _bounded(b"".join(found))

    return unpack


def _gzip(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(packed, BODY_MAX + 1)
    if len(found) <= BODY_MAX and not stream.eof:
        raise EOFError("the compressed data ends before its end")
    return _bounded(found)


def _brotli(packed: bytes) -> bytes:
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415  (only where kombu has found it)

    stream = brotli.Decompressor()
    found = [stream.process(packed, output_buffer_limit=BODY_MAX + 1)]
    size = len(found[0])
    while size <= BODY_MAX and not stream.is_finished():
        part = stream.process(b"", output_buffer_limit=BODY_MAX + 1 - size)
        if not part:
            raise EOFError("the compressed data ends before its end")
        found.append(part)
        size += len(part)
    return _bounded(b"".join(found))


def _zstd() -> Any:
    from backports import zstd  # noqa: PLC0415  (only where kombu has found it)

    return zstd.ZstdDecompressor()


def _bounded(found: bytes) -> bytes:
    if len(found) > BODY_MAX:
        raise TooLarge(f"unpacks to over {BODY_MAX} bytes")
    return found


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": _gzip,
    "application/x-bz2": _until_full(bz2.BZ2Decompressor),
    "application/x-lzma": _until_full(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)),
    "application/zstd": _until_full(_zstd),
    "application/x-brotli": _brotli,
}


def _checked(decoder: Callable[[bytes], bytes]) -> Callable[[Any], bytes]:
    def unpack(packed: Any) -> bytes:
        raw = packed.encode() if isinstance(packed, str) else bytes(packed or b"")
        if len(raw) > BODY_MAX:
            raise TooLarge(f"{len(raw)} bytes; at most {BODY_MAX} are taken")
        return decoder(raw)

    return unpack


def bound() -> None:
    """Put the bounded decoders in the place of kombu's, for this process. What kombu cannot unpack stays unknown."""
    for content_type in compression.encoders():
        if content_type in _DECODERS:
            encoder, _ = compression.get_encoder(content_type)
            compression.register(encoder, _checked(_DECODERS[content_type]), content_type)
