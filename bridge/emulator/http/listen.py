"""uvicorn's HTTP protocol on a socket of ours, without its server around it.

uvicorn's server waits in steps of 0.1 s while it starts and stops and takes the process's signals; an emulator lives
in a thread of somebody's tests, is up and gone in milliseconds, and cuts off what is still held.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

#: Real seconds an idle connection is kept.
KEEP_ALIVE_S = 75

#: The header that offers another protocol, in a head: h2c by Java's client, and by curl --http2; a WebSocket.
_OFFER = re.compile(rb"(\A[A-Z]+ [^\r\n]+ HTTP/1\.1(?:\r\n[^\r\n]+)*?)\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """uvicorn's own, but that an offer of another protocol is passed over, as every server may (RFC 9110, 7.8).

    Its parser reads nothing more of a request with such an offer, so that the body would be lost.
    """

    def data_received(self, data: bytes) -> None:
        """Take the offer out of a head, which comes in one piece from all who make one."""
        if b"pgrade:" in data or b"PGRADE:" in data:
            data = _OFFER.sub(rb"\1", data, count=1)
        super().data_received(data)


@asynccontextmanager
async def listening(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the ASGI application `app` on `listener` while the context lasts."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # errors of ours are told by the front; the rest is calls cut off at the end
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}, _loop=loop),
        sock=listener,
        backlog=2048,
    )
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        held = list(state.tasks)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
