"""The loops' turns: apart while busy, at once in a hurry."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bridge.errors import LedgerUnavailable
from bridge.runtime.loop import Loop
from bridge.telemetry import subscribe


def test_a_hurried_wake_waits_for_no_batch_and_an_ordinary_one_does() -> None:
    """A burst of wakes becomes one turn; what is no part of a burst is worked at once."""
    turns: queue.SimpleQueue[int] = queue.SimpleQueue()

    def once() -> float:
        turns.put(1)
        return 60.0

    loop = Loop("test", once, at_least_s=30.0)
    loop.start()
    turns.get(timeout=60)
    loop.wake()
    with pytest.raises(queue.Empty):
        turns.get(timeout=0.2)
    loop.wake(hurry=True)
    turns.get(timeout=60)
    loop.wake()  # the hurry was used up by that turn
    with pytest.raises(queue.Empty):
        turns.get(timeout=0.2)
    loop.stop()
    assert loop.join(60)


@contextmanager
def hurrying(at_least_s: float, hurried_wait_s: float) -> Iterator[tuple[Loop, queue.SimpleQueue[str]]]:
    """A loop that has made its first turn, and a hurried one; and what it has done since."""
    done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def tells(what: str, wait_s: float) -> Callable[[], float]:
        def turn() -> float:
            done.put(what)
            return wait_s

        return turn

    loop = Loop("test", tells("turn", 60.0), at_least_s=at_least_s, at_once=tells("hurried", hurried_wait_s))
    loop.start()
    assert done.get(timeout=60) == "turn"
    loop.wake(hurry=True)
    assert done.get(timeout=60) == "hurried"
    yield loop, done
    loop.stop()
    assert loop.join(60)


def test_what_hurries_is_done_between_two_turns_and_moves_none_of_them() -> None:
    """A stream of hurried wakes neither keeps the turn from its time nor has it before."""
    with hurrying(0.3, 60.0) as (loop, done):
        with pytest.raises(queue.Empty):
            done.get(timeout=0.5)  # nobody has asked for a turn
        loop.wake()
        assert done.get(timeout=60) == "turn"
        loop.wake()
        told_so_far = []
        while "turn" not in told_so_far:
            loop.wake(hurry=True)
            told_so_far.append(done.get(timeout=60))
        assert told_so_far[0] == "hurried"


def test_what_could_not_hurry_has_its_turn() -> None:
    """Whoever hurries in vain says when all that is due is to be looked at."""
    with hurrying(0.1, 0.0) as (_, done):
        assert done.get(timeout=60) == "turn"


def test_an_outage_of_the_ledger_is_told_by_all_loops_together_and_its_end_once() -> None:
    """One trouble is one line, however many loops meet it; when the last of them turns again, that is told too."""
    told: list[tuple[str, dict[str, object]]] = []

    def fails() -> float:
        raise LedgerUnavailable("refused")

    loops = [Loop(f"test-{n}", lambda: 60.0) for n in range(3)]
    leave = subscribe(lambda name, fields: told.append((name, dict(fields))))
    try:
        for loop in loops:
            loop._turn(fails)
        assert told == [("ledger.unavailable", {"error": "refused"})] * 3  # alike: the log has one line of them
        for loop in loops[:2]:
            loop._turn(lambda: 60.0)
        assert len(told) == 3
        loops[2]._turn(lambda: 60.0)
        assert [(name, fields.get("loops")) for name, fields in told[3:]] == [("ledger.back", 3)]
        loops[2]._turn(lambda: 60.0)
        assert len(told) == 4
    finally:
        leave()


def test_a_trouble_of_its_own_is_told_with_the_loops_name() -> None:
    """It is no outage, and others do not meet it."""
    told: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def once() -> float:
        raise ValueError("odd")

    leave = subscribe(lambda name, fields: told.put((name, fields.get("loop"))))
    loop = Loop("test", once)
    try:
        loop.start()
        assert told.get(timeout=60) == ("loop.failed", "test")
    finally:
        leave()
        loop.stop()
        assert loop.join(60)
