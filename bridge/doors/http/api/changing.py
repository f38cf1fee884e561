"""Cancel and retry of a request; pause, resume and purge of an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.doors.commands import check_argument
from bridge.doors.http.api.guard import Guard
from bridge.doors.http.api.reading import Reading, of_endpoint
from bridge.doors.http.api.tokens import Caller
from bridge.doors.http.problem import Problem, unknown
from bridge.doors.parse import media_type
from bridge.engine.control import Asker
from bridge.errors import BUSY, JobRejected
from bridge.job.enums import Outcome
from bridge.job.request import REQUEST_ID, rejected
from bridge.job.strict_json import TEXT_MAX, Fault, plain, read_object

if TYPE_CHECKING:
    from bridge.engine.control import Control

#: Bytes of a command's body.
COMMAND_MAX = 64 * 1024


class Changing:
    """Five routes. Each takes a JSON object or no body; `by` says who asks."""

    def __init__(self, guard: Guard, control: Control, reading: Reading) -> None:
        """`control` does what every door may ask."""
        self._guard = guard
        self._control = control
        self._reading = reading

    @property
    def routes(self) -> list[Route]:
        """Of a request's own tenant, or of whoever may control."""
        route = self._guard.route
        return [
            route("/requests/{id}/cancel", self._cancel, "POST", "submit", "control"),
            route("/requests/{id}/retry", self._retry, "POST", "submit", "control"),
            route("/endpoints/{endpoint}/pause", self._pause, "POST", "control"),
            route("/endpoints/{endpoint}/resume", self._resume, "POST", "control"),
            route("/endpoints/{endpoint}/purge", self._purge, "POST", "control"),
        ]

    async def _cancel(self, request: Request, caller: Caller) -> Response:
        request_id, asker = request.path_params["id"], self._asker(caller, await self._said(request, "by"))

        def cancelled() -> dict[str, Any]:
            if not REQUEST_ID.fullmatch(request_id):
                raise unknown(request_id[:200])
            if caller.may("read_all") and (tenant := self._guard.tenant_of(request_id)) is not None:
                self._guard.may_reach(request_id, tenant, caller, "control")
            return self._control.cancel(id=request_id, asker=asker)

        told = await self._guard.asked(cancelled)
        # Of an id that nobody has sent yet the cancel is kept, also where it is another tenant's: both are told alike.
        final = told["outcome"] in {Outcome.CANCELLED.value, Outcome.ALREADY_ENDED.value}
        return JSONResponse(told, 200 if final else 202)

    async def _retry(self, request: Request, caller: Caller) -> Response:
        request_id, asker = request.path_params["id"], self._asker(caller, await self._said(request, "by"))

        def retried() -> dict[str, Any]:
            self._guard.known(request_id, caller, "control")
            try:
                self._control.retry(id=request_id, asker=asker)
            except JobRejected as fault:
                if fault.document.get("unknown") or fault.document.get("reason") == BUSY:
                    raise
                raise Problem("not_retryable", fault.message, field="id") from None
            return self._reading.document(request_id)

        told = await self._guard.asked(retried)
        return JSONResponse(told, 202, headers={"location": f"/v1/requests/{request_id}"})

    async def _pause(self, request: Request, caller: Caller) -> Response:
        said = await self._said(request, "by", "reason")
        asker = self._asker(caller, said)
        return await self._of(request, lambda endpoint: self._control.pause(endpoint, said.get("reason"), asker))

    async def _resume(self, request: Request, caller: Caller) -> Response:
        said = await self._said(request, "by", "reason")
        asker = self._asker(caller, said)
        return await self._of(request, lambda endpoint: self._control.resume(endpoint, asker, said.get("reason")))

    async def _purge(self, request: Request, caller: Caller) -> Response:
        said = await self._said(request, "by", "pending")
        asker, pending = self._asker(caller, said), bool(said.get("pending"))
        return await self._of(
            request, lambda endpoint: self._control.purge(endpoint, asker, pending=pending), runpod=True
        )

    async def _of(self, request: Request, call: Callable[[str], Any], *, runpod: bool = False) -> Response:
        endpoint = request.path_params["endpoint"]
        return JSONResponse(await self._guard.asked(lambda: of_endpoint(lambda: call(endpoint)), runpod=runpod))

    def _asker(self, caller: Caller, said: dict[str, Any]) -> Asker:
        return self._guard.asker(caller, said.get("by"))

    async def _said(self, request: Request, *allowed: str) -> dict[str, Any]:
        """The body: a JSON object of these names, or nothing. Raises Problem or JobRejected."""
        raw = await self._guard.body(request, COMMAND_MAX)
        if not raw.strip():
            return {}
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise Problem("unsupported_media_type", "content_type: send application/json", field="content_type")
        try:
            media_type(kind, request.headers.get("content-encoding", ""))
        except Fault as fault:
            raise Problem("unsupported_media_type", fault.text, field=fault.text.partition(":")[0]) from None
        try:
            said = read_object(raw)
        except Fault as fault:
            raise Problem(fault.reason, fault.text, field=fault.field) from None
        for name, value in said.items():
            if name not in allowed:
                raise rejected(name[:60], f"{name[:60]}: unknown argument; {', '.join(allowed)} may be given")
            check_argument(name, value)
            if isinstance(value, str) and not (len(value) <= TEXT_MAX and plain(value)):
                raise rejected(name, f"{name}: must be at most {TEXT_MAX} characters, without control characters")
        return said
