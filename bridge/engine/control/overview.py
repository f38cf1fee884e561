"""How everything stands, at a look: what the console's first page and `bridge top` show. Nothing here calls RunPod."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from bridge.job.document import stamp
from bridge.job.enums import Phase
from bridge.ledger import inspect_server
from bridge.ledger.endpoints import ages, samples
from bridge.ledger.queries import listing

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.job.record import Record
    from bridge.ledger import Ledger

#: With RunPod, as far as the bridge knows.
IN_FLIGHT = (Phase.SUBMITTING, Phase.UNANSWERED, Phase.TRACKED, Phase.RETRYING)
#: So many of the newest requests are looked at for how they ended.
LATELY = 200
#: How old RunPod's answer may be before a look has it asked again, in milliseconds.
LOOKED_MS = 5_000
#: Seconds that the first look waits for RunPod.
ASKED_S = 0.3


def overview(ledger: Ledger, control: Control, pressure: Pressure) -> dict[str, Any]:
    """The whole bridge, and each endpoint. Raises LedgerUnavailable, or LedgerFault.

    RunPod's side is what it said within the last minute; a look here has it asked anew, behind the caller's back.
    """
    told = control.known()
    for one in told:
        control.heard_lately(one["endpoint"], LOOKED_MS)
    if any(one["verdict"] is None for one in told):  # nobody has looked for a minute: most answers are there at once
        time.sleep(ASKED_S)
        told = control.known()
    behind, lags = ledger.outbox.lag(), ages.lags(ledger)
    return {
        "time": stamp(ledger.now(), ledger.clock.offset),
        "engines": ledger.engines.count(),
        "settings": control.book.fault,
        "intake": pressure.closed() or "open",
        "memory_ratio": inspect_server(ledger.client).memory_ratio,
        "kept": listing.kept(ledger),
        "dead": ledger.dead.count(),
        "outbox": {"entries": behind.entries, "seconds": behind.seconds},
        "lags": {"poll_s": round(lags["poll"], 1), "finish_s": round(lags["finish"], 1)},
        "lately": lately(ledger),
        "endpoints": [of_endpoint(ledger, one) for one in told],
    }


def of_endpoint(ledger: Ledger, health: dict[str, Any]) -> dict[str, Any]:
    """One endpoint's health as one flat row, with its last hour."""
    name, own = health["endpoint"], health["bridge"]
    phases, gpu, scheduled = own["phases"], own["gpu"], ledger.scheduled(name)
    rates = samples.rates(samples.last_hour(ledger, name), samples.now(ledger, name))
    return {
        "endpoint": name,
        "endpoint_id": health["endpoint_id"],
        "verdict": health["verdict"],
        "reasons": health["reasons"],
        "runpod": health["runpod"],
        "waiting": max(0, phases[Phase.ACCEPTED.value] - scheduled),
        "scheduled": scheduled,
        "in_flight": sum(max(0, phases[phase.value]) for phase in IN_FLIGHT),
        "finishing": max(0, phases[Phase.SETTLED.value]),
        "unanswered": own["unanswered"],
        "accepted_per_min": round(rates.accepted, 1),
        "ended_per_min": round(rates.ended, 1),
        "history": {
            "accepted": rates.accepted_history,
            "ended": rates.ended_history,
            "waiting": rates.waiting_history,
            "in_flight": rates.flying_history,
        },
        "oldest_waiting_s": own["oldest_waiting_s"],
        "oldest_running_s": own["oldest_running_s"],
        "near_expiry": own["results_near_expiry"],
        "waiting_for": own["waiting_for"],
        "waiting_says": own.get("waiting_says"),
        "paused": own["paused"],
        "paused_by": own["paused_by"],
        "pause_reason": own["pause_reason"],
        "paused_since": own["paused_since"],
        "answers_429": own["answers_429"],
        "budget": own["budget"],
        "gpu_seconds": gpu["seconds"],
        "gpu_cost": gpu["cost"],
        "gpu_ceiling_seconds": gpu["ceiling_seconds"],
        "gpu_tenants": gpu["tenants"],
        "paid_twice_s": own["paid_twice_ms"] / 1000,
    }


def lately(ledger: Ledger) -> dict[str, int]:
    """How the newest requests ended: `{COMPLETED: 190, FAILED: 4}`; those under way are counted as `under way`."""
    held = listing.page(ledger, listing.Wanted(), count=LATELY, most=2 * LATELY).held
    return dict(Counter(one.record.status if one.record.phase.ended else "under way" for one in held).most_common())


def told_of(ledger: Ledger, record: Record) -> dict[str, Any]:
    """One request as a row of a list."""
    offset = ledger.clock.offset
    return {
        "id": record.id,
        "endpoint": record.endpoint,
        "tenant": record.tenant or None,
        "phase": record.phase.value,
        "status": record.status,
        "reason": record.reason or None,
        "job_id": record.job_id or None,
        "task": record.replaces or None,
        "door": record.door or None,
        "attempt": record.attempt,
        "possible_duplicate": bool(record.possible_duplicate),
        "accepted_at": stamp(record.accepted_at, offset),
        "not_before": stamp(record.not_before, offset),
        "submitted_at": stamp(record.submitted_at, offset),
        "ended_at": stamp(record.ended_at, offset),
        "delayTime": record.delay_time if record.delay_time >= 0 else None,
        "executionTime": record.execution_time if record.execution_time >= 0 else None,
    }
