"""Puts the console together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from bridge.doors.http.console.access import HEADERS, Doorkeeper, Entrance, Network, Refusal
from bridge.doors.http.console.actions import Acting
from bridge.doors.http.console.dead_letters import Dead
from bridge.doors.http.console.one_request import One
from bridge.doors.http.console.overview import Overviews
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.request_list import Lists
from bridge.doors.http.console.session import Password, Sessions
from bridge.doors.http.part import Part
from bridge.ledger.console_sessions import EndedSessions, shared_secret

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.ledger import Ledger


def build(
    *,
    ledger: Ledger,
    control: Control,
    pressure: Pressure,
    broker_answers: Callable[[], None],
    replay: Callable[[Mapping[str, Any], str | None], str],
    password_file: Path | None,
    user_header: str,
    proxies: Collection[Network],
    read_only: bool,
    content: bool,
    redact: Collection[str],
) -> Part:
    """`replay` sends a dead letter again and says where to, or raises NotReplayable.

    Raises SettingsError where the password cannot be read.
    """
    password = Password(password_file) if password_file is not None else None
    pages = Pages(read_only=read_only, content=content)
    sessions = Sessions(lambda: shared_secret(ledger, "console_secret"), password)
    keeper = Doorkeeper(user_header, proxies, password)
    entrance = Entrance(keeper, sessions, EndedSessions(ledger), pages, read_only=read_only)
    overviews = Overviews(entrance, pages, ledger, control, pressure, broker_answers)
    parts = (
        entrance,
        pages,
        overviews,
        Lists(entrance, pages, ledger, overviews),
        One(entrance, pages, ledger, control, overviews, content=content, redact=redact),
        Dead(entrance, pages, ledger, overviews, replay, content=content, redact=redact),
        Acting(entrance, pages, ledger, control, overviews),
    )

    async def not_here(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 404
        response = entrance.sorry(request, Refusal(code, "There is no such page", "Its address may be misspelt."))
        response.headers.update(HEADERS)
        return response

    app = Starlette(
        routes=[route for part in parts for route in part.routes], exception_handlers={HTTPException: not_here}
    )

    app.router.redirect_slashes = False  # see `server.py`

    async def to_the_page(_request: Request) -> Response:
        return RedirectResponse("/console/", 307)

    return Part([Route("/console", to_the_page), Mount("/console", app=app)])
