"""Records that engines could not work: what was wrong with them, and those that are parked for it (HARDENING 14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.job.document import stamp
from bridge.job.enums import Step
from bridge.ledger.queries.scan import load_many
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger

#: Milliseconds a parked record rests (`lua/claim.lua`).
RESTS_MS = 86_400_000


def parked(ledger: Ledger) -> list[dict[str, Any]]:
    """Each with its last error: those that rest, and those whose rows cannot even be read."""
    names = ledger.names
    endpoints = ledger.endpoints()
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        for endpoint in endpoints:
            pipe.zrange(names.due(endpoint, Step.PARKED.value), 0, -1, withscores=True)
        pipe.hgetall(names.key("unreadable"))
        *sets, faults = pipe.execute()
    until = {request_id: int(score) for found in sets for request_id, score in found}
    held = load_many(ledger, list(until))
    broken = [request_id for request_id in faults if request_id not in until and not _readable(ledger, request_id)]
    told = []
    for request_id in [*until, *broken]:
        one = held.get(request_id)
        record = one.record if one is not None else None
        told.append(
            {
                "id": request_id,
                "kind": "parked",
                "reason": "parked" if record is not None else "unreadable",
                "time": stamp(until[request_id] - RESTS_MS, ledger.clock.offset) if request_id in until else None,
                "until": stamp(until[request_id], ledger.clock.offset) if request_id in until else None,
                "door": record.door if record is not None else None,
                "endpoint": record.endpoint if record is not None else None,
                "phase": record.phase.value if record is not None else None,
                "claims": record.claims if record is not None else None,
                "detail": faults.get(request_id, ""),
            }
        )
    return told


def _readable(ledger: Ledger, request_id: str) -> bool:
    with mapped():
        exists = ledger.client.exists(ledger.names.row(request_id))
    return not exists or request_id in load_many(ledger, [request_id])


def unpark(ledger: Ledger, request_id: str) -> bool:
    """Have it worked now instead of tomorrow; False when it is not parked."""
    held = ledger.load(request_id)
    if held is None or held.record.due != Step.PARKED:
        return False
    return not ledger.change(held, ledger.table.tick).empty
