"""The few words of ASGI that the front needs: read a body, read the query, send an answer."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bridge.emulator.http.answers import Answer

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Bytes read of any body, before the rest is left unread.
DRAINED = 64 * 1024 * 1024


def query_of(scope: Scope) -> dict[str, str]:
    """Return the query parameters; of a repeated one the last."""
    text: bytes = scope["query_string"]
    return dict(urllib.parse.parse_qsl(text.decode("latin-1"), keep_blank_values=True)) if text else {}


async def body_of(receive: Receive, limit: int) -> bytes:
    """Read the body; of one over `limit` it keeps only so much that its size is seen to be too large."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts, kept, size = [body], len(body), len(body)
    while message.get("more_body") and size <= DRAINED:
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        part = part[: limit + 1 - kept]
        kept += len(part)
        parts.append(part)
    return b"".join(parts)


async def send_answer(send: Send, answer: Answer) -> None:
    """Send `answer` whole."""
    await send_head(send, answer)
    await send({"type": "http.response.body", "body": answer.body})


async def send_head(send: Send, answer: Answer) -> None:
    """Send code and headers of `answer`; its body is the caller's to send."""
    headers = [(b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": "http.response.start", "status": answer.code, "headers": headers})
