"""The virtual clock: order, speed, moving forward."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.emulator.model.clock import Clock


@given(st.lists(st.floats(0, 1000), max_size=30), st.sets(st.integers(0, 29)), st.lists(st.floats(0, 400), max_size=8))
@settings(max_examples=60)
def test_timers_fire_once_in_order_at_their_time(delays: list[float], cancelled: set[int], steps: list[float]) -> None:
    """Whatever the steps time moves in; cancelled ones never fire."""

    async def check() -> None:
        clock = Clock()
        fired: list[tuple[float, int]] = []
        timers = [clock.after(delay, lambda n: fired.append((clock.now(), n)), n) for n, delay in enumerate(delays)]
        dues = [float(timer[0]) for timer in timers]
        for number in cancelled & set(range(len(timers))):
            clock.cancel(timers[number])
        for step in steps:
            await clock.advance(step)
        await clock.advance(1001)
        expected = sorted((dues[n], n) for n in range(len(delays)) if n not in cancelled)
        assert fired == expected
        clock.close()

    asyncio.run(check())


def test_a_timer_set_by_a_timer_fires_on_the_way_at_its_own_time() -> None:
    """One advance over many chained timers leaves none behind."""

    async def check() -> None:
        clock = Clock()
        times: list[float] = []

        def again(left: int) -> None:
            times.append(clock.now())
            if left:
                clock.after(10, again, left - 1)

        clock.after(10, again, 5)
        await clock.advance(1000)
        assert [round(b - a, 6) for a, b in itertools.pairwise(times)] == [10] * 5
        clock.close()

    asyncio.run(check())


def test_sleepers_woken_on_the_way_sleep_again_in_virtual_time() -> None:
    """A task that sleeps three times ten seconds is through after thirty."""

    async def check() -> None:
        clock = Clock()

        async def nap() -> float:
            for _ in range(3):
                await clock.sleep(10)
            return clock.now()

        task = asyncio.create_task(nap())
        await asyncio.sleep(0)
        await clock.advance(100)
        assert 30 <= await task < 31
        clock.close()

    asyncio.run(check())


def test_timers_set_after_an_advance_fire_in_real_time() -> None:
    """What was armed before the jump does not hold them up."""

    async def check() -> None:
        clock = Clock()
        clock.after(60, lambda _: None)
        await clock.advance(61)
        began = time.monotonic()
        await asyncio.wait_for(clock.sleep(0.05), 30)
        assert time.monotonic() - began < 30  # of the minute that the other has to run
        clock.close()

    asyncio.run(check())


def test_speed_makes_virtual_seconds_shorter() -> None:
    """At 100 times the speed ten seconds take a tenth of one."""

    async def check() -> None:
        clock = Clock(speed=100)
        began = time.monotonic()
        await clock.sleep(10)
        assert 0.09 < time.monotonic() - began < 9
        clock.close()

    asyncio.run(check())


def test_cancelled_timers_do_not_pile_up() -> None:
    """A long run that sets and cancels timers keeps its memory."""

    async def check() -> None:
        clock = Clock()
        for _ in range(20_000):
            clock.cancel(clock.after(3600, lambda _: None))
        assert len(clock._heap) < 3000
        clock.close()

    asyncio.run(check())


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_clock_needs_a_speed_above_zero(speed: float) -> None:
    """Time does not stand still or run back."""
    with pytest.raises(ValueError, match="speed"):
        Clock(speed)


def test_time_does_not_run_back() -> None:
    """A negative step, or none at all, is refused; so is one to where no time is left."""

    async def check(step: float) -> None:
        with pytest.raises(ValueError, match="seconds"):
            await Clock().advance(step)

    for step in (-1.0, float("nan"), float("inf"), 1e18):
        asyncio.run(check(step))
