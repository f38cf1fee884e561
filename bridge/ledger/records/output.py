"""An output in pieces, so that the largest costs no process more memory than one piece, nor Redis a long answer.

    found = output.find(ledger, request_id)
    if found is not None:
        for piece in output.pieces(ledger, request_id, found):
            file.write(piece)

What is read is the JSON text, in UTF-8, as RunPod's answer had it. An output that stands in the object store alone is
none of the ledger's: `Long.OUTPUT_REF` names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE

from bridge.errors import OutputUnavailable
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.records.read import Reader

#: Bytes of a piece: a few milliseconds of Redis' one core.
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """How long an output is, and which: a retry brings another one."""

    size: int  # bytes
    end: tuple[str, ...]  # the round that it ended, and when


def find(ledger: Reader, request_id: str) -> Found | None:
    """The output that the ledger has; None when it has none. Raises LedgerUnavailable."""
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:  # in this order: `piece` sees a change between
        _which(pipe, ledger, request_id)
        pipe.strlen(ledger.names.output(request_id))
        end, size = pipe.execute()
    return Found(size, _end(end)) if size else None


def piece(ledger: Reader, request_id: str, found: Found, start: int, length: int = PIECE) -> bytes:
    """Bytes from `start` on, fewer than `length` at the end. Raises LedgerUnavailable, or OutputUnavailable.

    The second when it is no longer the output that was found: it was retried, or its retention is over.
    """
    key = ledger.names.output(request_id)
    # A piece may begin or end within a character; inside of a transaction redis-py would decode it. In this order,
    # what the row says is at least as new as the piece.
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        pipe.execute_command("GETRANGE", key, start, start + length - 1, **{NEVER_DECODE: True})
        _which(pipe, ledger, request_id)
        got, end = pipe.execute()
    if _end(end) != found.end or len(got) != max(0, min(length, found.size - start)):
        raise OutputUnavailable("the output is no longer there: the request was retried, or its retention is over")
    return bytes(got)


def pieces(
    ledger: Reader, request_id: str, found: Found, start: int = 0, stop: int | None = None, *, size: int = PIECE
) -> Iterator[bytes]:
    """All of it, or its bytes from `start` to `stop`, without `stop`. Raises as `piece` does."""
    stop = found.size if stop is None else min(stop, found.size)
    while start < stop:
        got = piece(ledger, request_id, found, start, min(size, stop - start))
        yield got
        start += len(got)


def _which(pipe: Any, ledger: Reader, request_id: str) -> None:
    pipe.hmget(ledger.names.row(request_id), "ro", "te")


def _end(values: list[str | None]) -> tuple[str, ...]:
    return tuple(value or "" for value in values)
