"""The admin API over HTTP, `/_emulator/...`, and the page at `/`. They ask for no key: see `origins`.

- `POST /_emulator/fault` `{"kind", "op"?, "endpoint"?, "times"?, "probability"?, ...}`
- `GET`, `DELETE /_emulator/faults`
- `POST /_emulator/advance` `{"seconds"}` · `GET /_emulator/clock`
- `GET /_emulator/jobs?endpoint=` · `GET /_emulator/calls[?endpoint=]` · `GET /_emulator/counts`
- for the page: `GET /_emulator/state`, `POST /_emulator/run` `{"endpoint", "input"}`, `/_emulator/cancel` `{"job_id"}`
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from bridge.emulator.admin.actions import Admin
from bridge.emulator.http import answers
from bridge.emulator.http.answers import HTML, Answer, bad_request, document

Query = dict[str, str]

#: Somebody else's page must not show this one under a button of its own.
_UNFRAMED = ((b"x-frame-options", b"DENY"), (b"x-content-type-options", b"nosniff"))


class Routes:
    """Routes HTTP calls to `Admin`."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._page = files("bridge.emulator.admin").joinpath("page.html").read_bytes()
        self._routes: dict[tuple[str, str], Callable[[bytes, Query], Any | Awaitable[Any]]] = {
            ("POST", "fault"): self._fault,
            ("GET", "faults"): lambda _body, _query: admin.faults(),
            ("DELETE", "faults"): self._clear,
            ("POST", "advance"): self._advance,
            ("GET", "clock"): lambda _body, _query: admin.clock(),
            ("GET", "jobs"): lambda _body, query: admin.jobs(query.get("endpoint", "")),
            ("GET", "calls"): lambda _body, query: admin.calls(query.get("endpoint")),
            ("GET", "counts"): lambda _body, _query: admin.counts(),
            ("GET", "state"): lambda _body, _query: admin.state(),
            ("POST", "run"): lambda body, _query: _told(admin.run, body),
            ("POST", "cancel"): lambda body, _query: _told(admin.cancel, body),
        }

    async def answer(self, method: str, path: str, body: bytes, query: Query) -> Answer:
        """Answer one call; bad input gives a 400 that names it."""
        if path == "/":
            return Answer(200, self._page, HTML, _UNFRAMED) if method == "GET" else answers.NOT_ALLOWED
        route = self._routes.get((method, path.removeprefix("/_emulator/")))
        if route is None or not path.startswith("/_emulator/"):
            return answers.NOT_FOUND
        try:
            shown = route(body, query)
            if inspect.isawaitable(shown):
                shown = await shown
        except (ValueError, TypeError) as error:
            return bad_request(str(error))
        return document(shown)

    def _fault(self, body: bytes, _query: Query) -> list[dict[str, Any]]:
        _told(self._admin.fault, body)
        return self._admin.faults()

    def _clear(self, _body: bytes, _query: Query) -> list[dict[str, Any]]:
        self._admin.clear_faults()
        return self._admin.faults()

    async def _advance(self, body: bytes, _query: Query) -> dict[str, float]:
        seconds = _object(body).get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds must be a number, not {seconds!r}")
        await self._admin.advance(seconds)
        return self._admin.clock()


def _told(act: Callable[..., Any], body: bytes) -> Any:
    """Call `act` with the members of `body`; TypeError names one that is missing, and not our functions."""
    given = inspect.signature(act).bind(**_object(body))
    return act(*given.args, **given.kwargs)


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body or b"{}")
    if not isinstance(value, dict):
        raise TypeError("the body must be a JSON object")
    return value
