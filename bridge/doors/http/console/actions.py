"""What can be done: cancel, retry, pause, resume, purge. Each is asked about first; its event says who did it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bridge.doors.http.console.access import SAID, Entrance, Refusal
from bridge.doors.http.console.overview import AROUND_S, Overviews
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import Visitor
from bridge.engine.control import Asker
from bridge.engine.control.overview import told_of
from bridge.job.request import REQUEST_ID

if TYPE_CHECKING:
    from bridge.engine.control import Control
    from bridge.ledger import Ledger

#: Seconds for which what was done is told, and characters of a reason.
SAID_S, REASON_MAX = 60, 255
_OUTCOMES = {
    "cancelled": "Cancelled.",
    "requested": "The cancel is under way: RunPod is asked, and its answer ends the request.",
    "already_ended": "It had ended already; nothing was changed.",
    "unknown": "The bridge knows no such request (yet); the cancel is kept for 24 h.",
}


def done(where: str, says: str) -> Response:
    """Back to a page, which says what was done."""
    response = RedirectResponse(where, 303)
    response.set_cookie(SAID, quote(says[:400]), max_age=SAID_S, path="/console", httponly=True, samesite="strict")
    return response


class Acting:
    """Five actions."""

    def __init__(
        self, entrance: Entrance, pages: Pages, ledger: Ledger, control: Control, overviews: Overviews
    ) -> None:
        """`control` does what every door may ask."""
        self._entrance, self._pages, self._ledger = entrance, pages, ledger
        self._control, self._overviews = control, overviews

    @property
    def routes(self) -> list[Route]:
        """Each a question (GET) and the deed (POST)."""
        of_request, of_endpoint = self._ask_of_request, self._ask_of_endpoint
        action = self._entrance.action
        return [
            action("/requests/{id}/cancel", of_request("cancel"), self._cancel),
            action("/requests/{id}/retry", of_request("retry"), self._retry),
            action("/endpoints/{name}/pause", of_endpoint("pause"), self._pause),
            action("/endpoints/{name}/resume", of_endpoint("resume"), self._resume),
            action("/endpoints/{name}/purge", of_endpoint("purge"), self._purge),
        ]

    # Questions

    def _ask_of_request(self, what: str) -> Callable[[Request, Visitor], Awaitable[Response]]:
        async def question(request: Request, visitor: Visitor) -> Response:
            request_id = _id_of(request)
            held = await self._entrance.asked(lambda: self._ledger.load(request_id))
            if held is None:
                raise Refusal(404, "No such request", "The bridge knows no such request, or its retention is over.")
            around = await self._entrance.asked(lambda: self._overviews.look(AROUND_S))
            row = told_of(self._ledger, held.record)
            return self._overviews.show(request, visitor, "ask_request.html", around, what=what, row=row)

        return question

    def _ask_of_endpoint(self, what: str) -> Callable[[Request, Visitor], Awaitable[Response]]:
        async def question(request: Request, visitor: Visitor) -> Response:
            name = request.path_params["name"]
            around = await self._entrance.asked(self._overviews.look)
            one = next((one for one in around["endpoints"] if one["endpoint"] == name), None)
            if one is None:
                raise Refusal(404, "No such endpoint", "No setting names it, and no request has used it.")
            queued = await self._entrance.asked(lambda: self._control.queued(name)) if what == "purge" else 0
            return self._overviews.show(
                request, visitor, "ask_endpoint.html", around, what=what, one=one, queued=queued
            )

        return question

    # Deeds

    async def _cancel(self, request: Request, visitor: Visitor) -> Response:
        request_id, (_, asker) = _id_of(request), await self._form(request, visitor)
        told = await self._entrance.asked(lambda: self._control.cancel(id=request_id, asker=asker))
        return done(f"/console/requests/{request_id}", _OUTCOMES.get(told["outcome"], str(told["outcome"])))

    async def _retry(self, request: Request, visitor: Visitor) -> Response:
        request_id, (_, asker) = _id_of(request), await self._form(request, visitor)
        await self._entrance.asked(lambda: self._control.retry(id=request_id, asker=asker))
        return done(f"/console/requests/{request_id}", "Another round has begun.")

    async def _pause(self, request: Request, visitor: Visitor) -> Response:
        fields, asker = await self._form(request, visitor)
        name, reason = request.path_params["name"], fields.get("reason", "").strip()[:REASON_MAX] or None
        await self._entrance.asked(lambda: self._control.pause(name, reason, asker))
        return self._told(name, "Paused: no submit leaves within a second; what runs is watched.")

    async def _resume(self, request: Request, visitor: Visitor) -> Response:
        fields, asker = await self._form(request, visitor)
        name, reason = request.path_params["name"], fields.get("reason", "").strip()[:REASON_MAX] or None
        await self._entrance.asked(lambda: self._control.resume(name, asker, reason))
        return self._told(name, "Submits leave again.")

    async def _purge(self, request: Request, visitor: Visitor) -> Response:
        fields, asker = await self._form(request, visitor)
        name, pending = request.path_params["name"], fields.get("pending") == "yes"

        def purged() -> dict[str, Any]:
            self._control.named(name)
            return self._control.purge(name, asker, pending=pending)

        told = await self._entrance.asked(purged, runpod=True)
        says = f"RunPod removed {told['removed']}; {told['settled']} of the bridge's own requests have ended"
        return self._told(name, f"{says}, {told['unread']} are still looked at." if told["unread"] else f"{says}.")

    async def _form(self, request: Request, visitor: Visitor) -> tuple[dict[str, str], Asker]:
        fields = await self._entrance.form(request, visitor.signs)
        return fields, self._entrance.asker(visitor, fields.get("by", ""))

    def _told(self, name: str, says: str) -> Response:
        self._overviews.forget()
        return done(f"/console/endpoints/{quote(name, safe='')}", says)


def _id_of(request: Request) -> str:
    request_id = str(request.path_params["id"])
    if not REQUEST_ID.fullmatch(request_id):
        raise Refusal(404, "No such request", "That is no id of a request.")
    return request_id
