"""What an address that is not served is told."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bridge.doors.http.part import Part
from bridge.doors.http.server import HttpServer


async def page(_request: Request) -> Response:
    """Something."""
    return PlainTextResponse("here")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/requests", "where BRIDGE_API is on"),
        ("/console", "docs/http-api.md"),
        ("/console/nowhere", "docs/http-api.md"),
        ("/nowhere", "docs/http-api.md"),
    ],
)
def test_what_is_switched_off_names_its_switch(path: str, says: str) -> None:
    """Who forgot it looks for a misspelt address otherwise."""
    server = HttpServer(8)
    server.listen("bind", "127.0.0.1:0", [Part([Route("/console/here", page)])], by_hand=True)
    try:
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"http://127.0.0.1:{server.ports[0]}{path}", timeout=10)
        assert answer.value.code == 404
        assert says in json.load(answer.value)["detail"]
    finally:
        server.stop()
