"""A request's events as frames of server-sent events: each once, in order, with the chunks between them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.doors.http.problem import Problem, unknown
from bridge.engine.accept.repeated import answer_again
from bridge.job.document import cloud_event, stamp
from bridge.job.enums import END_EVENT, EventName
from bridge.job.record import Long

if TYPE_CHECKING:
    from bridge.doors.http.api.guard import Guard
    from bridge.doors.http.api.reading import Reading
    from bridge.job.document import Held
    from bridge.ledger import Ledger

Frames = AsyncGenerator[bytes, None]
#: Chunks read at once.
CHUNKS = 50
_PLACE = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?")
_ENDS = frozenset(f"bridge.job.{name.value}" for name in END_EVENT.values())
_CHUNK = "bridge.job.chunk"


@dataclass(slots=True)
class Place:
    """How far a follower was told."""

    sequence: int = 0
    chunks: int = 0
    #: So many events are known to be: an end before the last of them was that of an earlier round.
    known: int = 0
    #: The end was told.
    over: bool = False

    @property
    def id(self) -> str:
        """As SSE's id: `<sequence>`, or `<sequence>.<chunks>` once there are chunks."""
        return f"{self.sequence}.{self.chunks}" if self.chunks else str(self.sequence)

    @classmethod
    def of(cls, said: str) -> Place:
        """From `Last-Event-ID`. Raises Problem for what none of our ids is."""
        if not said:
            return cls()
        found = _PLACE.fullmatch(said)
        if found is None:
            raise Problem("rejected", "last-event-id: is none that was given here", field="last-event-id")
        return cls(int(found[1]), int(found[2] or 0))


class Telling:
    """What is told moves the place on."""

    def __init__(self, guard: Guard, ledger: Ledger, reading: Reading, *, inline_limit: int) -> None:
        """Ends have outputs of at most `inline_limit` bytes in them, as all events do."""
        self._guard = guard
        self._ledger = ledger
        self._reading = reading
        self._inline_limit = inline_limit

    async def event(self, request_id: str, event: dict[str, Any], body: str, place: Place) -> Frames:
        """One event, and the chunks before it that were not told; nothing where it was told before."""
        sequence, data, ends = sequence_of(event), event["data"], event["type"] in _ENDS
        if sequence <= place.sequence:
            return
        if event["type"] == _CHUNK and isinstance(index := data.get("index"), int) and not data.get("repaired"):
            async for frame in self.chunks(request_id, place, index):
                yield frame
            if index < place.chunks:  # it was told from the request's own stream
                place.sequence = sequence
                return
            place.chunks = index + 1
        elif ends and (data.get("chunks_untold") or place.chunks):
            async for frame in self.chunks(request_id, place, None):
                yield frame
        if event["type"] == _CHUNK and "output_ref" in data:
            body = await self._guard.asked(lambda: self._with_output(request_id, event))
        place.sequence, place.over = sequence, ends and sequence >= place.known
        yield _frame(event["type"], body, place.id)

    async def as_it_is(self, request_id: str, place: Place) -> Frames:
        """Where a part of the past is gone: the document, and the chunks. It has no id: it is no event."""
        told = await self._guard.asked(lambda: self._reading.document(request_id))
        yield _frame("bridge.job.document", json.dumps(told), None)
        async for frame in self.chunks(request_id, place, None):
            yield frame

    async def end(self, request_id: str, place: Place) -> Frames:
        """The end as the record tells it, where no event does any more."""
        async for frame in self.chunks(request_id, place, None):
            yield frame
        for body in await self._guard.asked(lambda: self._end_of(request_id)):
            event = read(body)
            if event is not None:
                place.sequence, place.over = sequence_of(event), True
                yield _frame(event["type"], body, place.id)

    async def chunks(self, request_id: str, place: Place, until: int | None) -> Frames:
        """Those before an index that were not told, from the request's own stream; all of them for None."""
        while until is None or place.chunks < until:
            stop = place.chunks + CHUNKS if until is None else min(until, place.chunks + CHUNKS)
            told = await self._guard.asked(lambda: self._kept_chunks(request_id, place.chunks, stop - 1))  # noqa: B023
            for index, body in told:
                place.chunks = index + 1
                yield _frame(_CHUNK, body, place.id)
            if len(told) < CHUNKS:
                if until is not None:
                    place.chunks = max(place.chunks, until)  # the others are no longer kept
                return

    def _kept_chunks(self, request_id: str, start: int, last: int) -> list[tuple[int, str]]:
        """Blocks. As events of sequence 0: they have no place among the others."""
        chunks = self._ledger.chunks(request_id, start, last)
        held = self._ledger.load(request_id) if chunks else None
        if held is None:
            return []
        return [(int(chunk["index"]), self._chunk_event(held, chunk)) for chunk in chunks]

    def _chunk_event(self, held: Held, chunk: dict[str, Any]) -> str:
        record, ledger = held.record, self._ledger
        correlation_id = (held.json(Long.REPLY) or {}).get("correlation_id")
        data = {"id": record.id, "correlation_id": correlation_id, "endpoint": record.endpoint, **chunk}
        return cloud_event(
            EventName.CHUNK, data, request_id=record.id, endpoint=record.endpoint, sequence=0,
            time=stamp(ledger.now(), ledger.clock.offset) or "", trace=held.long.get(Long.TRACE),
            suffix=f"chunk{chunk['index']}",
        )  # fmt: skip

    def _with_output(self, request_id: str, event: dict[str, Any]) -> str:
        """Blocks. A chunk over the inline limit, with what it refers to."""
        index, data = event["data"]["index"], event["data"]
        for chunk in self._ledger.chunks(request_id, index, index):
            data = {**{name: value for name, value in data.items() if name != "output_ref"}, **chunk}
        return json.dumps({**event, "data": data}, ensure_ascii=False)

    def _end_of(self, request_id: str) -> list[str]:
        """Blocks."""
        held = self._ledger.load(request_id)
        if held is not None and not held.record.phase.ended:
            return []
        if held is None and self._ledger.tombstone(request_id) is None:
            raise unknown(request_id)
        correlation_id = (held.json(Long.REPLY) or {}).get("correlation_id") if held else None
        reply = {"on": ["end"], "correlation_id": correlation_id}
        return answer_again(self._ledger, request_id, reply, message_limit=self._inline_limit)


def read(body: str) -> dict[str, Any] | None:
    """An event's document; None for what somebody else has written into the stream."""
    try:
        event = json.loads(body)
        sequence_of(event)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return event if isinstance(event.get("data"), dict) and isinstance(event.get("type"), str) else None


def sequence_of(event: dict[str, Any]) -> int:
    """Its place among the events of its request."""
    return int(event["sequence"])


def _frame(kind: str, body: str, place: str | None) -> bytes:
    """`event` is the type's last word. The body is JSON, which has no line breaks but in escapes."""
    line = f"id: {place}\n" if place is not None else ""
    data = body.replace("\n", " ").replace("\r", " ")  # of an event that somebody else has written
    return f"{line}event: {kind.rpartition('.')[2]}\ndata: {data}\n\n".encode(errors="backslashreplace")
