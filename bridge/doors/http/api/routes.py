"""Puts `/v1` together."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Mount

from bridge.doors.http.api.changing import Changing
from bridge.doors.http.api.description.routes import Describing
from bridge.doors.http.api.following.events import Events
from bridge.doors.http.api.following.followers import Followers
from bridge.doors.http.api.following.past_events import Past
from bridge.doors.http.api.following.sse import Telling
from bridge.doors.http.api.guard import Guard
from bridge.doors.http.api.output import WholeOutput
from bridge.doors.http.api.reading import Reading
from bridge.doors.http.api.submitting import Submitting
from bridge.doors.http.api.tokens import Tokens
from bridge.doors.http.part import Part
from bridge.doors.http.problem import Problem, http_error

if TYPE_CHECKING:
    from bridge.engine.accept.accept import Accept
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.engine.notifier import Notifier
    from bridge.ledger import Ledger
    from bridge.object_store import Blobs

#: Seconds for which a browser need not ask again whether it may.
PREFLIGHT_S = 600
#: What a page may send and read beside what every page may.
SENT = (
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "if-range",
    "last-event-id",
    "range",
)
TOLD = ("accept-ranges", "content-length", "content-range", "etag", "location", "retry-after")


def build(
    *,
    ledger: Ledger,
    accept: Accept,
    control: Control,
    pressure: Pressure,
    notifier: Notifier,
    blobs: Blobs | None,
    replies_via: str,
    inline_limit: int,
    tokens_file: Path | None,
    origins: Collection[str],
    followers_max: int,
    signed_s: int,
) -> Part:
    """Raises SettingsError where the tokens cannot be read."""
    tokens = Tokens(tokens_file) if tokens_file is not None else None
    guard = Guard(ledger, tokens, origins)
    followers = Followers(ledger, followers_max)
    reading = Reading(guard, control)
    telling = Telling(guard, ledger, reading, inline_limit=inline_limit)
    parts = (
        Submitting(guard, ledger, accept, pressure, notifier, reading, replies_via=replies_via),
        reading,
        WholeOutput(guard, ledger, blobs, signed_s=signed_s),
        Events(guard, ledger, telling, followers, Past(guard, ledger)),
        Changing(guard, control, reading),
        Describing(guard),
    )
    cors = Middleware(
        _Preflight,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=SENT,
        expose_headers=TOLD,
        max_age=PREFLIGHT_S,
    )
    app = Starlette(
        routes=[route for part in parts for route in part.routes],
        middleware=[cors] if origins else [],
        exception_handlers={HTTPException: http_error},
    )
    app.router.redirect_slashes = False  # see `server.py`
    mount = Mount("/v1", app=app)
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)  # a path may hold a line break: %0A
    return Part([mount], followers.close, followers_max)


class _Preflight(CORSMiddleware):
    """Starlette's own; what it refuses is a problem document, like every error here."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """To a browser that asks whether a page may ask."""
        told = super().preflight_response(request_headers)
        if told.status_code < 400:  # noqa: PLR2004
            return told
        kept = {name: value for name, value in told.headers.items() if not name.startswith("content-")}
        return Problem("forbidden", bytes(told.body).decode(), headers=kept).response()
