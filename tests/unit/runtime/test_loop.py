"""The loops' turns: apart while busy, at once in a hurry."""

from __future__ import annotations

import queue

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
