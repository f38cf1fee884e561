"""The first page, an endpoint's page, the paused ones; and what every page has around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.console.access import SAID, Entrance, Refusal
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import Visitor
from bridge.engine.control.overview import overview, told_of
from bridge.ledger.queries import listing
from bridge.ledger.queries.listing import Wanted
from bridge.runtime.look import Look

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.ledger import Ledger

#: Seconds for which one look serves all who look.
FRESH_S, AROUND_S = 1.0, 5.0
#: Seconds that a page waits for the broker.
BROKER_S = 1.5
#: Requests shown on an endpoint's page.
NEWEST = 10


class Overviews:
    """One look at the ledger serves every page of this process."""

    def __init__(
        self,
        entrance: Entrance,
        pages: Pages,
        ledger: Ledger,
        control: Control,
        pressure: Pressure,
        broker: Callable[[], None],
    ) -> None:
        """Nothing is read before somebody looks. `broker` raises OSError when it does not answer."""
        self._entrance, self._pages = entrance, pages
        self._broker = Look(broker, BROKER_S, keep_s=AROUND_S)
        self._ledger, self._control, self._pressure = ledger, control, pressure
        self._lock = threading.Lock()
        self._at, self._known = float("-inf"), dict[str, Any]()

    @property
    def routes(self) -> list[Route]:
        """Three screens."""
        return [
            self._entrance.page("/", self._overview),
            self._entrance.page("/paused", self._paused),
            self._entrance.page("/endpoints/{name}", self._endpoint),
        ]

    def look(self, older_s: float = FRESH_S) -> dict[str, Any]:
        """Blocks. Raises LedgerUnavailable."""
        with self._lock:
            if time.monotonic() - self._at > older_s:
                flight = self._broker.begin()
                told = overview(self._ledger, self._control, self._pressure)
                self._known = {**told, "broker": self._broker.fault(flight)}
                self._at = time.monotonic()
            return self._known

    def forget(self) -> None:
        """Something was changed: the next look is a new one."""
        self._at = float("-inf")

    def show(self, request: Request, visitor: Visitor, template: str, around: dict[str, Any], **told: Any) -> Response:
        """A page with what stands around it: badges, the forms' token, and what was said of the last action."""
        endpoints = around["endpoints"]
        said = unquote(request.cookies.get(SAID, ""))[:500]
        response = self._pages.page(
            request,
            template,
            visitor,
            {
                "around": {
                    "dead": around["dead"],
                    "paused": sum(one["paused"] for one in endpoints),
                    "scheduled": sum(one["scheduled"] for one in endpoints),
                    "engines": around["engines"],
                    "intake": around["intake"],
                    "settings": around["settings"],
                    "broker": around["broker"],
                },
                "form": self._entrance.form_token(visitor),
                "said": said,
                **told,
            },
        )
        if said:
            response.delete_cookie(SAID, path="/console", httponly=True, samesite="strict")
        return response

    async def _overview(self, request: Request, visitor: Visitor) -> Response:
        told = await self._entrance.asked(self.look)
        rows = sorted(told["endpoints"], key=_urgency)
        totals = {
            name: sum(one[name] for one in rows)
            for name in ("waiting", "in_flight", "ended_per_min", "accepted_per_min", "near_expiry", "gpu_seconds")
        }
        costs = [one["gpu_cost"] for one in rows if one["gpu_cost"] is not None]
        history = [sum(values) for values in zip(*(one["history"]["ended"] for one in rows), strict=True)]
        arrived = [sum(values) for values in zip(*(one["history"]["accepted"] for one in rows), strict=True)]
        ended = {word: n for word, n in told["lately"].items() if word != "under way"}
        return self.show(
            request, visitor, "overview.html", told, told=told, rows=rows, totals=totals, history=history,
            arrived=arrived, cost=sum(costs) if costs else None, ended=ended, ended_total=sum(ended.values()),
        )  # fmt: skip

    async def _endpoint(self, request: Request, visitor: Visitor) -> Response:
        name = request.path_params["name"]

        def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            page = listing.page(self._ledger, Wanted(where={"endpoint": [name]}), count=NEWEST)
            return self.look(), [told_of(self._ledger, one.record) for one in page.held]

        told, newest = await self._entrance.asked(read)
        one = next((one for one in told["endpoints"] if one["endpoint"] == name), None)
        if one is None:
            raise Refusal(404, "No such endpoint", "No setting names it, and no request has used it.")
        return self.show(request, visitor, "endpoint.html", told, one=one, newest=newest)

    async def _paused(self, request: Request, visitor: Visitor) -> Response:
        told = await self._entrance.asked(self.look)
        rows = [one for one in told["endpoints"] if one["paused"]]
        others = [one for one in told["endpoints"] if not one["paused"]]
        return self.show(request, visitor, "paused.html", told, rows=rows, others=others)


def _urgency(one: dict[str, Any]) -> tuple[int, int, str]:
    """Trouble first, then whoever has most to do."""
    calm = one["verdict"] in {"ok", "cold", None}
    return (1 if calm else 0, -(one["waiting"] + one["in_flight"]), one["endpoint"])
