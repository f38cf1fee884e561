"""How an endpoint stood in the last hour: one engine writes its sums down every 20 s, so that no request pays for it.

The sums are kept anyway (`count:<ep>`): a record that is closed counts there for ever, so differences are rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bridge.job.enums import Phase
from bridge.ledger.endpoints import gpu_time
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger

EVERY_MS, HOUR_MS = 20_000, 3_600_000
KEPT = HOUR_MS // EVERY_MS + 1


@dataclass(frozen=True, slots=True)
class Sample:
    """At a time (ledger ms): requests accepted and ended ever, waiting and in flight then, GPU ms of its day."""

    at: int
    accepted: int
    ended: int
    waiting: int
    flying: int
    gpu_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a minute, lately and in each step of the last hour (the oldest first)."""

    accepted: float
    ended: float
    accepted_history: Sequence[float]
    ended_history: Sequence[float]
    waiting_history: Sequence[int]
    flying_history: Sequence[int]


def now(ledger: Ledger, endpoint: str, counts: Mapping[str, int] | None = None) -> Sample:
    """How it stands."""
    has = ledger.counts(endpoint) if counts is None else counts
    phases = {phase: max(0, has.get(phase.value, 0)) for phase in Phase}
    return Sample(
        at=ledger.now(),
        accepted=sum(phases.values()),
        ended=phases[Phase.SETTLED] + phases[Phase.CLOSED],
        waiting=max(0, phases[Phase.ACCEPTED] - ledger.scheduled(endpoint)),
        flying=max(0, has.get("flying", 0)),
        gpu_ms=gpu_time.today_ms(ledger, endpoint),
    )


def take(ledger: Ledger) -> bool:
    """Write all endpoints down, unless somebody has lately."""
    with mapped():
        turn = ledger.client.set(ledger.names.key("sampled"), "1", nx=True, px=EVERY_MS - 500)
    if not turn:
        return False
    made = {name: now(ledger, name) for name in ledger.endpoints()}
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        for name, one in made.items():
            key = _key(ledger, name)
            pipe.lpush(key, f"{one.at}:{one.accepted}:{one.ended}:{one.waiting}:{one.flying}:{one.gpu_ms}")
            pipe.ltrim(key, 0, KEPT - 1)
            pipe.pexpire(key, 2 * HOUR_MS)
        pipe.execute()
    return True


def last_hour(ledger: Ledger, endpoint: str) -> list[Sample]:
    """The oldest first; what cannot be read is left out."""
    with mapped():
        found: Any = ledger.client.lrange(_key(ledger, endpoint), 0, KEPT - 1)
    read = [_read(text) for text in reversed(found)]
    since = ledger.now() - HOUR_MS
    return [one for one in read if one is not None and one.at >= since]


def rates(samples: Sequence[Sample], current: Sample, steps: int = 60) -> Rates:
    """Of the last minute or so, and of the hour in so many steps; a step that nobody has written down counts as 0."""
    accepted, ended, waiting, flying = ([0.0] * steps for _ in range(4))
    width = HOUR_MS / steps
    line = [*samples, current]
    for before, after in pairwise(line):
        step = _step(after.at, current.at, width, steps)
        if step < 0:
            continue
        accepted[step] += max(0, after.accepted - before.accepted)
        ended[step] += max(0, after.ended - before.ended)
    for one in line:
        step = _step(one.at, current.at, width, steps)
        if step >= 0:
            waiting[step], flying[step] = max(waiting[step], one.waiting), max(flying[step], one.flying)
    base = next(
        (one for one in reversed(samples) if current.at - one.at >= EVERY_MS), samples[0] if samples else current
    )
    minutes = max(current.at - base.at, 1_000) / 60_000
    per_step = width / 60_000
    return Rates(
        accepted=max(0, current.accepted - base.accepted) / minutes,
        ended=max(0, current.ended - base.ended) / minutes,
        accepted_history=[count / per_step for count in accepted],
        ended_history=[count / per_step for count in ended],
        waiting_history=[int(count) for count in waiting],
        flying_history=[int(count) for count in flying],
    )


def _step(at: int, until: int, width: float, steps: int) -> int:
    return min(steps - 1, steps - 1 - int((until - at) // width))


def _key(ledger: Ledger, endpoint: str) -> str:
    return ledger.names.key(f"samples:{endpoint}")


def _read(text: str) -> Sample | None:
    try:
        return Sample(*map(int, text.split(":")))
    except (TypeError, ValueError):
        return None
