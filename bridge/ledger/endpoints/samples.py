"""How an endpoint stood in the last hour: one engine writes its sums down every 20 s, so that no request pays for it.

The sums are kept anyway (`count:<ep>`): a record that is closed counts there for ever, so differences are rates.
An endpoint's first request writes a sample of nothing (accept.lua), so that what happens before the first turn counts.
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

EVERY_MS, MINUTE_MS, HOUR_MS = 20_000, 60_000, 3_600_000
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
    """Requests in the last minute, and a minute in each step of the last hour (the oldest first)."""

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
    """Of the last minute, and of the hour in so many steps; a step that nobody has written down counts as 0."""
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
    accepted_before, ended_before = _a_minute_ago(samples, current)
    per_step = width / 60_000
    return Rates(
        accepted=max(0, current.accepted - accepted_before),
        ended=max(0, current.ended - ended_before),
        accepted_history=[count / per_step for count in accepted],
        ended_history=[count / per_step for count in ended],
        waiting_history=[int(count) for count in waiting],
        flying_history=[int(count) for count in flying],
    )


def _a_minute_ago(samples: Sequence[Sample], current: Sample) -> tuple[float, float]:
    """Accepted and ended ever, a minute before `current`; as the oldest sample has them where it is younger."""
    line, then = [*samples, current], current.at - MINUTE_MS
    newer = next(i for i, one in enumerate(line) if one.at > then)
    if newer == 0:
        return line[0].accepted, line[0].ended
    one, two = line[newer - 1], line[newer]
    # Where nobody has written for longer, no engine ran: what has changed in between has done so since it runs again.
    share = (then - one.at) / (two.at - one.at) if two.at - one.at <= 2 * EVERY_MS else 0
    return one.accepted + share * (two.accepted - one.accepted), one.ended + share * (two.ended - one.ended)


def _step(at: int, until: int, width: float, steps: int) -> int:
    return min(steps - 1, steps - 1 - int((until - at) // width))


def _key(ledger: Ledger, endpoint: str) -> str:
    return ledger.names.key(f"samples:{endpoint}")


def _read(text: str) -> Sample | None:
    try:
        return Sample(*map(int, text.split(":")))
    except (TypeError, ValueError):
        return None
