"""A change of one record as a value: made by `transitions`, written by the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from bridge.job.clocks import timer
from bridge.job.document import Held, document, event_of, joined, output_reference, size_over, stamp, transition
from bridge.job.enums import END_EVENT, ENDS, EventName, Phase, Sink, Status, Step, Wish
from bridge.job.lenient_json import spelled
from bridge.job.record import Long, Record, altered, dumps

#: What a chunk counts beside its own bytes: about what it costs in memory to keep it, and to read it for the end.
CHUNK_COSTS = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """What the table needs to know of the settings. Milliseconds."""

    grace_ms: int = 30_000
    submits_max: int = 2
    delivery: str = "at_least_once"
    retention_ms: int = 7 * 24 * 3_600_000
    output_retention_ms: int = 24 * 3_600_000
    id_memory_ms: int = 24 * 3_600_000
    inline_limit: int = 256 * 1024
    message_limit: int = 8 * 1024 * 1024
    chunk_events_max: int = 10_000
    chunks_bytes_max: int = 128 * 1024 * 1024


class OutgoingEvent(NamedTuple):
    """One event on its way out."""

    name: EventName
    sequence: int
    body: str  # the CloudEvent, JSON
    key: str  # AMQP routing key
    replies: tuple[Mapping[str, Any], ...] = ()  # who asked for a copy
    result: str = ""  # "redis" or "amqp": where a copy for bridge.results goes
    whole: str = ""  # the same event with its large output in it, for replies that are written at once
    callbacks: tuple[
        tuple[str, str, str, bool], ...
    ] = ()  # (lane, host, url, ends) of who is called; url "": looked at


@dataclass(frozen=True, slots=True)
class OrphanJob:
    """A job of an ended request that may still run: to be cancelled and watched to its end (paid twice)."""

    request_id: str
    endpoint: str
    endpoint_id: str
    base_url: str
    job_id: str

    def as_json(self) -> str:
        """The member of the due set."""
        return dumps([self.request_id, self.endpoint, self.endpoint_id, self.base_url, self.job_id])


class Change(NamedTuple):
    """What becomes of a record. `before is after` means: nothing to write.

    A tuple, as `Held` is: a frozen dataclass pays for each field when it is made and again with each `replace`.
    """

    verdict: str
    before: Held | None
    after: Held
    put_long: Mapping[Long, str] = MappingProxyType({})
    drop_long: tuple[Long, ...] = ()
    output: str | None = None
    drop_output: bool = False
    events: tuple[OutgoingEvent, ...] = ()
    delay_ms: int = 0  # of the new due time; a submit is ordered by priority and age instead
    keeps_due: bool = False  # the record stands where it stood, and its due time is left alone
    orphans: tuple[OrphanJob, ...] = ()
    closes: bool = False
    reopens: bool = False
    chunks: tuple[str, ...] = ()  # JSON, as they are kept
    stream_ms: int | None = None  # when the stream is read next; -1 never again, None unchanged
    gpu_ms: int = 0  # executionTime of a job that has ended, and which part of it another job makes worthless
    paid_twice_ms: int = 0

    @property
    def record(self) -> Record:
        """The record as it shall be."""
        return self.after.record

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.before is not None and self.before.record is self.after.record


class Draft:
    """Collects one change of one record; `done` closes it."""

    def __init__(self, held: Held, now: int, rules: Rules, clock_offset: int = 0) -> None:
        """Start from what was read."""
        self.before: Held = held
        self.record = held.record
        self.now = now
        self.rules = rules
        self._offset = clock_offset
        self._put: dict[Long, str] = {}
        self._drop: list[Long] = []
        self._output: str | None = None
        self._drop_output = False
        self._events: list[tuple[EventName, dict[str, Any], Record]] = []
        self._large: dict[int, str] = {}  # outputs of chunks that are too large for an event, by its place
        self._delay = 0
        self._due_set = False
        self._orphans: list[OrphanJob] = []
        self._chunks: list[str] = []
        self._stream_ms: int | None = None
        self._again = False
        self._gpu_ms = 0
        self._twice_ms = 0

    def set(self, **values: Any) -> Draft:
        """Change fields of the row."""
        self.record = altered(self.record, **values)
        return self

    def keep(self, name: Long, value: object) -> Draft:
        """Write a long value; None drops it."""
        if value is None:
            self._drop.append(name)
            self._put.pop(name, None)
        else:
            self._put[name] = dumps(value)
        return self

    def keep_text(self, name: Long, text: str) -> Draft:
        """Write a long value that is spelled already: JSON text, or plain text where plain text is kept."""
        self._put[name] = text
        return self

    def text(self, name: Long) -> str | None:
        """A long value as this change would leave it."""
        return self._put.get(name) or self.before.long.get(name)

    def drop(self, *names: Long) -> Draft:
        """Forget long values, also those that this change was going to write."""
        self._drop.extend(names)
        for name in names:
            self._put.pop(name, None)
        return self

    def result(self, output: str | None, ref: str | None = None) -> Draft:
        """Write the output (JSON text), or drop the one that is there. A large one is told by its reference.

        `ref` is the reference of one that stands in the object store already.
        """
        self._output, self._drop_output = output, output is None
        self.set(stored=int(ref is not None))
        if output is not None and ref is None and size_over(output, self.rules.inline_limit):
            ref = dumps(output_reference(output))
        if ref is not None:
            return self.keep_text(Long.OUTPUT_REF, ref)
        return self.drop(Long.OUTPUT_REF) if Long.OUTPUT_REF in self.before.long else self

    def tell(self, name: EventName, **more: Any) -> Draft:
        """One event, of the record as it stands now; its sequence is given at the end.

        Several events of one change tell each its own step of the way: `accepted` of a request that is born cancelled
        says ACCEPTED. An end is told as the record is when all is done.
        """
        self._events.append((name, more, self.record))
        return self

    def tell_end_again(self, **more: Any) -> Draft:
        """The end once more, as a copy that consumers know for one: with the sequence and the time that it had."""
        self._again = True
        return self.tell(END_EVENT.get(self.record.status, EventName.LOST), **more)  # type: ignore[call-overload]

    def began(self, at: int) -> Draft:
        """The job runs, or has run since `at`: told once for each attempt, before whatever came of it."""
        record = self.record
        if record.phase.ended or not record.job_id:
            return self.set(started_at=record.started_at or at)
        if record.started_at:
            return self
        return self.set(status=Status.IN_PROGRESS.value, started_at=at).tell(EventName.STARTED)

    def due(self, step: Step | None, delay_ms: int = 0) -> Draft:
        """Where the record goes on, and in how many milliseconds; gives the lease back.

        A callback that came while a read was under way may know more than that read: the next one follows at once.
        """
        if step is Step.POLL and self.record.hint:
            self.set(hint=0)
            delay_ms = min(delay_ms, max(0, self.record.hinted_at - self.now))
        self._delay, self._due_set = max(0, delay_ms), True
        return self.set(due=step.value if step else "", lease="", lease_until=0)

    def overdue(self, step: Step, since: int) -> Draft:
        """It is due at once, and stands before those whose time came after its own."""
        self.due(step)
        self._delay = min(0, since - self.now)
        return self

    def cancel_job(self, job_id: str, endpoint_id: str) -> Draft:
        """A job that no longer counts: see OrphanJob."""
        record = self.record
        self._orphans.append(OrphanJob(record.id, record.endpoint, endpoint_id, record.base_url, job_id))
        return self

    @property
    def full_of_chunks(self) -> bool:
        """Whether the ledger keeps no more chunks of this request (I16)."""
        return self.record.chunk_bytes >= self.rules.chunks_bytes_max

    def chunk(self, output: Any, metrics: Any) -> Draft:
        """One more chunk: numbered, kept, and told in the same change (I13)."""
        told = {"index": self.record.chunks, "output": output, **({"metrics": metrics} if metrics else {})}
        text, nonfinite = spelled(told)
        if nonfinite:
            told = json.loads(text) | {"nonfinite": nonfinite}
            text = dumps(told)
        self.set(chunks=self.record.chunks + 1)
        return self._chunk(told, text)

    def mend_chunk(self, index: int, output: Any) -> Draft:
        """A chunk that was lost on the way, from the aggregate: it takes its place, also from one that stood there."""
        told = {"index": index, "output": output, "repaired": True}
        self.set(chunks=max(self.record.chunks, index + 1))
        return self._chunk(told, dumps(told))

    def _chunk(self, told: dict[str, Any], text: str) -> Draft:
        self._chunks.append(text)
        size = len(text) if text.isascii() else len(text.encode())
        untold = max(0, self.record.chunks - self.rules.chunk_events_max)
        self.set(chunk_bytes=self.record.chunk_bytes + size + CHUNK_COSTS, chunks_untold=untold)
        if told["index"] >= self.rules.chunk_events_max:  # its own stream has it; others' events are not pushed out
            return self
        return self.tell(EventName.CHUNK, **self._told(told))

    def _told(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """A chunk as its event tells it: a large one by reference (HARDENING 11)."""
        if not size_over(self._chunks[-1], self.rules.inline_limit):
            return chunk
        output = dumps(chunk["output"])
        self._large[len(self._events)] = output
        return {"output_ref": output_reference(output), **{k: v for k, v in chunk.items() if k != "output"}}

    def read_stream(self, in_ms: int | None) -> Draft:
        """When the stream is read next; None for never again."""
        self._stream_ms = -1 if in_ms is None else in_ms
        return self

    def paid(self, execution_ms: int | None, *, twice: bool = False) -> Draft:
        """A job has ended after so much GPU time; `twice` when it is not the one that counts."""
        ms = max(0, execution_ms or 0)
        self._gpu_ms += ms
        self._twice_ms += ms if twice else 0
        return self

    def settle(self, status: str, reason: str = "", **more: Any) -> Draft:
        """The end of this round (I4): tells it once, and whoever asked is due to hear it."""
        self.set(
            phase=Phase.SETTLED,
            status=status,
            reason=reason,
            ended_at=self.now,
            grace_until=0,
            gone_at=0,
            claims=0,
            finish_sends=0,
            hint=0,
        )
        if self.record.stream:  # who follows the chunks hears that there are no more
            end = {"end": True, "status": str(status), "reason": str(reason) or None, "chunks": self.record.chunks}
            if self.record.stream_incomplete:
                end["stream_incomplete"] = "possible"
            if self.record.stream_repaired >= 0:
                end["stream_repaired"] = self.record.stream_repaired
            self._chunks.append(dumps(end))
        self.drop(Long.INPUT, Long.S3CONFIG)
        self.tell(END_EVENT.get(status, EventName.LOST), **more)  # type: ignore[call-overload]
        sinks = self.record.waiting_sinks
        # On Redis a reply and a result are written in the very call that settles; only AMQP has to be waited for.
        # Who did not ask for the end is not told it, so nobody would ever say that he was.
        if not any(reply.get("via") == "amqp" and "end" in reply.get("on", ()) for reply in replies_of(self.before)):
            sinks -= {Sink.REPLY}
        if (self.before.json(Long.REPLY) or {}).get("via") != "amqp":
            sinks -= {Sink.RESULTS}
        self.set(sinks=",".join(sorted(sinks)))
        self.due(Step.FINISH if Sink.CELERY in sinks else None)
        if not sinks:
            self.set(phase=Phase.CLOSED)
        return self

    def done(self, verdict: str) -> Change:
        """The change as a value, its events built and its timer set."""
        new = 0 if self._again else len(self._events)
        first = self.record.sequence + new - len(self._events) + 1
        clock = timer(self.record)
        # A clock that has run out and could not be acted on is looked at again in a second, not in a hot loop.
        self.record = altered(
            self.record,
            # A lease that ends is no progress, and neither is a callback.
            claims=self.record.claims if verdict in {"lease_ended", "hinted"} else 0,
            sequence=self.record.sequence + new,
            timer=max(clock, self.now + 1_000) if clock else 0,
        )
        long = {k: v for k, v in self.before.long.items() if k not in self._drop} | self._put
        output = None if self._drop_output else (self._output if self._output is not None else self.before.output)
        after = Held(self.record, long, output)
        was, now_is = self.before.record.phase, self.record.phase
        closes = now_is is Phase.CLOSED and was is not Phase.CLOSED
        # Everybody was told, and the object store has it: the ledger's own copy may go (I16).
        stored = closes and bool(self.record.stored)
        return Change(
            verdict=verdict,
            before=self.before,
            after=after,
            put_long=self._put,
            drop_long=tuple(dict.fromkeys(name for name in self._drop if name not in self._put)),
            output=None if stored else self._output,
            drop_output=self._drop_output or stored,
            events=tuple(self._telling(after, first, place) for place in range(len(self._events))),
            delay_ms=self._delay,
            keeps_due=not self._due_set and self.record.due == self.before.record.due,
            orphans=tuple(self._orphans),
            closes=closes,
            reopens=was is Phase.CLOSED and now_is is not Phase.CLOSED,
            chunks=tuple(self._chunks),
            stream_ms=self._stream_ms,
            gpu_ms=self._gpu_ms,
            paid_twice_ms=self._twice_ms,
        )

    def _telling(self, after: Held, first: int, place: int) -> OutgoingEvent:
        record, (name, more, then) = after.record, self._events[place]
        ends = name in ENDS
        if ends:
            data = document(after, inline_limit=self.rules.inline_limit, clock_offset=self._offset) | more
        else:
            data = transition(Held(then, after.long), clock_offset=self._offset, **more)
        event = event_of(
            name,
            data,
            request_id=record.id,
            endpoint=record.endpoint,
            sequence=first + place,
            time=stamp(record.ended_at if self._again else self.now, self._offset) or "",
            trace=after.long.get(Long.TRACE),
        )
        word = "end" if ends else name.value
        via = (after.json(Long.REPLY) or {}).get("via", "redis")
        replies = tuple(reply for reply in replies_of(after) if word in reply.get("on", ()))
        whole = None
        if "output_ref" in data and any(reply.get("via") != "amqp" for reply in replies):
            # On AMQP the relay joins it when it sends, so that the outbox stays small.
            whole = joined(event, data, after.output if ends else self._large.get(place), self.rules.message_limit)
        return OutgoingEvent(
            name,
            first + place,
            dumps(event),
            f"job.{name.value}.{record.endpoint}",
            replies=replies,
            result=via if ends and Sink.RESULTS in self.before.record.waiting_sinks else "",
            whole=whole or "",
            callbacks=() if self._again else _owed(after, name, ends=ends),
        )


def replies_of(held: Held) -> list[dict[str, Any]]:
    """Everybody who asked to be told: who sent the request, and who sent it again from elsewhere."""
    first = held.json(Long.REPLY) or {}
    return [reply for reply in (first, *first.get("also", ())) if reply.get("to")]


def _owed(held: Held, name: EventName, *, ends: bool) -> tuple[tuple[str, str, str, bool], ...]:
    """Whom this event is owed by HTTPS. At an end all are looked at: some may have wanted only what came before."""
    if Long.CALLBACK not in held.long:
        return ()
    owed = []
    for one in held.json(Long.CALLBACK):
        wanted = name.value in one["events"] or (ends and "end" in one["events"])
        if wanted or ends:
            owed.append((lane_of(one, held.record.id), one["host"], one["url"] if wanted else "", ends))
    return tuple(owed)


def lane_of(callback: Mapping[str, Any], request_id: str) -> str:
    """Where what is owed to one address for one request stands in its order."""
    return f"{callback['lane']}:{request_id}"


def wish_end(wish: str) -> tuple[Status, str]:
    """The end that a wish leads to, with its reason."""
    if wish == Wish.CANCEL:
        return Status.CANCELLED, "cancelled"
    return Status.TIMED_OUT, wish
