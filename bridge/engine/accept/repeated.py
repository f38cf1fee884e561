"""The answer to a request that came before: who sends it again is owed the same outcome, wherever he reads (I2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge.errors import JobRejected
from bridge.job.change import lane_of
from bridge.job.document import cloud_event, document, remembered, stamp, transition
from bridge.job.enums import END_EVENT, EventName, Phase, Reason, Status
from bridge.job.record import Long, altered
from bridge.job.transitions.accepting import ALSO_MAX
from bridge.ledger.records.read import COMMON

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger


def answer_again(ledger: Ledger, request_id: str, reply: Mapping[str, Any], *, message_limit: int) -> list[str]:
    """Events to send to `reply` (as in Long.REPLY) now; what is still to come reaches it with the first sender's.

    The events are copies: same id, same sequence. An end whose output is gone says `retained: false`.
    Raises JobRejected where the request has as many places of reply as it may have: this one would be told nothing.
    """
    held = ledger.load(request_id, wanted=COMMON, output=True)
    if held is None:
        return _from_tombstone(ledger, request_id, reply)
    if not held.record.phase.ended:
        change: Change = ledger.change(held, lambda fresh, now: ledger.table.also_reply(fresh, now, reply))
        if change.verdict == "full":
            raise too_many(request_id, "reply_to")
        if not change.after.record.phase.ended:
            wanted = change.verdict == "noted" and "accepted" in reply.get("on", ())
            return [_accepted(ledger, change.after, reply)] if wanted else []
        held = ledger.load(request_id, wanted=COMMON, output=True) or change.after
    return [_end(ledger, held, reply, message_limit)] if "end" in reply.get("on", ()) else []


def too_many(request_id: str, field: str) -> JobRejected:
    """The refusal of who sent a request again and cannot be told its end, at one more `reply_to` or `callback`."""
    return JobRejected(
        f"{field}: at most {ALSO_MAX} further addresses can be added to a request, and {request_id} has them all",
        {"id": request_id, "status": "REJECTED", "reason": Reason.REJECTED.value, "field": field},
    )


def call_again(ledger: Ledger, request_id: str, callback: Mapping[str, Any], *, inline_limit: int) -> bool:
    """The same for who is called back, at another address than the first sender's; `callback` as in Long.CALLBACK.

    Of a request that has ended, the end is owed first and then noted: who dies in between owes it twice.
    False: the request has as many addresses as it may have, and this one is told nothing.
    """
    held = ledger.load(request_id)

    def also(fresh: Held, now: int) -> Change:
        return ledger.table.also_call(fresh, now, callback)

    if held is not None and not held.record.phase.ended:
        held = ledger.change(held, also).after
    known = (held.json(Long.CALLBACK) if held is not None else None) or ()
    if any(one["url"] == callback["url"] for one in known):
        return True
    if len(known) > ALSO_MAX:
        return False
    asked = {"on": ("end",), "correlation_id": (held.json(Long.REPLY) or {}).get("correlation_id") if held else None}
    if held is None:
        bodies = _from_tombstone(ledger, request_id, asked)
    else:
        whole = ledger.load(request_id, output=True) or held
        bodies = [_end(ledger, whole, asked, inline_limit)] if whole.record.phase.ended else []
    for body in bodies:
        kind = str(json.loads(body)["type"]).rpartition(".")[2]
        if {"end", kind} & set(callback["events"]):
            ledger.callbacks.owe(lane_of(callback, request_id), callback["host"], callback["url"], body)
    if held is not None:
        ledger.change(held, also)
    return True


def _accepted(ledger: Ledger, held: Held, reply: Mapping[str, Any]) -> str:
    """As it was told at first, whatever has come of the request since."""
    offset = ledger.clock.offset
    record = altered(
        held.record, phase=Phase.ACCEPTED, status=Status.ACCEPTED.value, job_id="", attempt=1, round=1, reason="",
        possible_duplicate=0, submitted_at=0, started_at=0,
    )  # fmt: skip
    data = transition(held._replace(record=record), clock_offset=offset, door=record.door) | _correlated(reply)
    return cloud_event(
        EventName.ACCEPTED, data, request_id=record.id, endpoint=record.endpoint, sequence=1,
        time=stamp(record.accepted_at, offset) or "", trace=held.long.get(Long.TRACE),
    )  # fmt: skip


def _end(ledger: Ledger, held: Held, reply: Mapping[str, Any], message_limit: int) -> str:
    offset, record = ledger.clock.offset, held.record
    data = document(held, inline_limit=message_limit, clock_offset=offset) | _correlated(reply)
    stored = (data.get("output_ref") or {}).get("url")
    if held.output is None and not stored and record.status == Status.COMPLETED and not record.output_missing:
        data["retained"] = False
    return cloud_event(
        END_EVENT.get(record.status, EventName.LOST),  # type: ignore[call-overload]
        data,
        request_id=record.id,
        endpoint=record.endpoint,
        sequence=record.sequence,
        time=stamp(record.ended_at, offset) or "",
        trace=held.long.get(Long.TRACE),
    )


def _from_tombstone(ledger: Ledger, request_id: str, reply: Mapping[str, Any]) -> list[str]:
    tomb = ledger.tombstone(request_id)
    if tomb is None or "end" not in reply.get("on", ()):
        return []
    data = remembered(request_id, tomb) | _correlated(reply)
    body = cloud_event(
        END_EVENT.get(tomb["status"], EventName.LOST), data, request_id=request_id, endpoint=data["endpoint"],
        sequence=int(tomb.get("sq", 0)), time=stamp(ledger.now(), ledger.clock.offset) or "", trace=None,
    )  # fmt: skip
    return [body]


def _correlated(reply: Mapping[str, Any]) -> dict[str, Any]:
    return {"correlation_id": reply.get("correlation_id")}
