"""Webhooks: one POST when a job ends, tried again while the receiver does not answer 200.

Three tries, 10 s apart ("send requests"). The body is the /status document and, as captured, `input` and
`webhook`. No signature, no headers of its own.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections import deque
from collections.abc import Coroutine
from typing import Any

from bridge.emulator.http.answers import encode
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.faults import Fault, Faults
from bridge.emulator.model.job import Job

#: Tries that are remembered; the oldest go first.
TRIES_KEPT = 10_000

#: Deliveries under way at once; more wait their turn.
AT_ONCE = 200


class Webhooks:
    """Delivers webhooks on the emulator's loop."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self._clock = clock
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)
        #: Tries as (virtual time, endpoint, job id, code); code 0: no answer.
        self.tries: deque[tuple[float, str, str, int]] = deque(maxlen=TRIES_KEPT)

    def ended(self, endpoint: Endpoint, job: Job) -> None:
        """Tell the job's webhook that it ended, when it has one and the status is told."""
        if job.webhook is None or job.status not in endpoint.config.webhook_on:
            return
        told = job.document()
        if endpoint.config.webhook_echo:
            told |= {"input": job.input, "webhook": job.webhook}
        self._spawn(self._tell(endpoint, job.id, job.webhook, encode(told)))

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, endpoint: Endpoint, job_id: str, url: str, body: bytes) -> None:
        fault = self._faults.hit_webhook(endpoint.name) if self._faults.waiting else None
        if fault is not None:
            if fault.kind == "webhook_lost":
                return
            if fault.kind == "webhook_late":
                await self._clock.sleep(fault.args.get("seconds", 30.0))
        config = endpoint.config
        for number in range(config.webhook_tries):
            if number:
                await self._clock.sleep(config.webhook_interval_s)
            if await self._try(endpoint, job_id, url, body):
                break
        else:
            return
        await self._repeat(endpoint, job_id, url, body, fault)

    async def _repeat(self, endpoint: Endpoint, job_id: str, url: str, body: bytes, fault: Fault | None) -> None:
        if fault is None or fault.kind != "webhook_repeat":
            return
        for _ in range(int(fault.args.get("repeats", 1))):
            await self._clock.sleep(fault.args.get("seconds", 0.0))
            await self._try(endpoint, job_id, url, body)

    async def _try(self, endpoint: Endpoint, job_id: str, url: str, body: bytes) -> bool:
        code = 0
        async with self._turns:
            try:
                async with asyncio.timeout(endpoint.config.webhook_timeout_s):
                    code = await post(url, body)
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                code = 0
        self.tries.append((self._clock.now(), endpoint.name, job_id, code))
        return code == 200  # noqa: PLR2004


async def post(url: str, body: bytes) -> int:
    """POST a JSON body over a connection of its own; return the code. No redirects."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"webhook is no http URL: {url}")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        f"?{parts.query}" if parts.query else ""
    )
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode("latin-1") + body)
        await writer.drain()
        line = (await reader.readline()).split(None, 2)
        if len(line) < 2 or not line[1].isdigit():  # noqa: PLR2004 - version and code
            raise ValueError("no HTTP answer")
        return int(line[1])
    finally:
        writer.close()
