"""A queue, and the thread that works it off: Celery's event loop hands on to it what may have to wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueThread(Generic[T]):
    """Items come out in the order in which they were put in. The thread starts with the first one, after any fork."""

    def __init__(self, name: str, work: Callable[[list[T]], None], *, at_once: int = 1) -> None:
        """`work` gets one to `at_once` items, as many as wait; what it raises would end the thread."""
        self._name, self._work, self._at_once = name, work, at_once
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> None:
        """Have it worked on soon; returns at once."""
        self._queue.put(item)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < self._at_once and not self._queue.empty():
                batch.append(self._queue.get())
            self._work(batch)
