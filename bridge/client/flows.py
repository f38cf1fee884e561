"""What the client does, without I/O: each flow yields Redis commands and is sent their answers.

So that the sync and the async client are one: they only carry commands there and answers back. A flow that follows
something also yields `Item`s, and keeps its own place; a command may therefore be repeated after a lost connection.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.client.checks import check_command, check_correlation_id, check_index, check_seconds
from bridge.client.large_output import Whole
from bridge.client.steps import Do, Flow, Following, Item
from bridge.client.values import Chunk, Event, Refused, UnknownRequest, document_of, lacks_output, outcome
from bridge.errors import BUSY
from bridge.job.contract.documents import Document
from bridge.job.request import STRANGE_NAME, check_request_id, fingerprint, parse_run, rejected
from bridge.job.strict_json import check_json
from bridge.redis.public_keys import PublicNames

#: Milliseconds that one read waits; the next one goes on where it stopped.
BLOCK_MS = 2_000
#: Seconds between two questions about a request that nobody tells us about.
ASK_S, ASK_MAX_S = 1.0, 10.0
#: Seconds that a reply is kept after it was fetched.
FETCHED_KEPT_S = 24 * 3600
#: Entries of one read.
COUNT = 500
#: Requests submitted here that are known as our own, twice.
REMEMBERED = 50_000
TRANSITIONS = ("accepted", "submitted", "started", "progress", "end")


class Flows:
    """Of one namespace. Times in seconds; `timeout` None waits for ever."""

    def __init__(self, namespace: str, answer_s: float) -> None:
        """`answer_s`: how long the bridge is waited for where nothing else is said."""
        self.names = PublicNames(namespace)
        self._answer_s = answer_s
        # A connection is given up after `answer_s` without a word: a read that waits ends well before.
        self._block_ms = max(1, min(BLOCK_MS, int(answer_s * 500)))
        # What was submitted here, by id: the newest, in two generations.
        self._submitted: dict[str, Submitted] = {}
        self._older: dict[str, Submitted] = {}

    def submit(
        self,
        input: Mapping[str, Any],
        *,
        id: str | None = None,
        correlation_id: str | None = None,
        events: bool = False,
        **arguments: Any,
    ) -> Flow:
        """Check the request here, and write it where any bridge worker takes it."""
        request_id = check_request_id(id) if id is not None else str(uuid.uuid4())
        arguments = {name: value for name, value in arguments.items() if value is not None}
        given: object = input
        if isinstance(given, Mapping) and not all(isinstance(name, str) for name in given):
            raise rejected("input", f"input: {STRANGE_NAME}")
        # The model alone says what an input is: `dict` would make one of a list of pairs.
        arguments["input"] = dict(given) if isinstance(given, Mapping) else given
        parse_run(arguments)
        check_correlation_id(correlation_id)
        arguments = json.loads(check_json(arguments))
        request = parse_run(arguments)
        reply, after = self.reply_of(request_id, fingerprint(request.endpoint or "", request)), "0"
        if "reply_to" in arguments:
            reply = ""  # the caller's own stream may hear of other requests too
        else:
            arguments["reply_to"] = reply
            arguments.setdefault("reply_on", TRANSITIONS if events else ("end",))
            if id is not None:  # what an earlier sending was told (a refusal, say) is not this one's answer
                newest = yield self._do(None, "XREVRANGE", self.names.reply(reply), "+", "-", "COUNT", 1)
                after = newest[0][0] if newest else after
        told: dict[str, Any] = {"id": request_id, **arguments}
        if correlation_id is not None:
            told["correlation_id"] = correlation_id
        if len(self._submitted) >= REMEMBERED:
            self._older, self._submitted = self._submitted, {}
        self._submitted[request_id] = Submitted(bool(arguments.get("stream")), reply, after)
        yield self._do(None, "XADD", self.names.requests, "*", "data", check_json(told))
        return request_id

    def _ours(self, request_id: str) -> Submitted | None:
        """What was submitted here under this id; None for all others."""
        return self._submitted.get(request_id) or self._older.get(request_id)

    @staticmethod
    def reply_of(request_id: str, mark: str) -> str:
        """The `reply_to` of a request: one for each id and content, so that of two requests that use the same id the
        refused one hears its refusal, and the other its own end.
        """  # noqa: D205
        return f"client.{request_id}.{mark[:8]}"

    def _replies(self, request_id: str) -> tuple[str | None, str]:
        """The stream of the replies to what was submitted here, and the entry behind which they begin."""
        ours = self._ours(request_id)
        return (self.names.reply(ours.reply), ours.after) if ours is not None and ours.reply else (None, "0")

    def command(self, op: str, arguments: Mapping[str, Any], timeout: float | None) -> Flow:
        """Send a command and wait for its answer. Raises JobRejected, Refused, UnknownRequest, TimeoutError.

        While the bridge cannot tell whether the request it is about still waits at a door, it is asked again.
        """
        check_seconds("timeout", timeout)
        told = check_command({"op": op, **{k: v for k, v in arguments.items() if v is not None}})
        ends = time.monotonic() + (self._answer_s if timeout is None else timeout)
        while True:
            data = yield from self._answer_to(told, ends)
            if not (data.get("reason") == BUSY and data.get("field") == "id"):
                return self._answered(op, arguments, data)

    def _answer_to(self, command: Mapping[str, Any], ends: float) -> Flow:
        name, op = f"client.ask.{secrets.token_hex(8)}", command["op"]
        yield self._do(ends, "XADD", self.names.commands, "*", "data", json.dumps({**command, "reply_to": name}))
        reply = self.names.reply(name)
        while True:
            found = yield from self._read({reply: "0"}, ends, f"{op}: no bridge worker has answered")
            for _, fields in found.get(reply, ()):
                yield self._do(ends, "DEL", reply)
                return json.loads(fields["data"])["data"]

    @staticmethod
    def _answered(op: str, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        if "result" in data:
            return data["result"]
        said = str(data.get("error") or data.get("reason") or "refused")
        if data.get("field") == "id" and "knows no request" in said:
            raise UnknownRequest(said)
        raise Refused(f"{op} {arguments.get('id') or arguments.get('endpoint') or ''}: {said}")

    def status(self, request_id: str, *, refresh: bool, timeout: float | None) -> Flow:
        """The document as it is now."""
        told = yield from self.command("status", {"id": request_id, "refresh": refresh or None}, timeout)
        return Document.model_validate(told)

    def result(self, request_id: str, timeout: float | None) -> Flow:
        """Wait for the end: its output, or the error that tells how else it ended."""
        document = yield from self.end(request_id, timeout)
        if lacks_output(document):
            return (yield from Whole(self).output(document, timeout))
        return outcome(document)

    def end(self, request_id: str, timeout: float | None) -> Flow:
        """Wait for the end: its document."""
        check_seconds("timeout", timeout)
        reply, begin = self._replies(check_request_id(request_id))
        until = None if timeout is None else time.monotonic() + timeout
        if reply is None:
            return (yield from self._end_of_others(request_id, until))
        last, found, asks = begin, None, Asks()
        while found is None:
            entries = (yield from self._read({reply: last}, until, f"{request_id} has not ended")).get(reply, ())
            for entry_id, fields in entries:
                last, event = entry_id, Event.of(fields.get("data"))
                found = event.data if event.ends else found  # of several rounds the newest counts
            if found is None and not entries and last == begin and asks.now():
                found = yield from self._asked(request_id, until)
        if last != begin:
            yield self._do(until, "EXPIRE", reply, FETCHED_KEPT_S, "LT")
        return found

    def _end_of_others(self, request_id: str, until: float | None) -> Flow:
        """Another process submitted it: the bridge is asked, and the stream of all events is listened to meanwhile."""
        events, last = self.names.events, "$"
        found, asks = (yield from self._asked(request_id, until)), Asks()
        while found is None:
            for entry_id, fields in (yield from self._read({events: last}, until, f"{request_id} has not ended")).get(
                events, ()
            ):
                last, event = entry_id, Event.of(fields.get("data"))
                if event.request_id == request_id and event.ends and event.sequence:
                    found = event.data
            if found is None and asks.now():
                found = yield from self._asked(request_id, until)
        return found

    def _asked(self, request_id: str, until: float | None) -> Flow:
        """Another door took this request, or it waits at ours: the bridge is asked. None: not ended."""
        left = None if until is None else max(0.5, until - time.monotonic())
        try:
            told = yield from self.command("status", {"id": request_id}, min(left or 10.0, 10.0))
        except TimeoutError:
            return None
        except UnknownRequest:
            if self._ours(request_id) is not None:  # not accepted yet
                return None
            raise
        return told if told.get("completed") else None

    def events(self, request_id: str, after: int, timeout: float | None) -> Following:
        """Each transition, behind sequence `after`, to the end.

        From the request's own replies where it was submitted with `events`; else out of the stream of all events.
        """
        check_request_id(request_id)
        check_index("after", after)
        check_seconds("timeout", timeout)
        return self._events(request_id, after, timeout)

    def _events(self, request_id: str, after: int, timeout: float | None) -> Following:
        until = None if timeout is None else time.monotonic() + timeout
        source = yield from self._source(request_id)
        last, seen, asks, end = "0", after, Asks(), None
        while True:
            found = yield from self._read({source: last}, until, f"{request_id} has told nothing more")
            entries = found.get(source, ())
            for entry_id, fields in entries:
                last, event = entry_id, Event.of(fields.get("data"))
                if event.request_id != request_id or event.sequence <= seen:
                    continue
                seen = event.sequence
                yield Item(event)
                if event.ends:
                    return
            if len(entries) == COUNT:  # there may be more
                continue
            if end is not None:  # told before this look to the stream's end: its event is trimmed, or behind `after`
                yield Item(Event.of_end(end))
                return
            if asks.now():
                end = yield from self._ended_already(request_id, until)

    def _ended_already(self, request_id: str, until: float | None) -> Flow:
        """The document of a request that has ended; None for any other, and for one that has not come yet."""
        try:
            return (yield from self._asked(request_id, until))
        except UnknownRequest:
            return None

    def _source(self, request_id: str) -> Flow:
        own, _ = self._replies(request_id)
        if own is None:
            return self.names.events
        first = yield from self._read({own: "0"}, time.monotonic() + self._answer_s, "")
        events = [Event.of(fields.get("data")) for _, fields in first.get(own, ())]
        return own if any(event.sequence == 1 for event in events) else self.names.events

    def stream(self, request_id: str, start: int, timeout: float | None) -> Following:
        """Chunks from index `start` on, as they come or as they are kept; raises the request's error at its end."""
        check_request_id(request_id)
        check_index("start", start)
        check_seconds("timeout", timeout)
        return self._stream(request_id, start, timeout)

    def _stream(self, request_id: str, start: int, timeout: float | None) -> Following:
        chunks, (own, begin) = self.names.chunks(request_id), self._replies(request_id)
        until = None if timeout is None else time.monotonic() + timeout
        if (yield from self._over(request_id, chunks, until, timeout)):
            return
        places, status = {chunks: f"{start}-0" if start else "0"}, None
        if own is not None:
            places[own] = begin
        asks = Asks()
        while status is None:
            found = yield from self._read(places, until, f"{request_id} has streamed nothing more")
            for entry_id, fields in found.get(chunks, ()):
                places[chunks] = entry_id
                told = document_of(fields.get("data"))
                if told.get("end"):
                    status = told.get("status")
                elif isinstance(told.get("index"), int) and told["index"] >= start:
                    status = None  # another round has begun
                    yield Item(Chunk.of(told))
            if status is None and chunks not in found and own is not None:
                status = self._ended(found.get(own, ()), places, own)
            if status is None and not found and asks.now():
                document = yield from self._asked(request_id, until)
                status = document["status"] if document else None
        if status != "COMPLETED":
            yield from self.result(request_id, timeout)

    def _over(self, request_id: str, chunks: str, until: float | None, timeout: float | None) -> Flow:
        """Turn streaming on where it was off; whether the request has ended without a chunk."""
        ours = self._ours(request_id)
        if (ours is not None and ours.streams) or (yield self._do(until, "EXISTS", chunks)):
            return False
        told = yield from self.command("stream", {"id": request_id}, timeout)
        return told.get("outcome") == "already_ended"

    @staticmethod
    def _ended(entries: Sequence[tuple[str, Mapping[str, str]]], places: dict[str, str], own: str) -> str | None:
        """The end of a request that never streamed: refused, or cancelled before it ran."""
        for entry_id, fields in entries:
            places[own] = entry_id
            event = Event.of(fields.get("data"))
            if event.ends:
                return str(event.data.get("status"))
        return None

    # Reading

    def _read(self, places: Mapping[str, str], until: float | None, fault: str) -> Flow:
        """New entries of some streams by name; none after BLOCK_MS. Raises TimeoutError at `until`."""
        block = self._block_ms
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(fault or "nothing was heard")
            block = max(1, min(block, int(left * 1000)))
        args = ("XREAD", "COUNT", COUNT, "BLOCK", block, "STREAMS", *places, *places.values())
        answer = yield self._do(until, *args)
        return dict(_streams(answer))

    def _do(self, until: float | None, *args: Any) -> Do:
        return Do(args, float("inf") if until is None and args[0] == "XREAD" else until or self._later())

    def _later(self) -> float:
        return time.monotonic() + self._answer_s


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request of this process: whether it streams, and where its replies go ("" for a place of the caller's own)."""

    streams: bool
    reply: str
    after: str = "0"  # the last entry that stood there before


class Asks:
    """When a question is due: after a second, then ever more rarely."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._wait = ASK_S
        self._next = time.monotonic() + ASK_S

    def now(self) -> bool:
        """Whether it is time; the answer true moves the next time on."""
        if time.monotonic() < self._next:
            return False
        self._wait = min(self._wait * 2, ASK_MAX_S)
        self._next = time.monotonic() + self._wait
        return True


def _streams(answer: Any) -> Iterator[tuple[str, list[tuple[str, Mapping[str, str]]]]]:
    """XREAD's answer, as redis-py gives it in either protocol."""
    if isinstance(answer, Mapping):
        for name, entries in answer.items():
            yield name, [entry for part in entries for entry in (part if isinstance(part, list) else [part])]
        return
    for name, entries in answer or ():
        yield name, [(entry[0], entry[1]) for entry in entries if entry[1]]
