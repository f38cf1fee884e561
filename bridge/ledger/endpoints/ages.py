"""How old and how urgent an endpoint's records are, from the sets they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.job.change import PRIORITY_BAND_MS, RUN_RETENTION_MS
from bridge.job.words import SUBMITS, Step
from bridge.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger

_PRIORITIES = 10


def read(ledger: Ledger, endpoint: str) -> dict[str, Any]:
    """`oldest_waiting_s` and `oldest_running_s` (None for none), `results_near_expiry` (a count).

    Waiting is counted from acceptance, running from RunPod's taking the job (or its last attempt).
    """
    names = ledger.names
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        pipe.zrange(names.key(f"tracked:{endpoint}"), 0, 0, withscores=True)
        pipe.zcard(names.due(endpoint, Step.RESCUE.value))
        for step in SUBMITS:
            for band in range(_PRIORITIES):
                low, high = band * PRIORITY_BAND_MS, (band + 1) * PRIORITY_BAND_MS - 1
                pipe.zrange(names.due(endpoint, step.value), low, high, byscore=True, offset=0, num=1, withscores=True)
        tracked, rescues, *bands = pipe.execute()
    now = ledger.now()
    accepted = [found[0][1] % PRIORITY_BAND_MS for found in bands if found]
    return {
        "oldest_waiting_s": _age(min(accepted), now) if accepted else None,
        "oldest_running_s": _age(tracked[0][1], now) if tracked else None,
        "results_near_expiry": int(rescues),
    }


def _age(since: float, now: int) -> float:
    return round(max(0.0, (now - since) / 1000), 1)


def lags(ledger: Ledger) -> dict[str, float]:
    """How late things are, in seconds, over all endpoints: `oldest`, `poll`, `finish`, `outbox`, `expiry`."""
    now = ledger.now()
    found = {
        "oldest": 0.0,
        Step.POLL.value: 0.0,
        Step.FINISH.value: 0.0,
        "outbox": 0.0,
        "expiry": RUN_RETENTION_MS / 1000,
    }
    with mapped():
        for endpoint in ledger.endpoints():
            for step in (Step.POLL, Step.FINISH, Step.SUBMIT):
                first: Any = ledger.client.zrange(ledger.names.due(endpoint, step.value), 0, 0, withscores=True)
                if not first:
                    continue
                score = float(first[0][1])
                name = "oldest" if step is Step.SUBMIT else step.value
                at = score % PRIORITY_BAND_MS if step is Step.SUBMIT else score
                found[name] = max(found[name], (now - at) / 1000)
    found["outbox"] = ledger.outbox.lag().seconds
    found["expiry"] -= found[Step.POLL.value]
    return found
