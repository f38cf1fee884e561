"""What the event stream still holds of one request, found in bounded walks beside the moments at which it changed.

The stream has everybody's events, so a request that took long lies far apart in it: each of its known moments is
where a walk begins. What lies between is left out, and the sequence numbers say so.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.job.record import Record
    from bridge.ledger.ledger import Ledger

#: Entries of one read (an end carries its output, so there are few of them), of one walk, and of all walks of one look.
PAGE, WALK, MOST = 200, 4_000, 16_000
#: Milliseconds before a moment: the server's clock numbers the entries, the ledger's tells the moments.
BEFORE_MS = 1_500
#: Requests that are remembered, so that who looks again each second reads only what is new; events kept of each.
REQUESTS_MAX, EVENTS_MAX = 64, 1_000


@dataclass(slots=True)
class _Known:
    """Of one request."""

    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    sequence: int = 0  # of the record, as it was looked at last
    reached: str = "0-0"  # walked up to there


class History:
    """Thread-safe; one per process."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing is read yet."""
        self._ledger = ledger
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def of(self, record: Record) -> list[dict[str, Any]]:
        """Its events in order, each once, without outputs. Those that are trimmed, or lie too far away, are missing.

        Raises LedgerUnavailable, or LedgerFault.
        """
        with self._lock:
            known = self._known.pop(record.id, None)
        if known is None or known.sequence > record.sequence:  # it was retained no longer, and its id came again
            known = _Known()
        if known.sequence != record.sequence:
            self._walk(record, known)
            known.sequence = record.sequence
        with self._lock:
            self._known[record.id] = known
            while len(self._known) > REQUESTS_MAX:
                self._known.popitem(last=False)
        return [known.events[sequence] for sequence in sorted(known.events)]

    def _walk(self, record: Record, known: _Known) -> None:
        looked = 0
        for start in _starts(record, self._ledger.clock.offset):
            at, walked = max(start, known.reached, key=_place), 0
            while walked < WALK and looked < MOST and record.sequence not in known.events:
                entries = self._ledger.outbox.entries(at, PAGE)
                looked, walked = looked + len(entries), walked + len(entries)
                for entry_id, entry in entries:
                    event = _event(entry, record.id)
                    if event is not None:
                        known.events[int(event["sequence"])] = event
                    at = entry_id
                if len(entries) < PAGE:
                    break
            known.reached = max(known.reached, at, key=_place)
        for sequence in sorted(known.events)[EVENTS_MAX // 2 : -EVENTS_MAX // 2]:
            if len(known.events) > EVENTS_MAX:
                del known.events[sequence]


def _starts(record: Record, offset: int) -> list[str]:
    moments = {
        record.accepted_at, record.sent_at, record.submitted_at, record.started_at, record.retried_at,
        record.observed_at, record.ended_at,
    }  # fmt: skip
    return [f"{max(0, moment - offset - BEFORE_MS)}-0" for moment in sorted(moments - {0})]


def _event(entry: Any, request_id: str) -> dict[str, Any] | None:
    """None for another request's, and for what somebody else has written there."""
    text = entry.get("data", "")
    if f'"subject":"{request_id}"' not in text[:600]:  # it stands before what a caller has written
        return None
    try:
        event = json.loads(text)
        sequence = int(event["sequence"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    data = event.get("data")
    if not isinstance(data, dict) or not isinstance(event.get("type"), str) or event.get("subject") != request_id:
        return None
    data.pop("output", None)
    return event if sequence > 0 else None


def _place(entry_id: str) -> tuple[int, int]:
    at, _, number = entry_id.partition("-")
    return int(at), int(number or 0)
