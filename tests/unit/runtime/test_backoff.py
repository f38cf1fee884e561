"""Waiting as pure functions."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bridge.runtime.backoff import backoff, spread


class Middle(random.Random):
    """Draws the middle: no jitter."""

    def random(self) -> float:
        """Half of the range."""
        return 0.5


def test_backoff_doubles_from_its_base_to_its_cap() -> None:
    """1, 2, 4 ... and then the cap."""
    waits = [backoff(attempt, 1.0, 10.0, rng=Middle()) for attempt in range(1, 7)]
    assert waits == [1, 2, 4, 8, 10, 10]


@given(st.integers(-5, 10**9), st.floats(0.001, 100), st.floats(0.001, 1e6), st.integers())
def test_backoff_never_overflows_and_stays_within_its_jitter(attempt: int, base: float, cap: float, seed: int) -> None:
    """Any number of failures gives a positive wait of at most the cap and its jitter."""
    wait = backoff(attempt, base, cap, jitter=0.1, rng=random.Random(seed))
    assert min(base, cap) * 0.9 <= wait * (1 + 1e-9)
    assert wait <= cap * 1.1 * (1 + 1e-9)


@given(st.integers(0, 10**12), st.integers())
def test_spread_moves_a_time_by_a_tenth_at_most(milliseconds: int, seed: int) -> None:
    """What became due together does not stay together, and nothing comes much too early."""
    moved = spread(milliseconds, random.Random(seed))
    assert milliseconds * 0.9 - 1 <= moved <= milliseconds * 1.1


def test_spread_does_move() -> None:
    """A hundred equal times become nearly a hundred different ones, on both sides."""
    rng = random.Random(1)
    moved = [spread(100_000, rng) for _ in range(100)]
    assert len(set(moved)) > 90
    assert min(moved) < 95_000
    assert max(moved) > 105_000
