"""How a fault is carried out on one HTTP call: instead of its answer, or to its answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bridge.emulator import answers
from bridge.emulator.answers import Answer
from bridge.emulator.faults import Fault

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

_INSTEAD: dict[str, Answer] = {
    "500": answers.SERVER_ERROR,
    "502": answers.BAD_GATEWAY,
    "html": answers.HTML_PAGE,
    "out_of_credit": answers.OUT_OF_CREDIT,
    "unauthorised": Answer(401, b"", answers.TEXT),
    "forbidden": answers.FORBIDDEN,
    "endpoint_gone": answers.ENDPOINT_NOT_FOUND,
}


async def before(
    fault: Fault, scope: Scope, send: Send, forget: Callable[[str, str], None], endpoint: str, job_id: str | None
) -> Answer | bool:
    """Carry out a fault that comes before the operation.

    Returns the answer to give instead, True when the connection is gone, False to go on with the operation.
    """
    del scope
    if fault.kind == "429":
        return answers.throttled(fault.args.get("retry_after"))
    if fault.kind == "reset":
        await cut(send, reset=True)
        return True
    if fault.kind == "vanish":
        if wanted := fault.args.get("job_id") or job_id:
            forget(endpoint, wanted)
        return False
    return _INSTEAD[fault.kind]


class After:
    """A fault that spoils the answer of an operation that was carried out."""

    def __init__(self, fault: Fault, answer: Answer, scope: Scope, send: Send) -> None:
        self._fault = fault
        self._answer = answer
        self._scope = scope
        self._send = send

    async def carry_out(self) -> int:
        """Spoil the answer; return the code that was sent, 0 for none. Seconds are real ones."""
        args = self._fault.args
        if self._fault.kind == "502_after":
            await self._whole(answers.BAD_GATEWAY)
            return 502
        if self._fault.kind == "lost_reply":
            await asyncio.sleep(args.get("seconds", 0.0))
            await cut(self._send, reset=False)
            return 0
        if self._fault.kind == "hang":
            await asyncio.sleep(args.get("seconds", 30.0))
            await self._whole(self._answer)
        else:
            await self._slowly(args.get("seconds", 2.0), max(1, int(args.get("pieces", 10))))
        return self._answer.code

    async def _whole(self, answer: Answer) -> None:
        await self._start(answer)
        await self._send({"type": "http.response.body", "body": answer.body})

    async def _slowly(self, seconds: float, pieces: int) -> None:
        body = self._answer.body
        size = max(1, -(-len(body) // pieces))
        await self._start(self._answer)
        for at in range(0, len(body), size):
            await asyncio.sleep(seconds / pieces)
            await self._send({"type": "http.response.body", "body": body[at : at + size], "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, answer: Answer) -> None:
        headers = [(b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
        await self._send({"type": "http.response.start", "status": answer.code, "headers": headers})


async def cut(send: Send, *, reset: bool) -> None:
    """Close the connection without an answer; with `reset` by RST, so that the client sees a reset.

    ASGI has no word for this, so the server's own cycle, which `send` is a method of, gives its transport.
    """
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]
    if reset:
        raw = transport.get_extra_info("socket")
        handle = socket.fromfd(raw.fileno(), raw.family, raw.type)
        with handle:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    for _ in range(5):  # until the server has noticed; otherwise it would report an unanswered call
        await asyncio.sleep(0.001)
