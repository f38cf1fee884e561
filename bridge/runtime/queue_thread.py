"""A queue, and the thread that works it off: Celery's event loop hands on to it what may have to wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from bridge.telemetry import tell

T = TypeVar("T")


class QueueThread(Generic[T]):
    """Items come out in the order in which they were put in. The thread starts with the first one, after any fork."""

    def __init__(self, name: str, work: Callable[[list[T]], None], *, at_once: int = 1) -> None:
        """`work` gets one to `at_once` items, as many as wait; what it raises ends with them."""
        self._name, self._work, self._at_once = name, work, at_once
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._here = False  # who puts works it off: what that puts here is worked off with the rest

    def put(self, item: T) -> None:
        """Have it worked on soon; returns at once. While the system starts no thread it is worked on here."""
        self._queue.put(item)
        if self._thread is None:
            with self._lock:
                if not self._here:
                    self._begin()

    def _begin(self) -> None:
        if self._thread is not None:  # another was faster
            return
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit on the processes of a user or a container
            tell("call.failed", call=f"start {self._name}", error=f"{type(error).__name__}: {error}")
            self._here = True
            try:
                while not self._queue.empty():
                    self._turn()
            finally:
                self._here = False
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  (no memory, say: those who put more must not wait in vain)
                tell("call.failed", call=self._name, error=f"{type(error).__name__}: {error}")

    def _turn(self) -> None:
        batch = [self._queue.get()]
        while len(batch) < self._at_once and not self._queue.empty():
            batch.append(self._queue.get())
        self._work(batch)
