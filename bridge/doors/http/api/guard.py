"""The way in: who asks, whether he may, how much at a time, and how long an answer may take."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.api.tokens import ANYBODY, Caller, Right, Tokens
from bridge.doors.http.host import is_loopback_host
from bridge.doors.http.problem import Problem, problem_of, unknown
from bridge.doors.http.threads import Threads
from bridge.engine.control import Asker
from bridge.errors import LedgerError
from bridge.job.record import Long
from bridge.job.request import REQUEST_ID
from bridge.job.strict_json import BODY_MAX
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

T = TypeVar("T")
Handle = Callable[[Request, Caller], Awaitable[Response]]
#: Threads that ask the ledger, and those that wait for RunPod.
THREADS, CALLERS = 16, 4
#: Seconds after which a ledger that is silent is away; RunPod has somewhat longer.
LEDGER_S, RUNPOD_S = 8.0, 18.0
#: Seconds within which it has to answer a look, where something has taken so long.
ANSWERS_S = 2.0
#: Bytes of bodies that are read at a time, in all.
BODIES_MAX = 8 * BODY_MAX
#: Bytes over the limit that are still read of a body before its connection is closed.
DRAINED_MAX = 64 * 1024 * 1024
DOOR = "http"


class Guard:
    """One per address. Every route is made by it."""

    def __init__(self, ledger: Ledger, tokens: Tokens | None, origins: Collection[str]) -> None:
        """Without tokens whoever reaches the address may do anything: it has to be loopback.

        `origins` are the browser pages from elsewhere that may ask; "*" is all of them.
        """
        self._ledger = ledger
        self._tokens = tokens
        self._origins = frozenset(origins)
        self._ask_ledger, self._ask_runpod, self._look = Threads(THREADS), Threads(CALLERS), Threads(CALLERS)
        self._reading = 0

    def route(self, path: str, handle: Handle, method: str, *any_of: Right) -> Route:
        """A route for whoever has one of these rights; for everybody where none is named."""

        async def called(request: Request) -> Response:
            began = time.monotonic()
            try:
                response = await handle(request, self._caller(request, any_of))
            except Exception as error:  # noqa: BLE001  (an edge fails alone: this answer)
                response = problem_of(error).response()
                if response.status_code == 413:  # noqa: PLR2004  (the rest of the body is not read)
                    response.headers["connection"] = "close"
            tell(
                "api.answered",
                route=f"/v1{path}",
                method=method,
                code=response.status_code,
                seconds=time.monotonic() - began,
            )
            return response

        return Route(path, called, methods=[method])

    # Who

    def _caller(self, request: Request, any_of: Collection[Right]) -> Caller:
        if not any_of:
            return ANYBODY
        self._not_from_a_strange_page(request)
        if self._tokens is None:
            return ANYBODY
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(
                "unauthorised",
                "authorization: must be `Bearer TOKEN`",
                field="authorization",
                headers={"www-authenticate": "Bearer"},
            )
        found = self._tokens.find(token.strip())
        if found is None:
            tell("api.denied", why="unknown")
            raise Problem(
                "unauthorised",
                "authorization: this token is not known",
                field="authorization",
                headers={"www-authenticate": 'Bearer error="invalid_token"'},
            )
        caller, rate = found
        wait_s = rate.wait_s()
        if wait_s:
            after = max(1, math.ceil(wait_s))
            raise Problem("rate", f"this token may ask {rate.per_s:g} times a second", retry_after_s=after)
        if not caller.may(*any_of):
            tell("api.denied", why="right", caller=caller.name)
            needs = " or ".join(sorted(any_of))
            raise Problem("forbidden", f"this token may not do it: it needs the right {needs}")
        return caller

    def _not_from_a_strange_page(self, request: Request) -> None:
        """A browser lets any page send to loopback, also by a name of its own: Origin and Host show it."""
        host = request.headers.get("host", "")
        if self._tokens is None and not is_loopback_host(host):
            raise Problem(
                "forbidden", "host: is not loopback: ask as 127.0.0.1 or localhost, or set BRIDGE_API_TOKENS_FILE"
            )
        origin = request.headers.get("origin")
        own = origin in {f"http://{host}", f"https://{host}"}
        if origin is not None and not own and not self._origins & {origin, "*"}:
            raise Problem("forbidden", "origin: pages from there may not ask; BRIDGE_API_ORIGINS names those that may")

    @staticmethod
    def asker(caller: Caller, by: str | None = None) -> Asker:
        """Who is told to have asked: the token, and whom it speaks for."""
        said = "/".join(filter(None, (caller.name, by))) or None
        return Asker(by=said, door=DOOR, tenant=None if caller.may("control") else caller.tenant)

    # What

    async def asked(self, call: Callable[[], T], *, runpod: bool = False, store: bool = False) -> T:
        """The answer of the ledger (or of RunPod, or of the object store), from a thread.

        Raises Problem when it takes too long.
        """
        try:
            return await (self._ask_runpod(call, RUNPOD_S) if runpod else self._ask_ledger(call, LEDGER_S))
        except TimeoutError:
            if runpod:
                raise Problem("busy", f"no answer from RunPod within {RUNPOD_S:g} s; it may still be done") from None
            if await self._ledger_answers():
                if store:
                    raise Problem("output_unavailable", "output: the object store has not answered in time") from None
                raise Problem("busy", f"the bridge has not done it within {LEDGER_S:g} s; send it again") from None
            raise Problem("ledger_unavailable", f"the ledger has not answered within {LEDGER_S:g} s") from None

    async def _ledger_answers(self) -> bool:
        """Whether it does now: what took long was ours, then."""
        try:
            await self._look(self._ledger.engines.count, ANSWERS_S)
        except (TimeoutError, LedgerError):
            return False
        return True

    def known(self, request_id: str, caller: Caller, of_anybody: Right) -> None:
        """Pass a request of the caller's own tenant, or anybody's with the right `of_anybody`. Blocks.

        Raises Problem: `forbidden` for one that the caller may see in another way, else `unknown`.
        """
        tenant = self.tenant_of(request_id)
        if tenant is None:
            raise unknown(request_id)
        self.may_reach(request_id, tenant, caller, of_anybody)

    @staticmethod
    def may_reach(request_id: str, tenant: str, caller: Caller, of_anybody: Right) -> None:
        """The same of a request whose tenant is known."""
        if caller.owns(tenant) or caller.may(of_anybody):
            return
        if caller.may("read_all", "control"):
            raise Problem("forbidden", f"this request is not the token's own: it needs the right {of_anybody}")
        raise unknown(request_id)

    def tenant_of(self, request_id: str) -> str | None:
        """Whose request it is; None for one that nobody has sent. Blocks; raises Problem for what is no id."""
        if not REQUEST_ID.fullmatch(request_id):
            raise unknown(request_id[:200])
        held = self._ledger.load(request_id, wanted=(Long.OUTPUT_REF,))
        if held is not None:
            return held.record.tenant
        tomb = self._ledger.tombstone(request_id)
        return None if tomb is None else str(tomb.get("tn", ""))

    async def body(self, request: Request, most: int = BODY_MAX) -> bytes:
        """All of the body. Raises Problem where it is too long, or where too much is read already."""
        found, size, counted = bytearray(), 0, 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > most:  # read on, and forgotten: who is still sending would not hear why it was refused
                    found.clear()
                    if size > most + DRAINED_MAX:
                        break
                    continue
                found += part
                self._reading, counted = self._reading + len(part), counted + len(part)
                if self._reading > BODIES_MAX:
                    raise Problem("busy", "too many large bodies are being read; send it again")
        finally:
            self._reading -= counted
        if size > most:
            raise Problem("too_large", f"body: {size} bytes and perhaps more; at most {most} are taken", field="body")
        return bytes(found)
