"""One request: where it stands, where the time went, its events, jobs, chunks; input and output when asked for."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.console import timeline
from bridge.doors.http.console.access import Entrance, Refusal
from bridge.doors.http.console.overview import AROUND_S, Overviews
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import Visitor
from bridge.engine.control.overview import told_of
from bridge.job.document import Held
from bridge.job.enums import Phase, Status
from bridge.job.record import Long
from bridge.job.request import REQUEST_ID
from bridge.ledger.queries.event_history import History
from bridge.ledger.records.read import ALL
from bridge.telemetry import blotted

if TYPE_CHECKING:
    from bridge.engine.control import Control
    from bridge.ledger import Ledger

#: Chunks that a page shows, the newest; characters of an input or output.
CHUNKS, TEXT_MAX = 100, 256 * 1024
RETRIED = frozenset({Status.FAILED, Status.TIMED_OUT})


class One:
    """Two screens: the request, and its input and output."""

    def __init__(
        self,
        entrance: Entrance,
        pages: Pages,
        ledger: Ledger,
        control: Control,
        overviews: Overviews,
        *,
        content: bool,
        redact: Collection[str],
    ) -> None:
        """`content`: whether what callers sent and got may be looked at; names in `redact` are blotted out."""
        self._entrance, self._pages, self._ledger, self._control = entrance, pages, ledger, control
        self._history = History(ledger)
        self._overviews, self._content, self._redact = overviews, content, redact

    @property
    def routes(self) -> list[Route]:
        """Both."""
        return [
            self._entrance.page("/requests/{id}", self._request),
            self._entrance.page("/requests/{id}/content", self._contents),
        ]

    async def _request(self, request: Request, visitor: Visitor) -> Response:
        request_id = request.path_params["id"]
        told = await self._entrance.asked(lambda: self._read(request_id))
        around = await self._entrance.asked(lambda: self._overviews.look(AROUND_S))
        if told is None:
            return self._overviews.show(request, visitor, "remembered.html", around, **self._remembered(request_id))
        return self._overviews.show(request, visitor, "request.html", around, **told)

    def _read(self, request_id: str) -> dict[str, Any] | None:
        """Blocks. None where the record is gone."""
        held = self._ledger.load(_known(request_id), wanted=ALL)
        if held is None:
            return None
        record, offset = held.record, self._ledger.clock.offset
        document = self._control.document(held)
        events = self._history.of(record)
        first = max(0, record.chunks - CHUNKS)
        chunks = self._ledger.chunks(request_id, first) if record.chunks else []
        return {
            "row": told_of(self._ledger, record),
            "document": {
                name: blotted(value, self._redact, name) for name, value in document.items() if name != "output"
            },
            "polls": record.polls,
            "round": record.round,
            "entries": timeline.entries(record, events, offset, self._redact),
            "spans": timeline.spans(record, self._ledger.now()),
            "chunks": [self._chunk(chunk) for chunk in reversed(chunks)],
            "chunks_total": record.chunks,
            "metadata": blotted(held.json(Long.METADATA) or {}, self._redact),
            "live": not record.phase.ended or record.phase is Phase.SETTLED,
            "may_cancel": not record.phase.ended and record.wish != "cancel",
            "may_retry": record.phase is Phase.CLOSED and record.status in RETRIED,
        }

    def _chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(chunk.get("output"), ensure_ascii=False)
        shown = json.dumps(blotted(chunk.get("output"), self._redact), ensure_ascii=False) if self._content else ""
        return {"index": chunk.get("index"), "size": len(text.encode(errors="replace")), "text": shown[:2_000]}

    def _remembered(self, request_id: str) -> dict[str, Any]:
        """Blocks no longer than one read. Raises Refusal for an id that nobody knows."""
        tomb = self._ledger.tombstone(request_id)
        if tomb is None:
            raise Refusal(
                404, "No such request", f"The bridge knows no request {request_id}, or its retention is over."
            )
        return {
            "id": request_id,
            "status": tomb.get("status"),
            "reason": tomb.get("reason"),
            "endpoint": tomb.get("ep"),
        }

    async def _contents(self, request: Request, visitor: Visitor) -> Response:
        request_id = request.path_params["id"]
        if not self._content:
            raise Refusal(403, "Not shown here", "Inputs and outputs are shown with BRIDGE_CONSOLE_CONTENT=on.")

        def read() -> tuple[dict[str, Any], Held | None]:
            held = self._ledger.load(_known(request_id), wanted=ALL, output=True)
            return self._overviews.look(AROUND_S), held

        around, held = await self._entrance.asked(read)
        if held is None:
            raise Refusal(
                404, "No such request", f"The bridge knows no request {request_id}, or its retention is over."
            )
        told = {
            "row": told_of(self._ledger, held.record),
            "input": self._text(held.long.get(Long.INPUT)),
            "output": self._text(held.output),
            "reference": held.json(Long.OUTPUT_REF),
        }
        return self._overviews.show(request, visitor, "content.html", around, **told)

    def _text(self, text: str | None) -> dict[str, Any] | None:
        """JSON for people, without secrets; None where there is none."""
        if text is None:
            return None
        if len(text) > TEXT_MAX:
            return {"text": "", "size": len(text), "cut": True}
        shown = json.dumps(blotted(json.loads(text), self._redact), indent=2, ensure_ascii=False)
        return {"text": shown, "size": len(text), "cut": False}


def _known(request_id: str) -> str:
    if not REQUEST_ID.fullmatch(request_id):
        raise Refusal(404, "No such request", "That is no id of a request.")
    return request_id
