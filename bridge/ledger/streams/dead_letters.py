"""Dead letters: what could not be taken or told, kept with its reason in the stream `bridge:dead` (I12).

An entry carries the letter as a CloudEvent in field `data`, with `reason` and `door` beside it. The original is kept
to 64 KiB, as text where it is UTF-8 and in base64 where it is not; its size and SHA-256 are those of all of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.job.document import dead_event, stamp
from bridge.job.enums import DeadReason
from bridge.ledger.streams.repair import on_streams
from bridge.redis.outage import mapped
from bridge.telemetry import blotted, tell

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: Bytes kept of an original, of its headers, and of the sentence that says what was wrong.
ORIGINAL_MAX, HEADERS_MAX, DETAIL_MAX = 65_536, 16_384, 1_000


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Bounded by count here, by bytes and age in `trim` (I16). All methods raise LedgerUnavailable."""

    client: redis.Redis
    names: Names
    now: Callable[[], int]  # the ledger's time (I17)
    wall: Callable[[], int]  # the same as documents tell it
    count_max: int = 10_000
    originals: bool = True

    def keep(
        self,
        reason: str,
        *,
        door: str,
        body: str | bytes,
        detail: str = "",
        headers: Mapping[str, Any] | None = None,
        request_id: str = "",
        source: str = "",
        kept: bytes | None = None,
    ) -> str:
        """The letter's id. `source` is the queue, stream or task it came by; `reason` one of DeadReason.

        `kept` is what is kept in the body's place, where that holds secrets.
        """
        reason = DeadReason(reason).value
        raw = body.encode(errors="surrogateescape") if isinstance(body, str) else body
        digest = hashlib.sha256(raw).hexdigest()
        original, encoding = (
            _original((raw if kept is None else kept)[:ORIGINAL_MAX]) if self.originals else (None, None)
        )
        letter = {
            "reason": reason,
            "time": stamp(self.wall()),
            "door": door,
            "source": source or None,
            "request_id": request_id or None,
            "detail": detail[:DETAIL_MAX],
            "size": len(raw),
            "sha256": digest,
            "encoding": encoding,
            "original": original,
            "truncated": self.originals and len(raw) > ORIGINAL_MAX,
            "headers": _headers(headers or {}) if self.originals else {},
        }
        entry: dict[Any, Any] = {"data": dead_event(letter), "reason": reason, "door": door}
        letter_id = self._on(lambda: self.client.xadd(self.names.dead, entry, maxlen=self.count_max, approximate=True))
        tell("dead_letter.kept", reason=reason, door=door, request_id=request_id or None, detail=detail[:200])
        return str(letter_id)

    def newest(self, count: int = 1_000) -> list[dict[str, Any]]:
        """The newest first, each with its `id`."""
        found: Any = self._on(lambda: self.client.xrevrange(self.names.dead, count=count))
        return [letter for entry_id, entry in found if (letter := _read(entry_id, entry)) is not None]

    def count(self) -> int:
        """How many there are."""
        return int(self._on(lambda: self.client.xlen(self.names.dead)))

    def get(self, letter_id: str) -> dict[str, Any] | None:
        """One letter; None when there is none of that id."""
        found: Any = self._on(lambda: self.client.xrange(self.names.dead, min=letter_id, max=letter_id))
        return _read(*found[0]) if found else None

    def after(self, cursor: str, count: int) -> list[tuple[str, str]]:
        """Ids and documents behind a cursor (`0-0` for all), the oldest first: for who tells them elsewhere.

        What somebody else has written there comes as "".
        """
        found: Any = self._on(lambda: self.client.xrange(self.names.dead, min=f"({cursor}", count=count))
        return [(entry_id, entry["data"] if _read(entry_id, entry) else "") for entry_id, entry in found]

    def drop(self, letter_ids: Sequence[str]) -> int:
        """How many of them were there."""
        with mapped():
            return int(self.client.xdel(self.names.dead, *letter_ids)) if letter_ids else 0

    def trim(self, bytes_max: int, retention_ms: int) -> None:
        """The bounds that XADD does not keep."""
        self._on(lambda: self._trim(bytes_max, retention_ms))

    def _on(self, call: Callable[[], Any]) -> Any:
        return on_streams(self.client, self.names.prefix, [self.names.dead], call)

    def _trim(self, bytes_max: int, retention_ms: int) -> None:
        with mapped():
            oldest = self.now() - retention_ms
            self.client.xtrim(self.names.dead, minid=f"{max(0, oldest)}-0", approximate=True)
            used = int(self.client.memory_usage(self.names.dead, samples=20) or 0)
            if used > bytes_max:
                length = int(self.client.xlen(self.names.dead))
                self.client.xtrim(self.names.dead, maxlen=int(length * bytes_max / used * 0.9), approximate=True)


def original_of(letter: Mapping[str, Any]) -> bytes | None:
    """The original's bytes; None where they were not kept, or not all of them."""
    text = letter.get("original")
    if text is None or letter.get("truncated"):
        return None
    return base64.b64decode(text) if letter.get("encoding") == "base64" else str(text).encode()


def shown(letter: Mapping[str, Any], names: Iterable[str] = (), without: Sequence[str] = ()) -> dict[str, Any]:
    """As people may see it: no secrets, at any depth of the original (HARDENING 21); `names` are secret too."""
    told = {name: blotted(value, names) for name, value in letter.items() if name not in without}
    original = told.get("original")
    if letter.get("encoding") == "utf-8" and isinstance(original, str):
        try:
            told["original"] = json.dumps(blotted(json.loads(letter["original"]), names), ensure_ascii=False)
        except (ValueError, RecursionError):
            told["original"] = blotted(original, names)
    return told


def _original(raw: bytes) -> tuple[str, str]:
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError as error:
        if len(raw) == ORIGINAL_MAX and error.start > ORIGINAL_MAX - 4:  # only the cut fell into a character
            return raw[: error.start].decode(), "utf-8"
        return base64.b64encode(raw).decode(), "base64"


def _headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps({str(name): value for name, value in headers.items()}, default=str)
    if len(text) > HEADERS_MAX:
        return {"": f"{len(text)} bytes of headers were not kept"}
    kept: dict[str, Any] = json.loads(text)
    return kept


def _read(entry_id: str, entry: Mapping[str, str]) -> dict[str, Any] | None:
    """None for what somebody else has written there."""
    try:
        letter = json.loads(entry["data"])["data"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return {"id": entry_id, **letter} if isinstance(letter, dict) else None
