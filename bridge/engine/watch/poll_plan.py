"""When to look at a job next, as a pure function: looks stand where they buy latency, and nowhere else.

What is known of an endpoint is how long its last jobs waited and ran (`Runs`, kept in the ledger and shared by all
processes), how many are in flight, and how deep RunPod's queue is (`Load`). From these comes a `Known`: the best times
to look, found by a small dynamic program that weighs the expected delay against the price of a call. A status answer
then only has to be placed on that plan: RunPod tells `delayTime`, so once a job is IN_PROGRESS its start is exact.

Where too little is known the looks grow apart with the job's age.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bridge.job.enums import Status

#: Fewer samples than this tell nothing.
FEW = 5
#: Cells of the distribution that a plan is made of.
CELLS = 48
#: Milliseconds: the first look where nothing is known, the least and the longest distance of two looks. Longer than
#: the longest, and an ended job's output could come near the end of its retention (I10).
FIRST_MS, LEAST_MS, MOST_MS = 500, 20, 900_000
#: Where nothing is known: the next look is so large a part of the age away, at most UNKNOWN_MOST_MS.
SHARE, UNKNOWN_MOST_MS = 0.1, 60_000
#: What one call may cost in delay: this part of a typical run, and at least so much.
PRICE, PRICE_MIN_MS = 0.02, 25.0
#: Of a run at least so long (ms) the start is looked for too; a call for it may cost this part of the run, in bounds.
START_FROM_MS, START_PRICE, START_PRICE_MS = 5_000, 0.05, (400.0, 10_000.0)
#: A job without news is looked at this often in a typical run, so that progress and trouble are seen.
ALIVE, ALIVE_MIN_MS = 3, 60_000
#: One that has told progress: so often, in bounds of ms.
PROGRESSING, PROGRESSING_MS = 12, (2_000, 60_000)
#: The part of the status budget that planned looks may use; the rest is for callbacks, rescues and second jobs.
USABLE = 0.7
#: An endpoint's queue puts a look at a queued job off by this part of the wait it speaks of, at most so long (ms).
QUEUE_SHARE, QUEUE_MOST_MS = 0.125, 30_000
#: Where runs are too short for a plan of starts, and few jobs are watched: a queued job is looked at again after this
#: part of its wait, so that `started` comes in time when this one job waits or runs far longer than its like.
WAIT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """How much is to be watched of one endpoint, and how many calls there are for it."""

    in_flight: int = 0
    calls_per_s: float = 200.0
    queued: int = 0  # RunPod's own count, of everybody's jobs
    workers: int = 0  # RunPod workers that are up; 0: not known


@dataclass(frozen=True, slots=True)
class Plan:
    """The best times to look at something that ends at a random time. Milliseconds from its beginning."""

    edges: tuple[float, ...]
    looks: tuple[int, ...]  # for each edge, the edge that is looked at next
    steps: tuple[int, ...]  # for each edge, in how many equal steps that one is reached: more than one in a wide cell
    calls: float  # expected calls of one job
    tail_ms: float  # distance of the first look behind everything that was seen

    def after(self, age_ms: float) -> float:
        """How far away the next look is."""
        edges = self.edges
        if age_ms >= edges[-1]:
            return self.tail_ms + (age_ms - edges[-1]) / 2
        here = max(0, bisect_right(edges, age_ms) - 1)
        there = edges[self.looks[here]]
        if self.steps[here] > 1:
            step = (there - edges[here]) / self.steps[here]
            done = max(0.0, age_ms - edges[0]) - (edges[here] - edges[0])
            return edges[here] + step * (int(done / step) + 1) - age_ms
        return there - age_ms


def plan(samples: Sequence[float], price_ms: float) -> Plan:
    """The looks that make `expected delay + price * expected calls` least, for ends spread as the samples are.

    The samples are cut into cells of equal weight in which an end is as likely anywhere; a look stands on an edge.
    """
    edges = _edges(sorted(samples))
    cells = len(edges) - 1
    middles = [0.0]
    for left, right in pairwise(edges):
        middles.append(middles[-1] + (left + right) / 2)
    cost, looks, calls = [0.0] * (cells + 1), [cells] * (cells + 1), [0.0] * (cells + 1)
    steps = [1] * (cells + 1)
    for i in range(cells - 1, -1, -1):
        alive = (cells - i) / cells
        best = math.inf
        for j in range(i + 1, cells + 1):
            delay = ((j - i) * edges[j] - (middles[j] - middles[i])) / cells
            if delay >= best:
                break  # further looks only cost more
            total = delay + price_ms * alive + cost[j]
            if total < best:
                best, looks[i], calls[i] = total, j, alive + calls[j]
        if looks[i] == i + 1:  # the price would pay for more looks than there are edges
            width = edges[i + 1] - edges[i]
            steps[i] = max(1, round(math.sqrt(width / (2 * cells * price_ms * alive))))
            calls[i] += (steps[i] - 1) * alive
            best += (steps[i] - 1) * price_ms * alive - width / 2 / cells * (1 - 1 / steps[i])
        cost[i] = best
    spread = edges[-1] - edges[0]
    tail_ms = max(LEAST_MS, math.sqrt(price_ms * spread) / 2)
    return Plan(tuple(edges), tuple(looks), tuple(steps), calls[0], tail_ms)


def _edges(ordered: Sequence[float]) -> list[float]:
    """Quantiles, with a margin behind the last for what the samples have just missed."""
    n = len(ordered)
    cells = min(CELLS, n)
    edges = [_quantile(ordered, i / cells) for i in range(cells + 1)]
    room = (ordered[-1] - ordered[0]) / n + 0.005 * ordered[n // 2] + 15
    edges[-1] += room
    edges[0] = max(0.0, edges[0] - room)
    return edges


def _quantile(ordered: Sequence[float], part: float) -> float:
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass(frozen=True, slots=True)
class Known:
    """Everything about one endpoint that the next look depends on; made by `known`."""

    load: Load = Load()
    whole: Plan | None = None  # from submit to end
    run: Plan | None = None  # from start to end
    start: Plan | None = None  # from submit to start, where it is worth a call
    typical_ms: float = 0.0  # the median run


def known(samples: Sequence[tuple[int, int]], load: Load, *, price_ms: float | None = None) -> Known:
    """Make the plans from `(delayTime, executionTime)` pairs in ms, dear enough that all looks fit the budget.

    `price_ms` is what a call may cost in delay; by default a part of what a job of this endpoint typically takes.
    """
    if len(samples) < FEW:
        return Known(load)
    wholes = sorted(delay + run for delay, run in samples)
    typical = sorted(run for _, run in samples)[len(samples) // 2]
    usable = max(0.1, load.calls_per_s * USABLE)
    per_call = first = price_ms or max(PRICE_MIN_MS, PRICE * wholes[len(wholes) // 2])
    mean_s = max(0.001, sum(wholes) / len(wholes) / 1000)
    for _ in range(6):
        whole = plan(wholes, per_call)
        demand = load.in_flight * (whole.calls + 1) / mean_s  # one more for the start
        if demand <= usable or whole.calls <= 1:
            break
        per_call *= max(2.0, (demand / usable) ** 2)  # calls fall with the root of their price
    start = None
    if typical >= START_FROM_MS and per_call <= first:
        low, high = START_PRICE_MS
        start = plan([delay for delay, _ in samples], min(high, max(low, START_PRICE * typical)))
    return Known(load, whole, plan([run for _, run in samples], per_call), start, typical)


def next_poll_ms(
    about: Known, status: str, age_ms: float, *, delay_ms: int | None = None, progressing: bool = False
) -> int:
    """Milliseconds until the next look at a job that has not ended.

    `age_ms` counts from the submit; `delay_ms` is RunPod's delayTime, told from the start on.
    """
    if about.whole is None or about.run is None:
        return _growing(about.load, age_ms)
    if status == Status.IN_PROGRESS:
        running = age_ms - delay_ms if delay_ms is not None and delay_ms <= age_ms else None
        away = about.whole.after(age_ms) if running is None else about.run.after(running)
        most = _alive_ms(about, progressing)
    else:
        away = about.whole.after(age_ms)
        if about.start is not None:
            away = min(away, about.start.after(age_ms))
        elif not about.load.in_flight:
            away = min(away, max(FIRST_MS, age_ms * WAIT_SHARE))
        away = max(away, _queue_ms(about))
        most = MOST_MS
    return int(min(max(away, LEAST_MS), max(most, LEAST_MS), MOST_MS)) + 1


def _growing(load: Load, age_ms: float) -> int:
    """Nothing is known: by the age, and never so often that all jobs in flight together pass the budget."""
    least = load.in_flight / max(0.1, load.calls_per_s * USABLE) * 1000
    away = max(LEAST_MS, min(UNKNOWN_MOST_MS, age_ms * SHARE)) if age_ms > 0 else FIRST_MS
    return int(min(MOST_MS, max(away, least)))


def _alive_ms(about: Known, progressing: bool) -> float:
    """The longest time that a running job is not looked at; longer where very many are watched."""
    crowd = about.load.in_flight / max(0.1, about.load.calls_per_s * (1 - USABLE)) * 1000
    if progressing:
        low, high = PROGRESSING_MS
        return max(crowd, min(high, max(low, about.typical_ms / PROGRESSING)))
    return max(crowd, ALIVE_MIN_MS, about.typical_ms / ALIVE)


def _queue_ms(about: Known) -> float:
    """A deep queue at RunPod: who stands in it will not start soon."""
    if not about.load.queued or not about.load.workers:
        return 0.0
    return min(QUEUE_MOST_MS, about.load.queued * about.typical_ms / about.load.workers * QUEUE_SHARE)
