"""Commands that call RunPod, from the doors of one process at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from bridge.doors.json.handler import Answer, CommandPool
from tests.support.helpers import eventually


def test_calls_of_two_doors_at_one_moment_are_both_counted() -> None:
    """What is not counted has no bound."""
    pool, over = CommandPool(), threading.Event()
    others: list[threading.Thread] = []

    def call() -> list[Answer]:
        assert over.wait(60)
        return []

    class Met(set[Future[Any]]):
        """Looked through by one door while another one submits."""

        def __iter__(self) -> Iterator[Future[Any]]:
            others.append(threading.Thread(target=pool.submit, args=(call,)))
            others[0].start()
            others[0].join(0.2)
            return super().__iter__()

    pool._open = Met()
    pool.submit(call)
    others[0].join(60)
    assert len(pool._open) == 2
    over.set()
    eventually(lambda: all(future.done() for future in pool._open))
    pool.close()
