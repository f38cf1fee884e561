"""The emulator's HTTP front: a raw ASGI application with one small dispatch, for the sake of speed.

Order of a call to `/v2/<endpoint>/<operation>[/<job>]`: authorisation, faults, endpoint, method, limits,
operation. Every call is recorded with its code.
"""

from __future__ import annotations

import asyncio
import traceback
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from bridge.emulator import answers, gateway, operations
from bridge.emulator.answers import Answer
from bridge.emulator.clock import Clock
from bridge.emulator.endpoint import Endpoint
from bridge.emulator.faults import AFTER, Fault, Faults
from bridge.emulator.job import Job
from bridge.emulator.limits import Gauge, Limits
from bridge.emulator.mishaps import After, before

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

#: Calls that are remembered; the oldest go first.
CALLS_KEPT = 200_000

_GET_OR_POST = frozenset({"GET", "POST"})
_METHODS: dict[str, frozenset[str]] = {
    "run": frozenset({"POST"}),
    "runsync": frozenset({"POST"}),
    "status": _GET_OR_POST,
    "status-sync": _GET_OR_POST,
    "stream": _GET_OR_POST,
    "cancel": frozenset({"POST"}),
    "retry": frozenset({"POST"}),
    "purge-queue": frozenset({"POST"}),
    "health": frozenset({"GET"}),
    "requests": frozenset({"GET"}),
    "metrics": frozenset({"GET"}),
    "openai": _GET_OR_POST,
}
_OF_A_JOB = frozenset({"status", "status-sync", "stream", "cancel", "retry"})
#: What is read of a body that is over the limit, before the connection is given up.
_DRAINED = 64 * 1024 * 1024


class Call(NamedTuple):
    """One call as the emulator received it. `time` is in virtual seconds; code 0 means: no answer was sent."""

    time: float
    endpoint: str
    op: str
    job_id: str | None
    code: int


class Extra(NamedTuple):
    """Further parts of the server: path prefixes and what answers them."""

    admin: Callable[[str, str, bytes, dict[str, str]], Awaitable[Answer]]
    worker: Callable[
        [tuple[str, str, str], str, bytes, dict[str, str], Callable[[], Awaitable[Any]]], Awaitable[Answer]
    ]


class Front:
    """The ASGI application."""

    def __init__(
        self, clock: Clock, endpoints: dict[str, Endpoint], faults: Faults, api_keys: frozenset[str], *, limits: bool
    ) -> None:
        self.clock = clock
        self.endpoints = endpoints
        self.faults = faults
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.api_keys = api_keys
        self.limits = {name: Limits(endpoint) for name, endpoint in endpoints.items()} if limits else {}
        self.extra: Extra | None = None
        self._granted = {key.encode() for key in api_keys} | {b"Bearer " + key.encode() for key in api_keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. An error of the emulator itself is told on stderr, and answered 500."""
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except Exception:
            traceback.print_exc()
            await _send(send, answers.EMULATOR_ERROR)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        method: str = scope["method"]
        parts = path.split("/", 4)
        if len(parts) < 4 or parts[1] != "v2":  # noqa: PLR2004 - "", "v2", endpoint, operation
            await self._elsewhere(path, scope, receive, send)
            return
        name, op = parts[2], parts[3]
        rest = parts[4] if len(parts) > 4 else ""  # noqa: PLR2004
        if op not in _METHODS:
            if self.extra is not None and method in _GET_OR_POST:
                body = await _body(receive, _DRAINED)
                key = next((value for field, value in scope["headers"] if field == b"authorization"), b"")
                path_ = (name, op, rest)
                answer = await self.extra.worker(path_, key.decode("latin-1"), body, _query(scope), receive)
                await _send(send, answer)
                return
            await _send(send, answers.NOT_FOUND)
            return
        job_id = rest if op in _OF_A_JOB else None
        if not self._allowed(scope):
            self._record(name, op, job_id, 401)
            await _send(send, self._unauthorised(name))
            return
        fault = self.faults.hit(op, name) if self.faults.waiting else None
        if fault is not None and fault.kind not in AFTER:
            done = await before(fault, scope, send, self._forget, name, job_id)
            if isinstance(done, Answer):
                self._record(name, op, job_id, done.code)
                await _send(send, self._unauthorised(name) if done.code == 401 else done)  # noqa: PLR2004
                return
            if done:
                self._record(name, op, job_id, 0)
                return
            fault = None
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            self._record(name, op, job_id, 404)
            await _send(send, answers.ENDPOINT_NOT_FOUND)
            return
        if method not in _METHODS[op]:
            self._record(name, op, job_id, 405)
            await _send(send, answers.NOT_ALLOWED)
            return
        limits = self.limits.get(name)
        gauge = limits.gauge(op) if limits is not None else None
        if limits is not None and (
            (gauge is not None and not limits.enter(gauge)) or (op in {"run", "runsync"} and self._full(limits, gauge))
        ):
            self._record(name, op, job_id, 429)
            await _send(send, answers.throttled(endpoint.config.retry_after_s))
            return
        try:
            await self._operate(endpoint, op, rest, fault, scope, receive, send)
        finally:
            if gauge is not None:
                gauge.at_once -= 1

    async def _operate(
        self, endpoint: Endpoint, op: str, rest: str, fault: Fault | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if fault is not None and fault.kind == "hang" and fault.args.get("before"):
            await asyncio.sleep(fault.args.get("seconds", 30.0))
            fault = None
        answer: Answer
        job: Job | None = None
        if op in _OF_A_JOB:
            job = endpoint.jobs.get(rest)
            if job is None:
                answer = answers.JOB_NOT_FOUND
            elif op == "status":
                answer = operations.status(endpoint, job, _query(scope))
            elif op == "stream":
                answer = await _while_there(receive, operations.stream(endpoint, job, _query(scope)))
            elif op == "status-sync":
                answer = await operations.status_sync(endpoint, job, _query(scope))
            elif op == "cancel":
                answer = operations.cancel(endpoint, job)
            else:
                answer = operations.retry(endpoint, job)
        elif op == "run":
            answer = operations.run(endpoint, await _body(receive, endpoint.config.run_body))
        elif op == "runsync":
            body = await _body(receive, endpoint.config.runsync_body)
            answer = await operations.runsync(endpoint, body, _query(scope))
        elif op == "openai":
            body = await _body(receive, endpoint.config.runsync_body)
            code = await gateway.openai(endpoint, scope["method"], rest, body, send)
            self._record(endpoint.name, op, None, code)
            return
        else:
            answer = getattr(operations, op.replace("-", "_"))(endpoint)
        if op in {"run", "runsync"} and answer.code == 200:  # noqa: PLR2004
            rest = next(reversed(endpoint.jobs), rest)
        if fault is None:
            self._record(endpoint.name, op, rest or None, answer.code)
            await _send(send, answer)
            return
        code = await After(fault, answer, scope, send).carry_out()
        self._record(endpoint.name, op, rest or None, code)

    async def _elsewhere(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.extra is None:
            await _send(send, answers.NOT_FOUND)
            return
        body = await _body(receive, _DRAINED)
        await _send(send, await self.extra.admin(scope["method"], path, body, _query(scope)))

    def _allowed(self, scope: Scope) -> bool:
        return any(name == b"authorization" and value in self._granted for name, value in scope["headers"])

    def _unauthorised(self, name: str) -> Answer:
        endpoint = self.endpoints.get(name)
        return Answer(401, endpoint.config.unauthorised_body.encode() if endpoint else b"", answers.TEXT)

    def _forget(self, name: str, job_id: str) -> None:
        endpoint = self.endpoints.get(name)
        if endpoint is not None and (job := endpoint.jobs.get(job_id)) is not None:
            endpoint.forget(job)

    @staticmethod
    def _full(limits: Limits, gauge: Gauge | None) -> bool:
        if not limits.queue_full():
            return False
        if gauge is not None:
            gauge.at_once -= 1
        return True

    def _record(self, endpoint: str, op: str, job_id: str | None, code: int) -> None:
        self.calls.append(Call(self.clock.now(), endpoint, op, job_id, code))


async def _while_there(receive: Receive, answer: Awaitable[Answer]) -> Answer:
    """Await `answer` whether or not the caller is still there: RunPod pops chunks for dead requests too."""
    del receive
    return await answer


def _query(scope: Scope) -> dict[str, str]:
    text = scope["query_string"]
    return dict(urllib.parse.parse_qsl(text.decode("latin-1"), keep_blank_values=True)) if text else {}


async def _body(receive: Receive, limit: int) -> bytes:
    """Read the body; of one over `limit` at least so much that its size is known to be too large."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size - len(part) <= limit:
            parts.append(part[: limit + 1 - (size - len(part))])
        elif size > _DRAINED:
            break
    return b"".join(parts)


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": "http.response.start", "status": answer.code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
