"""How a fault is carried out on one HTTP call: instead of its answer, or to its answer. Seconds are real ones."""

from __future__ import annotations

import asyncio
import socket
import struct

from bridge.emulator.http import answers
from bridge.emulator.http.answers import Answer
from bridge.emulator.http.asgi import Send, send_answer, send_head
from bridge.emulator.model.faults import Fault

#: How long `hang` holds and `slow` dribbles, unless told otherwise.
HANG_S, SLOW_S, PIECES = 30.0, 2.0, 10

_INSTEAD: dict[str, Answer] = {
    "500": answers.SERVER_ERROR,
    "502": answers.BAD_GATEWAY,
    "html": answers.HTML_PAGE,
    "out_of_credit": answers.OUT_OF_CREDIT,
    "forbidden": answers.FORBIDDEN,
    "endpoint_gone": answers.ENDPOINT_NOT_FOUND,
}


def instead(fault: Fault) -> Answer:
    """Return what a call is answered with, although nothing was done."""
    return answers.throttled(fault.args.get("retry_after")) if fault.kind == "429" else _INSTEAD[fault.kind]


def code_of(fault: Fault, answer: Answer) -> int:
    """Return the code that a spoilt answer has, 0 for none."""
    return {"502_after": answers.BAD_GATEWAY.code, "lost_reply": 0}.get(fault.kind, answer.code)


async def after(fault: Fault, answer: Answer, send: Send) -> None:
    """Spoil the answer of an operation that was carried out."""
    seconds = fault.args.get("seconds")
    match fault.kind:
        case "502_after":
            await send_answer(send, answers.BAD_GATEWAY)
        case "lost_reply":
            await asyncio.sleep(seconds or 0.0)
            await cut(send, reset=False)
        case "hang":
            await asyncio.sleep(HANG_S if seconds is None else seconds)
            await send_answer(send, answer)
        case _:
            pieces = max(1, int(fault.args.get("pieces", PIECES)))
            await _dribble(answer, send, SLOW_S if seconds is None else seconds, pieces)


async def _dribble(answer: Answer, send: Send, seconds: float, pieces: int) -> None:
    size = max(1, -(-len(answer.body) // pieces))
    await send_head(send, answer)
    for at in range(0, len(answer.body), size):
        await asyncio.sleep(seconds / pieces)
        await send({"type": "http.response.body", "body": answer.body[at : at + size], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def cut(send: Send, *, reset: bool) -> None:
    """Close the connection without an answer; with `reset` by RST, so that the client sees a reset.

    ASGI has no word for this, so the server's own cycle, which `send` is a method of, gives its transport.
    """
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]
    if reset:
        raw = transport.get_extra_info("socket")
        with socket.fromfd(raw.fileno(), raw.family, raw.type) as handle:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    for _ in range(5):  # until the server has noticed; it would report an unanswered call
        await asyncio.sleep(0.001)
