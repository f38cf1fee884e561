"""What the event stream still holds of one request, found in bounded walks beside the moments at which it changed.

The stream has everybody's events, so a request that took long lies far apart in it: each of its known moments
is where a walk begins. What lies between is left out, and the sequence numbers say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.job.record import Record
    from bridge.ledger.ledger import Ledger

#: Entries of one read, of one walk, and of all walks of one look.
PAGE, WALK, MOST = 500, 4_000, 16_000
#: Milliseconds before a moment: the server's clock numbers the entries, the ledger's tells the moments.
BEFORE_MS = 1_500


def events_of(ledger: Ledger, record: Record) -> list[dict[str, Any]]:
    """In their order, each once; those that are trimmed, or lie too far from any moment, are missing.

    Raises LedgerUnavailable, or LedgerFault.
    """
    found: dict[int, dict[str, Any]] = {}
    looked, reached = 0, "0-0"
    for start in _starts(record, ledger.clock.offset):
        if _place(start) < _place(reached):
            start = reached  # noqa: PLW2901  (walked already)
        at, walked = start, 0
        while walked < WALK and looked < MOST and record.sequence not in found:
            entries = ledger.outbox.entries(at, PAGE)
            looked, walked = looked + len(entries), walked + len(entries)
            for entry_id, entry in entries:
                event = _event(entry, record.id)
                if event is not None:
                    found[int(event["sequence"])] = event
                at = entry_id
            if len(entries) < PAGE:
                break
        reached = max(reached, at, key=_place)
        if len(found) >= record.sequence:
            break
    return [found[sequence] for sequence in sorted(found)]


def _starts(record: Record, offset: int) -> Iterable[str]:
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
    good = isinstance(event.get("data"), dict) and isinstance(event.get("type"), str) and event["subject"] == request_id
    return event if good and sequence > 0 else None


def _place(entry_id: str) -> tuple[int, int]:
    at, _, number = entry_id.partition("-")
    return int(at), int(number or 0)
