"""When the next look is: simulated over run times as endpoints have them, against looking every second or five."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.watch.poll_plan import MOST_MS, Known, Load, known, next_poll_ms, plan

Job = tuple[float, float]  # delayTime and executionTime, ms


def near(rng: random.Random, median_s: float, spread: float) -> float:
    """Run times of one kind of job: log-normal, milliseconds."""
    return median_s * 1000 * math.exp(rng.gauss(0, spread))


#: Shapes as the fact sheet's captured runs and RunPod's own examples have them.
ENDPOINTS: dict[str, Callable[[random.Random], Job]] = {
    "image 1.2 s": lambda r: (r.uniform(40, 120), near(r, 1.2, 0.08)),
    "image 8 s": lambda r: (r.uniform(40, 300), near(r, 8, 0.10)),
    "two sizes, 6 and 40 s": lambda r: (r.uniform(40, 300), near(r, 6 if r.random() < 0.6 else 40, 0.07)),
    "5 s, cold starts": lambda r: (r.uniform(25e3, 45e3) if r.random() < 0.15 else r.uniform(40, 300), near(r, 5, 0.1)),
    "speech, 10 to 60 s": lambda r: (r.uniform(40, 500), r.uniform(10e3, 60e3)),
    "video 90 s": lambda r: (r.uniform(100, 3000), near(r, 90, 0.15)),
    "render 10 min": lambda r: (r.uniform(1e3, 9e3), near(r, 600, 0.12)),
    "training 2 h": lambda r: (r.uniform(5e3, 60e3), near(r, 7200, 0.05)),
}  # fmt: skip


def drawn(name: str, count: int, seed: str) -> list[Job]:
    """Jobs of one endpoint."""
    rng = random.Random(f"{name} {seed}")
    return [ENDPOINTS[name](rng) for _ in range(count)]


def history(name: str) -> list[tuple[int, int]]:
    """What the ledger remembers of an endpoint."""
    return [(int(delay), int(run)) for delay, run in drawn(name, 200, "history")]


def watched(about: Known, job: Job) -> tuple[int, float]:
    """How many looks one job costs, and how late its end is seen."""
    delay, run = job
    now, looks, status = 0.0, 0, "IN_QUEUE"
    while True:
        seen = int(delay) if status == "IN_PROGRESS" else None
        now += next_poll_ms(about, status, now, delay_ms=seen)
        looks += 1
        if now >= delay + run:
            return looks, now - delay - run
        status = "IN_PROGRESS" if now >= delay else "IN_QUEUE"


def means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean looks and mean delay."""
    return sum(looks for looks, _ in pairs) / len(pairs), sum(late for _, late in pairs) / len(pairs)


def every(interval_ms: float, jobs: Sequence[Job]) -> tuple[float, float]:
    """The same of looking at fixed times."""
    looks = [math.ceil((delay + run) / interval_ms) for delay, run in jobs]
    return means([(n, n * interval_ms - delay - run) for n, (delay, run) in zip(looks, jobs, strict=True)])


def mixed(price_ms: float, count: int = 60) -> tuple[float, float]:
    """All endpoints together, one price for a call everywhere."""
    pairs = []
    for name in ENDPOINTS:
        about = known(history(name), Load(), price_ms=price_ms)
        pairs += [watched(about, job) for job in drawn(name, count, "mixed")]
    return means(pairs)


@pytest.mark.parametrize("interval_ms", [1_000, 5_000])
def test_a_third_of_the_delay_or_a_third_of_the_calls(interval_ms: int) -> None:
    """Of fixed polling's: at equal calls a third of its delay at most, at equal delay a third of its calls at most."""
    fixed_calls, fixed_delay = every(interval_ms, [job for name in ENDPOINTS for job in drawn(name, 60, "mixed")])
    tried = [mixed(2.0**power, 30) for power in range(-6, 15, 2)]
    delay_at_equal_calls = min(delay for calls, delay in tried if calls <= fixed_calls)
    calls_at_equal_delay = min(calls for calls, delay in tried if delay <= fixed_delay)
    assert delay_at_equal_calls <= fixed_delay / 3
    assert calls_at_equal_delay <= fixed_calls / 3


@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name != "training 2 h"])
def test_a_tenth_of_the_run_time_with_six_looks(name: str) -> None:
    """Jobs of 1 s to 10 min, as they are watched: mean delay under 10 %, at most six looks a job."""
    about, jobs = known(history(name), Load()), drawn(name, 300, "as watched")
    calls, delay = means([watched(about, job) for job in jobs])
    assert calls <= 6
    assert delay < 0.1 * sum(run for _, run in jobs) / len(jobs)


@pytest.mark.parametrize("name", ["image 8 s", "video 90 s", "render 10 min", "training 2 h"])
def test_a_start_is_seen_early(name: str) -> None:
    """IN_PROGRESS is news: it is looked for when it is likely, in few calls, and not only when the end is near."""
    about = known(history(name), Load())
    for delay, run in drawn(name, 100, "started"):
        now = looks = 0.0
        while now < delay:
            now += next_poll_ms(about, "IN_QUEUE", now)
            looks += 1
        assert looks <= 5
        assert now - delay <= max(1_000, min(0.1 * run, 60_000))


def test_a_job_that_tells_progress_is_looked_at_more_often() -> None:
    """And one that does not is still looked at a few times, so that trouble is seen."""
    about = known(history("render 10 min"), Load())
    quiet = next_poll_ms(about, "IN_PROGRESS", 20_000, delay_ms=5_000)
    event = next_poll_ms(about, "IN_PROGRESS", 20_000, delay_ms=5_000, progressing=True)
    assert event <= 60_000 < quiet <= 240_000


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("in_flight", [1, 2_000, 100_000])
def test_looks_stay_inside_the_budget(name: str, in_flight: int) -> None:
    """100,000 in flight on one endpoint: their looks are at most 200 a second together.

    As many begin as end: RunPod takes 100 submits a second, so what is in flight that long runs that long.
    """
    about = known(history(name), Load(in_flight=in_flight))
    jobs = drawn(name, 200, "flight")
    calls, _ = means([watched(about, job) for job in jobs])
    mean_s = sum(delay + run for delay, run in jobs) / len(jobs) / 1000
    ends_a_second = min(in_flight / mean_s, 100.0)
    if in_flight / mean_s <= 100:
        assert calls * ends_a_second <= 200
    else:  # more than RunPod would take: one look a job is the least there is
        assert calls <= 2.6


def test_where_nothing_is_known_a_crowd_is_looked_at_in_turn() -> None:
    """A new endpoint with 100,000 jobs: none is looked at again before the budget allows all of them one look."""
    assert next_poll_ms(Known(Load(in_flight=100_000)), "IN_QUEUE", 1_000) >= 500_000
    assert next_poll_ms(Known(Load(in_flight=10)), "IN_QUEUE", 1_000) <= 200


def test_a_deep_queue_puts_the_look_at_a_queued_job_off() -> None:
    """RunPod's own count: 600 before it on 3 workers."""
    seen = history("image 8 s")
    empty, deep = known(seen, Load()), known(seen, Load(queued=600, workers=3))
    assert next_poll_ms(deep, "IN_QUEUE", 1_000) > 5 * next_poll_ms(empty, "IN_QUEUE", 1_000)
    assert next_poll_ms(deep, "IN_PROGRESS", 1_000, delay_ms=10) == next_poll_ms(
        empty, "IN_PROGRESS", 1_000, delay_ms=10
    )


times = st.integers(0, 8 * 3_600_000)


@given(
    st.lists(st.tuples(times, times), max_size=60),
    st.sampled_from(["IN_QUEUE", "IN_PROGRESS", "SOMETHING_NEW"]),
    times,
    st.none() | times,
    st.booleans(),
    st.integers(0, 200_000),
    st.floats(0, 1_000),
)
def test_every_look_is_in_the_future_and_before_a_result_is_forgotten(
    samples: list[tuple[int, int]], status: str, age: int, delay: int | None, event: bool, crowd: int, rate: float
) -> None:
    """Whatever was seen: at least a moment away, never past half of RunPod's 30 minutes (I10)."""
    about = known(samples, Load(crowd, rate, queued=crowd, workers=3))
    away = next_poll_ms(about, status, age, delay_ms=delay, progressing=event)
    assert 1 <= away <= MOST_MS + 1 <= 900_001


@given(st.lists(st.floats(0, 1e8), min_size=5, max_size=300), st.floats(1, 1e6))
def test_a_plan_reaches_its_last_edge(samples: list[float], price: float) -> None:
    """From any age the looks come to the end of what was seen, each behind the one before."""
    made = plan(samples, price)
    assert all(later > here for here, later in enumerate(made.looks[:-1]))
    now = 0.0
    for _ in range(5_000):
        if now >= made.edges[-1]:
            break
        away = made.after(now)
        assert away >= 0
        now += max(away, made.edges[-1] / 4_000, 1)
    assert now >= made.edges[-1]
