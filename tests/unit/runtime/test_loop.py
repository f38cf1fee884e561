"""The loops' turns: apart while busy, at once in a hurry."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from bridge.runtime.loop import Loop


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


def tells(done: queue.SimpleQueue[str], what: str, wait: float) -> Callable[[], float]:
    """A turn that says that it was made."""

    def turn() -> float:
        done.put(what)
        return wait

    return turn


def test_what_hurries_is_done_between_two_turns_and_moves_none_of_them() -> None:
    """A stream of hurried wakes neither keeps the turn from its time nor has it before."""
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    loop = Loop("test", tells(done, "turn", 60.0), at_least_s=0.3, at_once=tells(done, "hurried", 60.0))
    loop.start()
    assert done.get(timeout=60) == "turn"
    loop.wake(hurry=True)
    assert done.get(timeout=60) == "hurried"
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
    loop.stop()
    assert loop.join(60)


def test_what_could_not_hurry_has_its_turn() -> None:
    """Whoever hurries in vain says when all that is due is to be looked at."""
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    loop = Loop("test", tells(done, "turn", 60.0), at_least_s=0.1, at_once=tells(done, "hurried", 0.0))
    loop.start()
    assert done.get(timeout=60) == "turn"
    loop.wake(hurry=True)
    assert [done.get(timeout=60) for _ in range(2)] == ["hurried", "turn"]
    loop.stop()
    assert loop.join(60)
