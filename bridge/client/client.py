"""The two clients: they carry the flows' commands to Redis, and what is followed back to the caller."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Self

from redis.client import NEVER_DECODE
from redis.exceptions import RedisError

from bridge.client.checks import check_seconds, check_url
from bridge.client.download import download
from bridge.client.flows import Flows
from bridge.client.steps import Do, Fetch, Flow, Following, Item
from bridge.client.values import Chunk, Event
from bridge.job.contract.documents import Document
from bridge.redis.address import open_async, open_redis
from bridge.redis.outage import is_outage, mapped

#: Seconds between tries while Redis is away.
AGAIN_S = 0.2
#: An answer as bytes, from a client that reads text else.
_RAW = {NEVER_DECODE: True}
#: Seconds after which a connection that says nothing is given up.
SOCKET_S = 12.0
DEFAULT_URL = "redis://127.0.0.1:6379/0"


class _Base:
    def __init__(self, url: str | None = None, *, namespace: str | None = None, answer_timeout: float = 15.0) -> None:
        """Connects at first use.

        `url` is the ledger's Redis (`BRIDGE_REDIS_URL` when it is not given, and DEFAULT_URL without that),
        `namespace` the bridge's (`BRIDGE_NAMESPACE`, default `_`). `answer_timeout`: seconds that Redis and a bridge
        worker are waited for. Raises ValueError, TypeError.
        """
        self._url = check_url(url, DEFAULT_URL, os.environ.get("BRIDGE_REDIS_URL"))
        if answer_timeout is None:
            raise TypeError("answer_timeout: must be a number of seconds")
        check_seconds("answer_timeout", answer_timeout)
        if answer_timeout <= 0:
            raise ValueError("answer_timeout: must be more than 0 seconds")
        space = namespace or os.environ.get("BRIDGE_NAMESPACE") or "_"
        self._flows = Flows(space, answer_timeout)
        self._options: dict[str, Any] = {
            "decode_responses": True,
            "socket_connect_timeout": min(5.0, answer_timeout),
            # Longer than a read that waits (Flows), and no longer than a Redis that is silent may be waited for.
            "socket_timeout": min(SOCKET_S, answer_timeout),
        }

    @staticmethod
    def _gone(error: RedisError, do: Do) -> None:
        """Returns when the same may be tried again. Raises LedgerUnavailable or LedgerFault."""
        if not is_outage(error) or time.monotonic() + AGAIN_S >= do.until:
            with mapped("the bridge's Redis"):
                raise error


class Client(_Base):
    """Thread-safe. Each call that waits holds a connection of its own meanwhile; `close` gives all of them back."""

    def __init__(self, url: str | None = None, *, namespace: str | None = None, answer_timeout: float = 15.0) -> None:
        """See `_Base`."""
        super().__init__(url, namespace=namespace, answer_timeout=answer_timeout)
        self._redis = open_redis(self._url, **self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def submit(
        self,
        input: Mapping[str, Any],
        *,
        id: str | None = None,
        endpoint: str | None = None,
        stream: bool = False,
        events: bool = False,
        **arguments: Any,
    ) -> str:
        """Hand a request in and return its id, which is the idempotency key; made when it is not given.

        `arguments` are `bridge.run`'s (policy, timeout, retries, priority, metadata, ...). `events` keeps the
        request's transitions for `events(id)`. Raises JobRejected naming field and rule, LedgerUnavailable.
        """
        flow = self._flows.submit(input, id=id, endpoint=endpoint, stream=stream or None, events=events, **arguments)
        return str(self._run(flow))

    def result(self, id: str, timeout: float | None = None) -> Any:
        """Wait for the end and return the output, whole, whatever its size: never a reference to it.

        Raises JobFailed, JobTimedOut, JobLost, JobRejected, JobError (cancelled), each with the document,
        UnknownRequest, OutputUnavailable when it has completed and nobody keeps its output any more, and TimeoutError
        after `timeout` seconds.
        """
        return self._run(self._flows.result(id, timeout))

    def status(self, id: str, *, refresh: bool = False, timeout: float | None = None) -> Document:
        """The request's document as it is now; `refresh` has RunPod asked. Raises UnknownRequest, TimeoutError."""
        found: Document = self._run(self._flows.status(id, refresh=refresh, timeout=timeout))
        return found

    def events(self, id: str, *, after: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """Each transition behind sequence `after`, to the end; `timeout` seconds for all of it."""
        return self._follow(self._flows.events(id, after, timeout))

    def stream(self, id: str, *, start: int = 0, timeout: float | None = None) -> Iterator[Chunk]:
        """Chunks from index `start` on: as they come, or as they are kept; turns streaming on where it was off.

        Raises the request's error at its end, unless it completed.
        """
        return self._follow(self._flows.stream(id, start, timeout))

    def cancel(self, id: str, *, by: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """`{id, job_id, status, outcome}`; outcome is cancelled, requested, already_ended or unknown."""
        return dict(self._run(self._flows.command("cancel", {"id": id, "by": by}, timeout)))

    def command(self, op: str, *, timeout: float | None = None, **arguments: Any) -> Any:
        """Any of the contract's commands: retry, health, purge, pause, resume. Raises Refused."""
        return self._run(self._flows.command(op, arguments, timeout))

    def _run(self, flow: Flow) -> Any:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as done:
                return done.value
            answer = self._do(step)

    def _follow(self, flow: Following) -> Iterator[Any]:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration:
                return
            if isinstance(step, Item):
                answer = None
                yield step.value
            else:
                answer = self._do(step)

    def _do(self, do: Do | Fetch) -> Any:
        if isinstance(do, Fetch):
            return download(do)
        while True:
            try:
                return self._redis.execute_command(*do.args, **_RAW if do.raw else {})
            except RedisError as error:
                self._gone(error, do)
                time.sleep(AGAIN_S)


class AsyncClient(_Base):
    """The same to be awaited; for one event loop. Each call that waits holds a connection of its own meanwhile."""

    def __init__(self, url: str | None = None, *, namespace: str | None = None, answer_timeout: float = 15.0) -> None:
        """See `_Base`."""
        super().__init__(url, namespace=namespace, answer_timeout=answer_timeout)
        self._redis = open_async(self._url, **self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def submit(
        self,
        input: Mapping[str, Any],
        *,
        id: str | None = None,
        endpoint: str | None = None,
        stream: bool = False,
        events: bool = False,
        **arguments: Any,
    ) -> str:
        """As `Client.submit`."""
        flow = self._flows.submit(input, id=id, endpoint=endpoint, stream=stream or None, events=events, **arguments)
        return str(await self._run(flow))

    async def result(self, id: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109  (as the sync client's)
        """As `Client.result`."""
        return await self._run(self._flows.result(id, timeout))

    async def status(self, id: str, *, refresh: bool = False, timeout: float | None = None) -> Document:  # noqa: ASYNC109
        """As `Client.status`."""
        found: Document = await self._run(self._flows.status(id, refresh=refresh, timeout=timeout))
        return found

    def events(self, id: str, *, after: int = 0, timeout: float | None = None) -> AsyncIterator[Event]:
        """As `Client.events`."""
        return self._follow(self._flows.events(id, after, timeout))

    def stream(self, id: str, *, start: int = 0, timeout: float | None = None) -> AsyncIterator[Chunk]:
        """As `Client.stream`."""
        return self._follow(self._flows.stream(id, start, timeout))

    async def cancel(self, id: str, *, by: str | None = None, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """As `Client.cancel`."""
        return dict(await self._run(self._flows.command("cancel", {"id": id, "by": by}, timeout)))

    async def command(self, op: str, *, timeout: float | None = None, **arguments: Any) -> Any:  # noqa: ASYNC109
        """As `Client.command`."""
        return await self._run(self._flows.command(op, arguments, timeout))

    async def _run(self, flow: Flow) -> Any:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as done:
                return done.value
            answer = await self._do(step)

    async def _follow(self, flow: Following) -> AsyncIterator[Any]:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration:
                return
            if isinstance(step, Item):
                answer = None
                yield step.value
            else:
                answer = await self._do(step)

    async def _do(self, do: Do | Fetch) -> Any:
        if isinstance(do, Fetch):
            return await asyncio.to_thread(download, do)
        while True:
            try:
                return await self._redis.execute_command(*do.args, **_RAW if do.raw else {})
            except RedisError as error:
                self._gone(error, do)
                await asyncio.sleep(AGAIN_S)
