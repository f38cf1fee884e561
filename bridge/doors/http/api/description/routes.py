"""`/v1/openapi.json` and `/v1/schemas/{name}`: for whoever makes a client. No token is needed."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.doors.http.api.description import openapi
from bridge.doors.http.problem import Problem
from bridge.job.contract.models import schema_named, schemas

if TYPE_CHECKING:
    from bridge.doors.http.api.guard import Guard
    from bridge.doors.http.api.tokens import Caller

_KEPT = {"cache-control": "public, max-age=300"}


class Describing:
    """Two routes."""

    def __init__(self, guard: Guard) -> None:
        """Nothing is read: the models are the source."""
        self._guard = guard

    @property
    def routes(self) -> list[Route]:
        """The description, and each schema."""
        return [
            self._guard.route("/openapi.json", self._openapi, "GET"),
            self._guard.route("/schemas/{name}", self._schema, "GET"),
        ]

    async def _openapi(self, _request: Request, _caller: Caller) -> Response:
        return JSONResponse(_description(), headers=_KEPT)

    async def _schema(self, request: Request, _caller: Caller) -> Response:
        name = request.path_params["name"].removesuffix(".json")
        found = _schema_named(name)
        if found is None:
            raise Problem("unknown", f"name: there are {', '.join(sorted(schemas()))}", field="name")
        return JSONResponse(found, headers=_KEPT, media_type="application/schema+json")


@cache
def _description() -> dict[str, Any]:
    return openapi.document()


@lru_cache(maxsize=100)
def _schema_named(name: str) -> dict[str, Any] | None:
    """By its name, or as an event's `dataschema` has it."""
    return schema_named(name)
