"""The shared budget against a real Redis: RunPod's limits hold for all processes together (I9)."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge.errors import LedgerUnavailable
from bridge.redis import round_trips
from bridge.runpod.limits.budget import Budget, Grant
from bridge.runpod.limits.scripts import ledger_now
from bridge.runpod.operations import LIMITS, Limit, Operation
from tests.support.helpers import eventually, free_port

EP = "ep-1"
PREFIX = "bridge:_:"
RUN, STATUS = Operation.RUN, Operation.STATUS
tokens = (f"t{n}" for n in itertools.count())


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to a database of this test's own."""
    found = redis.Redis.from_url(redis_url, decode_responses=True, protocol=2)
    yield found
    found.close()


def budget_of(client: redis.Redis, calls: int = 10, concurrent: int = 100, per_worker: int = 0) -> Budget:
    """A budget with small figures for every operation."""
    return Budget(client, PREFIX, dict.fromkeys(Operation, Limit(calls, concurrent, per_worker)))


def take(budget: Budget, wanted: int, *, token: str | None = None, slot_ms: int = 30_000, op: Operation = RUN) -> int:
    """How many permits a fresh token gets."""
    return budget.acquire(EP, op, wanted, token=token or next(tokens), slot_ms=slot_ms).count


def pass_time(client: redis.Redis, milliseconds: int) -> None:
    """Move the ledger's clock, as the engines do after a step of Redis' own."""
    client.hincrby(f"{PREFIX}meta", "clock_offset", milliseconds)


def test_a_full_burst_is_granted_at_once_and_not_one_call_more(client: redis.Redis) -> None:
    """No pacing below the limit, nothing above it."""
    budget = budget_of(client)
    assert [take(budget, 7), take(budget, 7), take(budget, 1)] == [7, 3, 0]


def test_a_permit_counts_from_its_grant_until_ten_seconds_after_its_end(client: redis.Redis) -> None:
    """Wherever between grant and end RunPod saw the call, no 10 s of its clock hold more than the limit."""
    budget = budget_of(client)
    take(budget, 10, token="a")
    pass_time(client, 9_000)  # the calls are still under way: RunPod may be counting them only now
    budget.release(EP, RUN, "a", used=10, unused=0)
    assert take(budget, 10) == 0
    pass_time(client, 9_900)
    assert take(budget, 10) == 0
    pass_time(client, 400)
    assert take(budget, 10) == 10


def test_the_wait_that_is_told_is_enough_and_not_too_long(client: redis.Redis) -> None:
    """A refused caller who comes back when he was told gets a permit."""
    budget = budget_of(client)
    take(budget, 10, token="a")
    budget.release(EP, RUN, "a", used=10, unused=0)
    wait = budget.acquire(EP, RUN, 1, token="b", slot_ms=1_000).retry_after_ms
    assert 9_000 < wait <= 10_251
    pass_time(client, wait)
    assert take(budget, 1) == 1


def test_calls_that_were_never_made_are_handed_back(client: redis.Redis) -> None:
    """An unused permit costs nobody anything."""
    budget = budget_of(client)
    take(budget, 10, token="a")
    budget.release(EP, RUN, "a", used=1, unused=9)
    assert take(budget, 10) == 9


def test_slots_bound_the_calls_under_way(client: redis.Redis) -> None:
    """Concurrency is a limit of its own; each call's end frees one slot."""
    budget = budget_of(client, calls=1000, concurrent=5)
    assert take(budget, 10, token="a") == 5
    assert take(budget, 10) == 0
    for _ in range(3):
        budget.release(EP, RUN, "a", used=1, unused=0)
    assert take(budget, 10) == 3


def test_the_slots_of_a_dead_process_come_back(client: redis.Redis) -> None:
    """After its deadline a grant counts as ended, whoever held it."""
    budget, successor = budget_of(client, 1000, 5), budget_of(client, 1000, 5)
    assert take(budget, 5, slot_ms=20_000) == 5
    pass_time(client, 19_000)
    assert take(successor, 5) == 0
    pass_time(client, 1_100)
    assert take(successor, 5) == 5


def test_the_same_token_is_granted_the_same_again(client: redis.Redis) -> None:
    """I15: a call repeated after a lost reply takes nothing more."""
    budget = budget_of(client)
    assert [take(budget, 4, token="a"), take(budget, 4, token="a"), take(budget, 10)] == [4, 4, 6]


def test_ends_that_are_told_twice_count_once(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: redis-py repeats a script whose reply was lost; calls still under way must not count as ended by that."""
    budget = budget_of(client, calls=1000, concurrent=10)
    assert take(budget, 10, token="a") == 10
    budget.release(EP, RUN, "a", used=3, unused=0)
    call, calls = round_trips.call_many, 0

    def twice(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
        nonlocal calls
        calls += 2
        call(client, commands)
        return call(client, commands)

    monkeypatch.setattr(round_trips, "call_many", twice)
    assert (take(budget, 10), calls) == (3, 2)
    assert budget.state(EP)["run"]["under_way"] == 10


def test_an_end_told_after_its_deadline_changes_nothing(client: redis.Redis) -> None:
    """A process that was frozen past its slot's deadline does not free slots of others."""
    budget = budget_of(client, 1000, 5)
    take(budget, 5, token="a", slot_ms=1_000)
    pass_time(client, 1_100)
    assert take(budget, 5, token="b") == 5
    budget.release(EP, RUN, "a", used=5, unused=0)
    assert take(budget, 5) == 0


def test_operations_and_endpoints_do_not_share(client: redis.Redis) -> None:
    """RunPod counts per operation and endpoint."""
    budget = budget_of(client)
    assert take(budget, 10) == 10
    assert take(budget, 10, op=STATUS) == 10
    assert budget.acquire("ep-2", RUN, 10, token="x", slot_ms=1_000).count == 10


def test_an_override_of_one_endpoint_holds_for_it_alone(client: redis.Redis) -> None:
    """The table can be departed from per endpoint."""
    budget = Budget(
        client, PREFIX, LIMITS, lambda endpoint_id, _op, base: Limit(2, 2) if endpoint_id == "small" else base
    )
    assert budget.acquire("small", RUN, 100, token="a", slot_ms=1_000).count == 2
    assert budget.acquire("other", RUN, 100, token="b", slot_ms=1_000).count == 100


def test_flush_tells_the_others_when_nobody_asks(client: redis.Redis) -> None:
    """The last batch's slots do not wait for this process' next grant."""
    budget, other = budget_of(client, 1000, 5), budget_of(client, 1000, 5)
    take(budget, 5, token="a")
    budget.release(EP, RUN, "a", used=5, unused=0)
    assert take(other, 5) == 0

    def told() -> bool:
        budget.flush()
        return take(other, 5) == 5

    eventually(told)


# 429


def answered(budget: Budget, client: redis.Redis, *, wait_ms: int = 600) -> None:
    """The single call that is let out after a 429 is answered well."""
    pass_time(client, wait_ms)
    assert take(budget, 50, token="probe") == 1
    budget.release(EP, RUN, "probe", used=1, unused=0)
    budget.acquire(EP, RUN, 0, token="", slot_ms=0)


def used(budget: Budget, calls: int) -> None:
    """So many calls have been made and answered."""
    assert take(budget, calls, token="used") == calls
    budget.release(EP, RUN, "used", used=calls, unused=0)
    budget.acquire(EP, RUN, 0, token="", slot_ms=0)


def limit(budget: Budget) -> int:
    """What holds now."""
    return int(budget.state(EP)["run"]["limit"])


def test_after_a_429_single_calls_ask_until_one_is_answered(client: redis.Redis) -> None:
    """For everybody; other operations are untouched; a refused one waits longer for the next."""
    budget, other = budget_of(client, 100), budget_of(client, 100)
    used(budget, 60)
    budget.throttled(EP, RUN, None)
    assert take(other, 10) == 0
    assert take(other, 10, op=STATUS) == 10
    pass_time(client, 510)
    assert take(other, 10, token="a") == 1
    assert take(budget, 10) == 0  # one at a time
    other.throttled(EP, RUN, None)
    other.release(EP, RUN, "a", used=1, unused=0)
    pass_time(client, 510)
    assert take(budget, 10) == 0
    pass_time(client, 300)
    assert take(budget, 10, token="b") == 1
    budget.release(EP, RUN, "b", used=1, unused=0)
    assert take(budget, 100, token="c") == 0
    assert limit(budget) in {59, 60}  # what went through, less two that were refused


def test_the_limit_becomes_what_went_through_and_at_least_half(client: redis.Redis) -> None:
    """A multiplicative cut, but never deeper than by half for one piece of news."""
    budget = budget_of(client, 100)
    budget.throttled(EP, RUN, None)
    answered(budget, client)
    assert limit(budget) == 50


def test_a_learned_limit_is_held_and_then_grows_back_slowly(client: redis.Redis) -> None:
    """A minute, then half a percent of the whole each second."""
    budget = budget_of(client, 100)
    budget.throttled(EP, RUN, None)
    answered(budget, client)
    pass_time(client, 59_000)
    assert limit(budget) == 50
    pass_time(client, 21_000)
    assert 59 <= limit(budget) <= 61
    pass_time(client, 100_000)
    assert take(budget, 200) == 100
    assert "limit" not in client.hgetall(f"{PREFIX}budget:{EP}:run")


def test_a_limit_that_is_met_again_is_held_twice_as_long(client: redis.Redis) -> None:
    """The memory of the limit that met a 429: the next try above it comes later each time."""
    budget = budget_of(client, 100)
    for _ in range(2):
        budget.throttled(EP, RUN, None)
        answered(budget, client)
        pass_time(client, 61_000)
    before = limit(budget)
    pass_time(client, 58_000)
    assert limit(budget) == before
    pass_time(client, 12_000)
    assert limit(budget) > before


def test_the_429s_of_one_burst_cut_once(client: redis.Redis) -> None:
    """Fifty calls that were under way together are one piece of news."""
    budget = budget_of(client, 100)
    used(budget, 90)
    for _ in range(50):
        budget.throttled(EP, RUN, None)
    answered(budget, client)
    assert limit(budget) == 50
    assert budget.state(EP)["run"]["cuts_by_429"] == 1


def test_repeated_429s_never_cut_to_nothing(client: redis.Redis) -> None:
    """One call stays possible, else nobody would learn that the trouble is over."""
    budget = budget_of(client, 10)
    for _ in range(12):
        budget.throttled(EP, RUN, None)
        answered(budget, client, wait_ms=12_000)
        pass_time(client, 12_000)
    assert take(budget, 10) == 1


def test_a_probe_that_dies_with_its_process_is_no_answer(client: redis.Redis) -> None:
    """Another single call follows when its slot has ended."""
    budget = budget_of(client, 100)
    budget.throttled(EP, RUN, None)
    pass_time(client, 600)
    assert take(budget, 5, slot_ms=5_000) == 1
    pass_time(client, 5_100)
    assert take(budget, 5) == 1


def test_retry_after_pauses_every_process_and_the_longest_counts(client: redis.Redis) -> None:
    """What RunPod asked for is kept, and told to whoever asks."""
    budget, other = budget_of(client, 100), budget_of(client, 100)
    budget.throttled(EP, RUN, 7.0)
    budget.throttled(EP, RUN, 2.0)
    told = other.acquire(EP, RUN, 1, token="a", slot_ms=1_000)
    assert told.count == 0
    assert 6_500 < told.retry_after_ms <= 7_000
    assert take(other, 1, op=STATUS) == 1
    pass_time(client, 7_000)
    assert take(other, 1) == 1


class RunPod:
    """Its side: so many calls in a window, sliding or aligned; the others are refused."""

    def __init__(self, limit: int, *, aligned: bool) -> None:
        """Windows of 10 s."""
        self.limit, self.aligned = limit, aligned
        self.taken: list[float] = []
        self.refused: list[float] = []

    def call(self, now: float) -> bool:
        """Whether it takes this one."""
        start = now - now % 10 if self.aligned else now - 10
        if sum(at >= start for at in self.taken[-2_000:]) >= self.limit:
            self.refused.append(now)
            return False
        self.taken.append(now)
        return True


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("part", [0.5, 0.3])
@pytest.mark.slow
def test_a_limit_that_was_silently_lowered_is_found_and_kept(
    client: redis.Redis, part: float, *, aligned: bool
) -> None:
    """Four processes that would call all the time: under 1 % refused, over 80 % of what is allowed used."""
    processes = [budget_of(client, calls=200, concurrent=64) for _ in range(4)]
    runpod = RunPod(int(200 * part), aligned=aligned)
    # RunPod's clock is the ledger's: what this test itself takes passes for both.
    began, seconds = ledger_now(client, PREFIX) / 1000 - 3.0, 240
    under_way: list[tuple[Budget, str, int]] = []
    while (now := ledger_now(client, PREFIX) / 1000 - began) < seconds:
        for budget, token, count in under_way:
            budget.release(EP, RUN, token, used=count, unused=0)
        under_way = []
        for budget in processes:
            token = next(tokens)
            granted = take(budget, 4, token=token)
            for _ in range(granted):
                if not runpod.call(now):
                    budget.throttled(EP, RUN, None)
            if granted:
                under_way.append((budget, token, granted))
        pass_time(client, 100)
    calls = len(runpod.taken) + len(runpod.refused)
    assert len(runpod.refused) <= 0.04 * calls
    late = [at for at in runpod.refused if at > 30]
    assert len(late) <= 0.01 * sum(at > 30 for at in runpod.taken)
    assert sum(at > 30 for at in runpod.taken) >= 0.8 * runpod.limit * (seconds - 30) / 10


def test_what_small_classes_are_refused_is_kept_for_them(client: redis.Redis) -> None:
    """Loops that take all there is leave a tenth once a single call had to wait, for ten seconds."""
    budget = budget_of(client, 100)
    assert take(budget, 100, token="bulk") == 100
    assert budget.acquire(EP, RUN, 1, token="s1", slot_ms=1_000, kind="small").count == 0
    budget.release(EP, RUN, "bulk", used=0, unused=100)
    assert take(budget, 100, token="again") == 90
    assert budget.acquire(EP, RUN, 1, token="s2", slot_ms=1_000, kind="small").count == 1


# Running RunPod workers


def test_calls_in_bulk_are_spread_once_half_of_the_limit_is_used(client: redis.Redis) -> None:
    """The first half as fast as it comes, then even steps that use the whole within ten seconds; others go at once."""
    budget = budget_of(client, calls=1000, concurrent=1000)

    def bulk(wanted: int) -> Grant:
        token = next(tokens)
        grant = budget.acquire(EP, RUN, wanted, token=token, slot_ms=30_000, kind="paced")
        budget.release(EP, RUN, token, used=grant.count, unused=0)
        return grant

    assert bulk(500).count == 500
    first = bulk(500).count  # what falls into 100 ms
    assert 10 <= first <= 12
    refused = bulk(500)
    assert refused.count == 0
    assert 0 < refused.retry_after_ms <= 50
    assert take(budget, 20) == 20  # what is no bulk goes at once
    granted = []
    for _ in range(88):
        pass_time(client, 50)
        granted.append(bulk(500).count)
    assert max(granted) <= 12
    assert sum(granted) == 480 - first


def test_a_small_limit_is_paced_by_single_permits(client: redis.Redis) -> None:
    """Never by less than one: ten calls in ten seconds are used in ten seconds."""
    budget = budget_of(client, calls=10)

    def bulk() -> int:
        token = next(tokens)
        count = budget.acquire(EP, RUN, 10, token=token, slot_ms=30_000, kind="paced").count
        budget.release(EP, RUN, token, used=count, unused=0)
        return count

    assert take(budget, 5) == 5
    counts = [bulk()]
    for _ in range(9):
        pass_time(client, 1_000)
        counts.append(bulk())
    assert sum(counts) == 5
    assert max(counts) == 1


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000])
def test_a_step_of_the_servers_clock_spoils_no_window_and_no_pause(client: redis.Redis, step_ms: int) -> None:
    """Until the engines have taken it out, the callers' own clocks count: calls, slots, a 429's pause."""
    steady = time.monotonic() * 1000 - ledger_now(client, PREFIX)
    limits = dict.fromkeys(Operation, Limit(10, 100))
    budget = Budget(client, PREFIX, limits, now=lambda: int(time.monotonic() * 1000 - steady))
    assert take(budget, 4, token="before") == 4
    budget.release(EP, RUN, "before", used=4, unused=0)
    pass_time(client, step_ms)  # the clock has stepped
    assert take(budget, 4, token="meanwhile") == 4
    budget.release(EP, RUN, "meanwhile", used=4, unused=0)
    assert take(budget, 10) == 2
    budget.throttled(EP, STATUS, None)
    pass_time(client, -step_ms)  # the beat has taken it out
    assert take(budget, 10) == 0
    eventually(lambda: take(budget, 1, op=STATUS) == 1, timeout=5)
    assert budget.state(EP)["run"]["left"] == 0


def test_running_workers_raise_the_limit_and_their_end_lowers_it(client: redis.Redis) -> None:
    """The limit is the larger of base and RunPod workers times their share, as last heard."""
    budget = budget_of(client, calls=10, concurrent=1000, per_worker=5)
    budget.raise_to(EP, 8)
    assert take(budget, 100, token="a") == 40
    budget.release(EP, RUN, "a", used=0, unused=40)
    budget.raise_to(EP, 1)
    assert take(budget, 100) == 10


def test_what_health_said_is_not_believed_for_ever(client: redis.Redis) -> None:
    """A minute later the base counts again."""
    budget = budget_of(client, calls=10, concurrent=1000, per_worker=5)
    budget.raise_to(EP, 8)
    pass_time(client, 61_000)
    assert take(budget, 100) == 10


# What it costs, and what stays


def test_health_reads_the_state_in_a_few_round_trips(client: redis.Redis) -> None:
    """A full window of buckets makes `state` no dearer."""
    budget = budget_of(client, calls=1000)
    for _ in range(30):
        take(budget, 1, token="a")
        budget.release(EP, RUN, "a", used=1, unused=0)
        budget.acquire(EP, RUN, 0, token="", slot_ms=0)
        pass_time(client, 300)
    before = client.info("stats")["total_commands_processed"]
    state = budget.state(EP)
    assert client.info("stats")["total_commands_processed"] - before < 20
    assert state["run"] == {"limit": 1000, "left": 970, "under_way": 0, "cuts_by_429": 0}


def test_memory_is_bounded_by_the_window_not_by_the_calls(client: redis.Redis) -> None:
    """I16: buckets of a quarter second, tokens only while their calls are out, and a TTL on all."""
    budget = budget_of(client, calls=1_000_000, concurrent=1_000_000)
    for _ in range(200):
        token = next(tokens)
        take(budget, 500, token=token)
        budget.release(EP, RUN, token, used=500, unused=0)
        pass_time(client, 400)
    take(budget, 1)
    base = f"{PREFIX}budget:{EP}:run"
    assert client.hlen(base) <= 45
    assert client.hlen(f"{base}:held") == client.zcard(f"{base}:slots") == 1
    assert all(client.pttl(key) > 0 for key in client.keys(f"{PREFIX}budget:*"))


def test_a_redis_that_is_away_is_a_named_error() -> None:
    """Every method says LedgerUnavailable, none a foreign error."""
    with redis.Redis(port=free_port(), decode_responses=True, retry=Retry(NoBackoff(), 0)) as away:
        budget = budget_of(away, per_worker=5)
        for call in (
            lambda: take(budget, 1),
            lambda: budget.throttled(EP, RUN, 1.0),
            lambda: budget.raise_to(EP, 100),
            lambda: budget.state(EP),
        ):
            with pytest.raises(LedgerUnavailable):
                call()


# Any 10 s


def most_in_any_window(times: list[float], window: float = 10.0) -> int:
    """The most calls that any sliding window holds; an aligned window is one of those."""
    times, most, first = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - window:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.slow
def test_no_ten_seconds_hold_more_than_the_limit_however_slow_the_calls_are(client: redis.Redis, seed: int) -> None:
    """Calls reach RunPod anywhere between grant and end; ends are told late, in part, or never (the process died)."""
    rng, endpoint = random.Random(seed), f"e{seed}"
    budget = budget_of(client, calls=12, concurrent=9)
    arrived: list[float] = []
    out: list[tuple[int, str]] = []
    for step in range(60):
        pass_time(client, rng.choice([0, 10, 200, 900, 3_000]))
        now = ledger_now(client, PREFIX)  # real time has passed too
        for end in [end for end in out if end[0] <= now]:
            out.remove(end)
            budget.release(endpoint, RUN, end[1], used=1, unused=0)
        grant = budget.acquire(endpoint, RUN, rng.randint(1, 12), token=f"{step}", slot_ms=4_000)
        granted = ledger_now(client, PREFIX)
        for _ in range(grant.count):
            lasts = rng.choice([5, 300, 3_000])
            arrived.append((granted + rng.random() * lasts) / 1000)
            if rng.random() < 0.8:
                out.append((granted + lasts, f"{step}"))
        assert len(out) <= 9
    assert most_in_any_window(arrived) <= 12


def flood(url: str, seconds: float, told: multiprocessing.SimpleQueue[list[float]]) -> None:
    """One process with four threads that take what they can and call for 1 to 30 ms."""
    client = redis.Redis.from_url(url, decode_responses=True, protocol=2)
    budget = Budget(client, PREFIX, dict.fromkeys(Operation, Limit(200, 20)))
    seen: list[float] = []
    until = time.monotonic() + seconds

    def caller(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            token = f"{rng.random()}-{id(client)}-{time.monotonic_ns()}"
            grant = budget.acquire(EP, RUN, rng.randint(1, 8), token=token, slot_ms=5_000)
            for _ in range(grant.count):
                time.sleep(rng.uniform(0.0005, 0.005))
                seen.append(time.time())
                time.sleep(rng.uniform(0.0005, 0.005))
                budget.release(EP, RUN, token, used=1, unused=0)
            if not grant.count:
                budget.flush()
                time.sleep(min(grant.retry_after_ms, 100) / 1000)

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put(seen)
    client.close()


def test_processes_together_keep_the_limit_and_use_it(redis_url: str, tmp_path: Path) -> None:
    """Three real processes flood for two windows: never more than the limit in any 10 s, and most of it."""
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    children = [context.Process(target=flood, args=(redis_url, 22.0, told)) for _ in range(3)]
    for child in children:
        child.start()
    times = [at for _ in children for at in told.get()]
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert most_in_any_window(times) <= 200
    assert len(times) > 0.75 * 200 * 2  # a window that nobody used would be half of it
