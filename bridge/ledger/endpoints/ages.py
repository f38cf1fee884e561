"""How old and how urgent an endpoint's records are, from the sets they stand in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bridge.job.clocks import PRIORITY_BAND_MS, RUN_RETENTION_MS
from bridge.job.enums import SUBMITS, Step
from bridge.redis.outage import mapped

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


def late(ledger: Ledger, endpoint: str, steps: Iterable[Step]) -> dict[Step, float]:
    """How late the latest work of each step is, in seconds; steps with nothing due are missing.

    A submit is due from the time since which it waits, whatever its priority.
    """
    names, wanted = ledger.names, list(steps)
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        for step in wanted:
            key = names.due(endpoint, step.value)
            for band in range(_PRIORITIES if step in SUBMITS else 1):
                low, high = band * PRIORITY_BAND_MS, (band + 1) * PRIORITY_BAND_MS - 1
                pipe.zrange(key, low, high, byscore=True, offset=0, num=1, withscores=True)
        answers: list[Any] = pipe.execute()
    now, found = ledger.now(), iter(answers)
    told: dict[Step, float] = {}
    for step in wanted:
        firsts = [next(found) for _ in range(_PRIORITIES if step in SUBMITS else 1)]
        since = [first[0][1] % PRIORITY_BAND_MS for first in firsts if first]
        if since and (seconds := (now - min(since)) / 1000) > 0:
            told[step] = seconds
    return told


def _age(since: float, now: int) -> float:
    return round(max(0.0, (now - since) / 1000), 1)


def lags(ledger: Ledger) -> dict[str, float]:
    """How late things are, in seconds, over all endpoints: `oldest`, `poll`, `finish`, `outbox`, `expiry`."""
    found = {
        "oldest": 0.0,
        Step.POLL.value: 0.0,
        Step.FINISH.value: 0.0,
        "outbox": 0.0,
        "expiry": RUN_RETENTION_MS / 1000,
    }
    for endpoint in ledger.endpoints():
        for step, seconds in late(ledger, endpoint, (Step.POLL, Step.FINISH, *SUBMITS)).items():
            name = "oldest" if step in SUBMITS else step.value
            found[name] = max(found[name], seconds)
    found["outbox"] = ledger.outbox.lag().seconds
    found["expiry"] -= found[Step.POLL.value]
    return found
