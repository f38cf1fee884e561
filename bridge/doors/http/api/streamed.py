"""An answer that is given bit by bit, for as long as somebody takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.doors.http.bounds import answers_for_long
from bridge.telemetry import tell

#: Bytes that are handed to the connection at once, and seconds within which its reader has to take them.
PART, PART_S = 64 * 1024, 30.0


class Streamed(Response):
    """Ends with its reader: when that goes, or takes nothing for PART_S. What is given is closed then."""

    def __init__(self, parts: AsyncGenerator[bytes, None], code: int, headers: Mapping[str, str]) -> None:
        """`parts` of any size, headers in small letters."""
        super().__init__(None, code)
        self._parts = parts
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What ends it early leaves the answer unfinished, which closes its connection."""
        answers_for_long(scope)
        give, gone = asyncio.create_task(self._give(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({give, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (give, gone):
                task.cancel()
            for ended in await asyncio.gather(give, gone, return_exceptions=True):
                if isinstance(ended, Exception):
                    tell("api.cut_off", path=scope["path"], error=f"{type(ended).__name__}: {ended}")
            with suppress(RuntimeError):
                await self._parts.aclose()

    async def _give(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts:
            for at in range(0, len(part), PART):
                async with asyncio.timeout(PART_S):
                    await send({"type": "http.response.body", "body": part[at : at + PART], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
