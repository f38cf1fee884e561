"""A permit is spent by one call or given back, however the call ends (I9)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from bridge.errors import Throttled
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Limit, Operation

EP, RUN = "ep-1", Operation.RUN


@pytest.fixture
def budget(redis_url: str) -> Iterator[Budget]:
    """Ten calls in a window, four at a time."""
    client = redis.Redis.from_url(redis_url, decode_responses=True, protocol=2)
    yield Budget(client, "bridge:_:", dict.fromkeys(Operation, Limit(10, 4, 0)))
    client.close()


def take(budget: Budget, wanted: int = 1) -> Permits:
    """Permits as the engine takes them."""
    return Permits.take(budget, EP, RUN, wanted, slot_ms=30_000)


def test_a_permit_is_out_while_its_call_runs_and_counts_in_the_window_behind_it(budget: Budget) -> None:
    """The slot is free at once, the window's call is not."""
    permits = take(budget)
    with permits.spend():
        assert take(budget, 4).count == 3
    assert take(budget, 4).count == 1, "its slot is free"
    assert budget.state_of(EP, RUN)["left"] == 5, "five permits were handed out"


def test_a_call_that_fails_frees_its_slot_too(budget: Budget) -> None:
    """Whatever the call raises goes on to the caller."""
    permits = take(budget, 4)
    with pytest.raises(Throttled), permits.spend():
        raise Throttled("slow down", delay_s=None)
    assert take(budget, 4).count == 1


def test_a_call_that_was_not_made_costs_nothing_of_the_window(budget: Budget) -> None:
    """Nor does giving back none of them."""
    permits = take(budget, 4)
    permits.give_back(0)
    permits.give_back(3)
    with permits.spend():
        pass
    assert take(budget, 4).count == 4
    assert budget.state_of(EP, RUN)["left"] == 5


def test_nobody_gets_a_permit_beyond_the_limit_and_is_told_how_long_to_wait(budget: Budget) -> None:
    """None of four slots is left."""
    assert take(budget, 9).count == 4
    none = take(budget)
    assert none.count == 0
    assert none.retry_after_ms > 0
