"""A TCP proxy that breaks on demand, to stand between the bridge and a server.

    with FaultProxy("127.0.0.1", server.port) as proxy:
        connect_to(proxy.port)
        proxy.hang()        # connections stay open and no byte moves
        proxy.restore()     # they move again

Its event loop runs in a thread of its own; its methods may be called from any thread and have acted on
return. Also `cut` (reset what is open), `refuse` (and take nothing new) and `delay` in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Self

#: Bytes read at once; small enough that a hang or a cut falls into the middle of large bodies.
PIECE = 16 * 1024
#: Linger on, for 0 s: close with a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """One listening loopback port in front of one target, healthy until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        #: Seconds that each piece waits before it is passed on, each way.
        self.delay = 0.0
        #: Connections taken so far.
        self.taken = 0
        #: The port to connect to; kept through `refuse`.
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._parked: socket.socket | None = None
        self._moving = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @classmethod
    def before(cls, origin: str) -> Self:
        """In front of the server at `http://127.0.0.1:port`."""
        return cls("127.0.0.1", int(origin.rpartition(":")[2]))

    def restore(self) -> None:
        """Pass bytes and take connections again; what a hang held back goes on."""
        self._do(self._restore())

    def hang(self) -> None:
        """Hold every byte back, both ways; connections stay open and new ones are still taken."""
        self._do(self._hang())

    def cut(self) -> None:
        """Reset every open connection, once; new ones are treated as before."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset every open connection and refuse new ones until `restore`."""
        self._do(self._refuse())

    def __enter__(self) -> Self:
        self._thread.start()
        self.restore()
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, step: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(5)

    async def _restore(self) -> None:
        self._moving.set()
        if self._server is None:
            listener, self._parked = self._parked or self._bound(), None
            self._server = await asyncio.start_server(self._serve, sock=listener)

    async def _hang(self) -> None:
        self._moving.clear()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def _refuse(self) -> None:
        if self._server is not None:
            for listener in self._server.sockets:
                self._loop.remove_reader(listener.fileno())
            # What has been taken becomes a connection first: a server that is closed in between forgets its socket.
            for _ in range(3):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
            # Bound but not listening: connections are refused, and nobody else can take the port.
            self._parked = self._bound()
        await self._cut()

    async def _close(self) -> None:
        await self._refuse()
        # A connection that came last may have begun behind the cut: the loop ends, so it must end before.
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self._parked is not None:
            self._parked.close()

    def _bound(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = int(listener.getsockname()[1])
        return listener

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self.taken += 1
        self._handlers.add(handler)
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._moving.wait()
            back, onward = await asyncio.open_connection(*self._target)
            self._writers.add(onward)
            await asyncio.gather(self._pump(reader, onward), self._pump(back, writer))
        except (OSError, asyncio.CancelledError):
            # One side broke, the target refused, or we were told to cut: both sides end.
            pass
        finally:
            for side in filter(None, (writer, onward)):
                self._writers.discard(side)
                side.transport.abort()
            self._handlers.discard(handler)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(PIECE):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._moving.wait()
            sink.write(piece)
            await sink.drain()
        await self._moving.wait()
        if sink.can_write_eof():
            sink.write_eof()
