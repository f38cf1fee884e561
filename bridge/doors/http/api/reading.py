"""`GET /v1/requests/{id}` and endpoints' health: nothing here changes a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.doors.http.api.guard import Guard
from bridge.doors.http.api.tokens import Caller
from bridge.doors.http.problem import Problem
from bridge.errors import JobRejected

if TYPE_CHECKING:
    from bridge.engine.control import Control


class Reading:
    """Two routes."""

    def __init__(self, guard: Guard, control: Control) -> None:
        """`control` answers as it answers every door."""
        self._guard = guard
        self._control = control

    @property
    def routes(self) -> list[Route]:
        """Status of a request, health of an endpoint."""
        return [
            self._guard.route("/requests/{id}", self._status, "GET", "read", "read_all"),
            self._guard.route("/endpoints/{endpoint}/health", self._health, "GET", "read_all", "control"),
        ]

    def document(self, request_id: str, *, refresh: bool = False) -> dict[str, Any]:
        """Blocks. A large output is a reference, with the address where it is whole."""
        return self._control.status(id=request_id, refresh=refresh)

    async def _status(self, request: Request, caller: Caller) -> Response:
        request_id, refresh = request.path_params["id"], switch(request, "refresh")

        def told() -> dict[str, Any]:
            self._guard.known(request_id, caller, "read_all")
            return self.document(request_id, refresh=refresh)

        return JSONResponse(await self._guard.asked(told))

    async def _health(self, request: Request, _caller: Caller) -> Response:
        endpoint = request.path_params["endpoint"]
        return JSONResponse(
            await self._guard.asked(lambda: of_endpoint(lambda: self._control.health(endpoint)), runpod=True)
        )


def switch(request: Request, name: str) -> bool:
    """A query parameter that is true or false. Raises Problem."""
    said = request.query_params.get(name, "false")
    if said not in {"true", "false"}:
        raise Problem("rejected", f"{name}: must be true or false", field=name)
    return said == "true"


def of_endpoint(call: Any) -> Any:
    """The answer about the endpoint that the address names: one that nobody knows is not there."""
    try:
        return call()
    except JobRejected as fault:
        if fault.document.get("field") == "endpoint" and fault.document.get("reason") == "rejected":
            raise Problem("unknown", fault.message, field="endpoint") from None
        raise
