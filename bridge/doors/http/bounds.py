"""What a connection to the HTTP door may take, so that a thousand idle ones take nothing from the rest of the process.

uvicorn bounds the size of a request's head, and answers 503 above its own limit of connections; that limit would turn
an orchestrator's probe away too. Here the one that has been idle for longest makes room for the newest.
"""

from __future__ import annotations

import asyncio
import re
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bridge.doors.http.problem import REASONS, Problem
from bridge.job.strict_json import BODY_MAX
from bridge.telemetry import tell

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds from a connection's start, or its last answer, until a request's head must be there.
HEAD_S = 5.0
#: Seconds until it is answered and the answer taken, from the end of its body; and until that, from its head, for a
#: body that brings this many bytes a second on the whole. Bytes that drip in put nothing off.
ANSWER_S, BODY_RATE = 20.0, 64 * 1024
#: Bytes of a request's head.
HEAD_MAX = 16 * 1024


#: Nothing that stands behind such a request on its connection is read.
_LAST = {"connection": "close"}
#: A request's target that is a URL; its query stands apart already.
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/]*)(?P<path>/.*)?", re.IGNORECASE)
#: Where a request's scope has its time limit.
_LIMIT = "bridge.limit"


def bounded(app: ASGIApp) -> ASGIApp:
    """Ends a request whose body or whose reader is too slow, and refuses one whose end could be read in two ways."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        _in_origin_form(scope)
        if refusal := _unreadable(scope):
            await refusal.response()(scope, receive, send)
            return
        began, answering, read = asyncio.get_running_loop().time(), False, 0
        try:
            async with asyncio.timeout(ANSWER_S) as limit:
                scope[_LIMIT] = limit

                async def receiving() -> Message:
                    nonlocal read
                    message = await receive()
                    if message["type"] == "http.request" and limit.when() is not None:
                        read += len(message.get("body", b""))
                        more = message.get("more_body", False)
                        now = asyncio.get_running_loop().time()
                        limit.reschedule((began + read / BODY_RATE if more else now) + ANSWER_S)
                    return message

                async def sending(message: Message) -> None:
                    nonlocal answering
                    answering = True
                    await send(message)

                await app(scope, receiving, sending)
        except TimeoutError:
            if answering:
                raise  # uvicorn closes the connection
            said = f"no answer could begin: a body must come with {BODY_RATE} bytes a second on the whole"
            await Problem("timeout", said, headers=_LAST).response()(scope, receive, send)

    return called


def _in_origin_form(scope: Scope) -> None:
    """A target may be a whole URL, as a client sends it to a proxy; its authority stands for Host (RFC 9112 3.2.2)."""
    target = _ABSOLUTE.fullmatch(scope["raw_path"]) if scope["type"] == "http" else None
    if target is None:
        return
    scope["raw_path"] = path = target["path"] or b"/"
    scope["path"] = unquote(path.decode("ascii"))
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    scope["headers"] = [(b"host", target["authority"]), *others]


def _unreadable(scope: Scope) -> Problem | None:
    """A request with two lengths may be two requests to a proxy before us (RFC 9112 6.3); a large one is not begun."""
    if scope["type"] == "http" and _head_size(scope) > HEAD_MAX:  # h11 bounds a head only until it is whole
        return _head_too_large()
    told = dict(scope.get("headers", ()))
    length = told.get(b"content-length", b"0")
    if b"transfer-encoding" in told and b"content-length" in told:
        said = "content_length: cannot stand beside transfer_encoding"
        return Problem("malformed", said, field="content_length", headers=_LAST)
    if length.isdigit() and int(length[:20]) > 2 * BODY_MAX:  # less is read to its end, so that its sender hears why
        return Problem("too_large", f"body: {length[:20].decode()} bytes; at most {BODY_MAX} are taken", headers=_LAST)
    return None


def _head_size(scope: Scope) -> int:
    """Bytes as they came, but for spaces around values."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) + len("  HTTP/1.1\r\n\r\n")
    line += bool(scope["query_string"])
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])


def _head_too_large() -> Problem:
    said = f"head: the request line and the headers may have {HEAD_MAX} bytes together"
    return Problem("head_too_large", said, headers=_LAST)


def answers_for_long(scope: Scope) -> None:
    """The answer to this request may take any time; whoever gives it keeps the time of each part of it."""
    limit: asyncio.Timeout | None = scope.get(_LIMIT)
    if limit is not None:
        limit.reschedule(None)


class Bounded(H11Protocol):
    """uvicorn's own, with at most so many connections at a time, none of them idle for ever."""

    connections_max: ClassVar[int]
    _ends: asyncio.TimerHandle | None = None
    _idle_since = 0.0
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Where there are too many, the one goes that has been idle for longest, or whose body has not come yet."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.connections_max:
            idle = [one for one in self.connections if isinstance(one, Bounded) and not (one.busy and one.has_body)]
            oldest = min(idle, key=lambda one: one._idle_since, default=self)  # noqa: SLF001  (its own kind)
            oldest.transport.abort()
            self.connections.discard(oldest)
            tell("http.crowded", limit=self.connections_max)

    @property
    def busy(self) -> bool:
        """Whether a request is under way; uvicorn has no cycle before the first one."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    @property
    def has_body(self) -> bool:
        """Whether all of the request under way has come."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.more_body

    def on_response_complete(self) -> None:
        """The next request has its own time."""
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as a problem, too, and the connection closed."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # an answer has begun: it is cut off
            self.transport.abort()
            return
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == REASONS["head_too_large"][0]:
            problem = _head_too_large()
        else:
            why = str(error or msg).partition(": bytearray")[0]  # what was sent may hold a token
            problem = Problem("malformed", f"this is not valid HTTP/1.1: {why}", headers=_LAST)
        answer, reason = problem.response(), HTTPStatus(problem.status).phrase.encode()
        head = h11.Response(status_code=problem.status, headers=answer.raw_headers, reason=reason)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.busy or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Who is still sending would lose the answer if the connection was closed; `_expired` ends it.
        self._refused = True
        self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """What comes after bytes that are no HTTP is not read."""
        if not self._refused:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        if self._ends is not None:
            self._ends.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """Bytes that drip in do not put the end off."""
        self._idle_since = self.loop.time()
        if self._ends is not None:
            self._ends.cancel()
        self._ends = self.loop.call_later(HEAD_S, self._expired)

    def _expired(self) -> None:
        if self.transport.is_closing():  # it was given up, and waits for a peer that takes nothing more
            self.transport.abort()
        elif self.busy:  # `bounded` ends that one
            self._ends = self.loop.call_later(HEAD_S, self._expired)
        else:
            self.transport.abort()


def bounded_protocol(connections_max: int) -> type[Bounded]:
    """For one address."""
    return type("BoundedHere", (Bounded,), {"connections_max": connections_max})
