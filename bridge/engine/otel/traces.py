"""Sends the trace of each request that has ended: one process at a time, behind a cursor of the event stream.

Whoever dies is followed by another one within seconds, which goes on at the cursor; what was sent already is sent
again with the same ids.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from bridge.engine.otel.spans import earlier_attempt, spans
from bridge.job.enums import EventName, Sink
from bridge.job.record import Record
from bridge.telemetry import subscribe, tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds between looks at the stream, at another's turn, and between tries of a collector that does not answer.
LOOK_S, IDLE_S, AWAY_S = 0.2, 1.0, 5.0
#: An end is sent when its result is stored; where that takes longer it goes without the finish.
PATIENCE_S = 5.0
_RETRIED = f"bridge.job.{EventName.RETRIED.value}"
#: Results that this process has stored, by their ids: when each was.
REMEMBERED = 10_000


class Traces:
    """One `once()` sends a batch and moves the cursor."""

    def __init__(self, ledger: Ledger, exporter: SpanExporter, resource: Resource) -> None:
        """The exporter is shut down by `close`."""
        self._ledger, self._exporter, self._resource = ledger, exporter, resource
        self._stored: OrderedDict[str, int] = OrderedDict()
        self._unsubscribe: Callable[[], None] = subscribe(self._hear)

    def once(self) -> float:
        """Returns seconds until the next look."""
        cursor = self._ledger.tracer.take()
        if cursor is None:
            return IDLE_S
        last, made, waits = self._made(self._ledger.tracer.behind(cursor))
        if made and self._exporter.export(made) is not SpanExportResult.SUCCESS:
            tell("otel.unavailable", what="traces", waiting=len(made))
            return AWAY_S
        if last:
            self._ledger.tracer.told(last)
        return LOOK_S if waits or not last else 0.0

    def close(self) -> None:
        """Give the turn back."""
        self._unsubscribe()
        self._ledger.tracer.give_back()
        self._exporter.shutdown()

    def _made(self, entries: list[tuple[str, dict[str, Any] | None]]) -> tuple[str, list[ReadableSpan], bool]:
        """The last entry that is done with, the spans up to there, and whether the next one waits for its result."""
        ends = {entry_id: event for entry_id, event in entries if event and event["data"].get("completed") is True}
        records = self._ledger.load_many(list({event["subject"] for event in ends.values()}))
        last, made = "", list[ReadableSpan]()
        for entry_id, event in entries:
            if event is not None:
                held = records.get(event["subject"]) if entry_id in ends else None
                try:
                    if event.get("type") == _RETRIED:
                        made += earlier_attempt(event, self._resource)
                    if held is not None:
                        told_ms = self._told_ms(event, held.record)
                        if told_ms is None:
                            return last, made, True
                        offset = self._ledger.clock.offset
                        made += spans(event, held.record, self._resource, told_ms=told_ms, clock_offset=offset)
                except (KeyError, TypeError, ValueError):  # somebody else has written there
                    tell("events.foreign", entry=str(event.get("id"))[:200], fields="data")
            last = entry_id
        return last, made, False

    def _told_ms(self, event: Mapping[str, Any], record: Record) -> int | None:
        """When the result was stored; 0 for never; None while it is waited for.

        Of what another process has stored it is known to a look, a fifth of a second.
        """
        if record.door != "celery":
            return 0
        now = time.time()
        ended = datetime.fromisoformat(event["time"]).timestamp()
        if Sink.CELERY in record.waiting_sinks and record.round == event["data"]["round"]:
            return None if now - ended < PATIENCE_S else 0
        stored = self._stored.get(record.id)
        if stored is not None:
            return max(stored, round(ended * 1000))
        return round(now * 1000) if now - ended < PATIENCE_S else 0

    def _hear(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "finish.delivered":
            self._stored[fields["request_id"]] = time.time_ns() // 1_000_000
            if len(self._stored) > REMEMBERED:
                self._stored.popitem(last=False)
