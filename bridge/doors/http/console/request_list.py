"""Requests: search and filter, live; and those that are scheduled."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.console.access import Entrance, Refusal
from bridge.doors.http.console.overview import AROUND_S, Overviews
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import Visitor
from bridge.engine.control.overview import told_of
from bridge.job.enums import Phase, Reason, Status
from bridge.ledger.queries import listing
from bridge.ledger.queries.listing import Wanted

if TYPE_CHECKING:
    from bridge.ledger import Ledger

COUNT = 50
#: Milliseconds until a list is looked at again; longer where much had to be looked at for it.
EVERY_MS = 2_000
#: The choices of `state`, in the words of the page, and what each asks for.
STATES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "open": ("Not ended", "phase", ("ACCEPTED", "SUBMITTING", "UNANSWERED", "TRACKED", "RETRYING")),
    "waiting": ("Waiting", "phase", ("ACCEPTED",)),
    "in-flight": ("In flight", "phase", ("SUBMITTING", "UNANSWERED", "TRACKED", "RETRYING")),
    "ended": ("Ended", "phase", ("SETTLED", "CLOSED")),
    **{status.value: (status.value, "status", (status.value,)) for status in Status if status != Status.ACCEPTED},
    **{f"phase:{phase.value}": (phase.value, "phase", (phase.value,)) for phase in Phase},
}
SINCE = {"15m": 900, "1h": 3_600, "6h": 21_600, "1d": 86_400, "7d": 604_800}
FIELDS = ("q", "endpoint", "state", "reason", "tenant", "since", "from", "to")


class Lists:
    """Two screens."""

    def __init__(self, entrance: Entrance, pages: Pages, ledger: Ledger, overviews: Overviews) -> None:
        """Reads alone."""
        self._entrance, self._pages, self._ledger, self._overviews = entrance, pages, ledger, overviews

    @property
    def routes(self) -> list[Route]:
        """Search, and what is scheduled."""
        return [
            self._entrance.page("/requests", self._requests),
            self._entrance.page("/scheduled", self._scheduled),
        ]

    async def _requests(self, request: Request, visitor: Visitor) -> Response:
        asked = {name: request.query_params.get(name, "").strip()[:300] for name in FIELDS}
        after = request.query_params.get("after", "")
        after = after if listing.is_place(after) else ""
        wanted = self._wanted(asked)

        def read() -> tuple[dict[str, Any], listing.Page, list[dict[str, Any]], int]:
            page = listing.page(self._ledger, wanted, after=after, count=COUNT)
            rows = [told_of(self._ledger, one.record) for one in page.held]
            return self._overviews.look(AROUND_S), page, rows, listing.kept(self._ledger)

        around, page, rows, kept = await self._entrance.asked(read)
        given = {name: value for name, value in asked.items() if value}
        return self._overviews.show(
            request,
            visitor,
            "requests.html",
            around,
            rows=rows,
            asked=asked,
            filtered=bool(given),
            looked_at=page.looked_at,
            kept=kept,
            newest=f"?{urlencode(given)}",
            older=f"?{urlencode({**given, 'after': page.goes_on})}" if page.goes_on else "",
            first=not after,
            every_ms=EVERY_MS + page.looked_at // 2,
            states=STATES,
            reasons=[reason.value for reason in Reason],
            endpoints=[one["endpoint"] for one in around["endpoints"]],
            spans=SINCE,
        )

    def _wanted(self, asked: Mapping[str, str]) -> Wanted:
        where: dict[str, list[str]] = {name: [asked[name]] for name in ("endpoint", "reason", "tenant") if asked[name]}
        if asked["state"]:
            if asked["state"] not in STATES:
                raise Refusal(400, "No such state", "The address asks for a state that there is not.")
            _, name, values = STATES[asked["state"]]
            where[name] = list(values)
        now = self._ledger.now()
        since = now - SINCE[asked["since"]] * 1000 if asked["since"] in SINCE else 0
        offset = self._ledger.clock.offset
        since = max(since, _moment(asked["from"], offset))
        return Wanted(text=asked["q"], where=where, since=since, until=_moment(asked["to"], offset))

    async def _scheduled(self, request: Request, visitor: Visitor) -> Response:
        try:
            start = max(0, int(request.query_params.get("start", "0")))
        except ValueError:
            start = 0

        def read() -> tuple[dict[str, Any], list[dict[str, Any]], int]:
            held = listing.scheduled(self._ledger, start=start, count=COUNT)
            later = self._ledger.later.count()
            return self._overviews.look(AROUND_S), [told_of(self._ledger, one.record) for one in held], later

        around, rows, later = await self._entrance.asked(read)
        total = sum(one["scheduled"] for one in around["endpoints"])
        return self._overviews.show(
            request, visitor, "scheduled.html", around, rows=rows, total=total, later=later, start=start, count=COUNT
        )


def _moment(text: str, offset: int) -> int:
    """Ledger ms of a form's date and time (UTC), 0 for none. Raises Refusal."""
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(400, "No such time", "The address names a time that cannot be read.") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000) + offset
