"""Threads that call RunPod, as they end."""

from __future__ import annotations

import threading

from bridge.engine.calls.threads import Callers
from tests.support.helpers import eventually


def test_what_a_call_leads_to_is_done_though_the_threads_are_told_to_end() -> None:
    """Else whoever waits until nothing is under way would wait until its grace is over."""
    callers = Callers("test", 1)
    ends, done = threading.Event(), threading.Event()

    def first() -> None:
        assert ends.wait(10)
        callers.start(done.set)

    callers.start(first)
    callers.close()
    ends.set()
    assert done.wait(10)
    eventually(lambda: callers.busy == 0)
