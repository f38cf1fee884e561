"""The emulator's HTTP front: a raw ASGI application with one small dispatch, for the sake of speed.

Order of a call to `/v2/<endpoint>/<operation>[/<job>]`: authorisation, faults, endpoint, method, limits,
operation. Every call is recorded with the code it was answered with.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bridge.emulator.api import batch, inject, openai, operations
from bridge.emulator.http import answers, origins
from bridge.emulator.http.answers import Answer
from bridge.emulator.http.asgi import DRAINED, Message, Receive, Scope, Send, body_of, query_of, send_answer
from bridge.emulator.model.calls import Call, Calls
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.faults import AFTER, Fault, Faults
from bridge.emulator.model.limits import Limits

_POST, _GET, _GET_OR_POST = frozenset({"POST"}), frozenset({"GET"}), frozenset({"GET", "POST"})
#: Status, status-sync and stream are asked by POST too (older docs, the Go SDK).
_METHODS: dict[str, frozenset[str]] = {
    "run": _POST,
    "runsync": _POST,
    "status": _GET_OR_POST,
    "status-sync": _GET_OR_POST,
    "stream": _GET_OR_POST,
    "cancel": _POST,
    "retry": _POST,
    "purge-queue": _POST,
    "health": _GET,
    "requests": _GET,
    "metrics": _GET,
    "openai": _GET_OR_POST,
    "batch": frozenset({"GET", "POST", "PUT", "DELETE"}),
}
_STRANGER = "a page from elsewhere: an emulator on loopback answers pages from loopback only; see --host"
#: What a browser asks before it sends a key or JSON.
_PREFLIGHT = Answer(
    204,
    headers=(
        (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ),
)
_OF_A_JOB = frozenset({"status", "status-sync", "stream", "cancel", "retry"})


class Route(NamedTuple):
    """A call under way: where it goes, and ASGI's three."""

    endpoint: str
    op: str
    rest: str
    scope: Scope
    receive: Receive
    send: Send
    #: Whether `op` is an operation of the Batch API.
    batch: bool = False


class Others(NamedTuple):
    """What answers calls that are not RunPod's public API: the admin routes, and the worker protocol."""

    admin: Callable[[str, str, bytes, dict[str, str]], Awaitable[Answer]]
    protocol: Callable[
        [tuple[str, str, str], str, bytes, dict[str, str], Callable[[], Awaitable[Any]]], Awaitable[Answer]
    ]


class Front:
    """The ASGI application."""

    def __init__(
        self,
        clock: Clock,
        endpoints: dict[str, Endpoint],
        faults: Faults,
        calls: Calls,
        api_keys: frozenset[str],
        others: Others,
        *,
        limits: bool,
        loopback: bool,
    ) -> None:
        self.clock = clock
        self.endpoints = endpoints
        self.faults = faults
        self._calls = calls
        self.limits = {name: Limits(endpoint) for name, endpoint in endpoints.items()} if limits else {}
        self._others = others
        #: Whether it listens on loopback alone, and pages from elsewhere are kept out.
        self._loopback = loopback
        # Both forms are in use: "Bearer <key>" by the SDKs, the bare key in RunPod's own curl examples.
        self._granted = {key.encode() for key in api_keys} | {b"Bearer " + key.encode() for key in api_keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. An error of the emulator itself is told on stderr, and answered 500."""
        if scope["type"] != "http":
            return
        try:
            parts = scope["path"].split("/", 4)
            if len(parts) < 4 or parts[1] != "v2":  # noqa: PLR2004 - "", "v2", endpoint, operation
                await self._admin(scope, receive, send)
                return
            route = Route(parts[2], parts[3], parts[4] if len(parts) > 4 else "", scope, receive, send)  # noqa: PLR2004
            if route.op in _METHODS:
                await self._open(route)
            else:
                await self._protocol(route)
        except Exception:  # noqa: BLE001 - whatever it is, the caller must not wait for ever
            traceback.print_exc()
            await send_answer(send, answers.EMULATOR_ERROR)

    async def _open(self, route: Route) -> None:
        """Answer a call of the public API; one that a web page sends (it has an Origin) as browsers want it."""
        headers = dict(route.scope["headers"])
        if b"origin" not in headers:
            await self._public(route, headers)
        elif self._loopback and origins.from_a_stranger(headers):
            await self._reply(route, _refusal(_STRANGER))  # the default key is known to every page
        elif route.scope["method"] == "OPTIONS":
            await send_answer(_shared(route.send), _PREFLIGHT)
        else:
            await self._public(route._replace(send=_shared(route.send)), headers)

    async def _public(self, route: Route, headers: dict[bytes, bytes]) -> None:
        fault: Fault | None = None
        if route.op == "batch":
            op = batch.operation(route.scope["method"], route.rest)
            route = route._replace(op=op or "batch", batch=op is not None)
        if headers.get(b"authorization") not in self._granted:
            await self._reply(route, self._unauthorised(route.endpoint))
            return
        if self.faults.waiting and (fault := self.faults.hit(route.op, route.endpoint)) and fault.kind not in AFTER:
            if await self._mishap(route, fault):
                return
            fault = None
        endpoint = self.endpoints.get(route.endpoint)
        if endpoint is None:
            await self._reply(route, answers.ENDPOINT_NOT_FOUND)
            return
        if not route.batch and route.scope["method"] not in _METHODS[route.op]:
            await self._reply(route, answers.NOT_ALLOWED)
            return
        limits = self.limits.get(route.endpoint)
        gauge = limits.gauge(route.op) if limits is not None else None
        if limits is not None and not limits.enter(gauge, route.op):
            await self._reply(route, answers.throttled(endpoint.config.retry_after_s))
            return
        try:
            await self._operate(route, endpoint, fault)
        finally:
            if gauge is not None:
                gauge.at_once -= 1

    async def _operate(self, route: Route, endpoint: Endpoint, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "hang" and fault.args.get("before"):
            await asyncio.sleep(fault.args.get("seconds", inject.HANG_S))
            fault = None
        if route.op in _OF_A_JOB:
            answer = await self._of_a_job(route, endpoint)
        elif route.op == "run":
            answer = operations.run(endpoint, await body_of(route.receive, endpoint.config.run_body))
        elif route.op == "runsync":
            body = await body_of(route.receive, endpoint.config.runsync_body)
            answer = await operations.runsync(endpoint, body, query_of(route.scope))
        elif route.op == "openai":
            body = await body_of(route.receive, endpoint.config.runsync_body)
            answer = await openai.openai(endpoint, route.scope["method"], route.rest, body, route.send)
        elif route.batch or route.op == "batch":
            body = await body_of(route.receive, endpoint.config.run_body)
            answer = batch.answer(endpoint, route.op, route.rest, body, query_of(route.scope))
        else:
            answer = operations.OF_THE_ENDPOINT[route.op](endpoint)
        if answer is answers.RELAYED:
            self._record(route, 200)
        elif fault is None:
            await self._reply(route, answer)
        else:
            self._record(route, inject.code_of(fault, answer), answer.job_id)
            await inject.after(fault, answer, route.send)

    @staticmethod
    async def _of_a_job(route: Route, endpoint: Endpoint) -> Answer:
        job = endpoint.jobs.get(route.rest)
        if job is None:
            return answers.JOB_NOT_FOUND
        match route.op:
            case "status":
                return operations.status(endpoint, job, query_of(route.scope))
            case "stream":
                # Held also when the caller hangs up: RunPod pops chunks for dead requests too.
                return await operations.stream(endpoint, job, query_of(route.scope))
            case "status-sync":
                return await operations.status_sync(endpoint, job, query_of(route.scope))
            case "cancel":
                return operations.cancel(endpoint, job)
            case _:
                return operations.retry(endpoint, job)

    async def _mishap(self, route: Route, fault: Fault) -> bool:
        """Carry out a fault that comes before the operation; return whether that was all."""
        if fault.kind == "vanish":
            endpoint = self.endpoints.get(route.endpoint)
            if endpoint is not None and (job := endpoint.jobs.get(route.rest)) is not None:
                endpoint.forget(job)
            return False
        if fault.kind == "reset":
            self._record(route, 0)
            await inject.cut(route.send, reset=True)
            return True
        unauthorised = fault.kind == "unauthorised"
        await self._reply(route, self._unauthorised(route.endpoint) if unauthorised else inject.instead(fault))
        return True

    async def _protocol(self, route: Route) -> None:
        if route.scope["method"] not in _GET_OR_POST:
            await send_answer(route.send, answers.NOT_FOUND)
            return
        body = await body_of(route.receive, DRAINED)
        key = next((value for name, value in route.scope["headers"] if name == b"authorization"), b"")
        where = (route.endpoint, route.op, route.rest)
        answer = await self._others.protocol(where, key.decode("latin-1"), body, query_of(route.scope), route.receive)
        await send_answer(route.send, answer)

    async def _admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        if why := origins.refused(scope["method"], dict(scope["headers"]), loopback=self._loopback):
            await send_answer(send, _refusal(why))
            return
        body = await body_of(receive, DRAINED)
        await send_answer(send, await self._others.admin(scope["method"], scope["path"], body, query_of(scope)))

    def _unauthorised(self, name: str) -> Answer:
        endpoint = self.endpoints.get(name)
        return Answer(401, endpoint.config.unauthorised_body.encode() if endpoint else b"", answers.TEXT)

    async def _reply(self, route: Route, answer: Answer) -> None:
        self._record(route, answer.code, answer.job_id)
        await send_answer(route.send, answer)

    def _record(self, route: Route, code: int, job_id: str | None = None) -> None:
        if job_id is None and route.op in _OF_A_JOB:
            job_id = route.rest
        elif job_id is None and route.batch:
            job_id = route.rest.partition("/")[0] or None
        self._calls.record(Call(self.clock.now(), route.endpoint, route.op, job_id, code))


def _shared(send: Send) -> Send:
    """Return `send`, which lets the page that asked read the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"access-control-allow-origin", b"*")]
        await send(message)

    return sending


def _refusal(why: str) -> Answer:
    return answers.problem(403, "Forbidden", why)
