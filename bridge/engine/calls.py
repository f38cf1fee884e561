"""Threads that call RunPod; work is claimed only when one of them is free to do it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from bridge.telemetry import tell


class Callers:
    """Threads over one queue, started as they are needed; a Future for each call would cost more than it tells."""

    def __init__(self, name: str, threads: int) -> None:
        """At most so many calls are under way at once."""
        self._name = name
        self._threads = threads
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._free = threads
        self.on_free: Callable[[], None] | None = None

    @property
    def free(self) -> int:
        """How many calls could start now."""
        return self._free

    @property
    def busy(self) -> int:
        """How many calls are under way."""
        return self._threads - self._free

    def start(self, call: Callable[..., None], *args: Any) -> None:
        """Run the call in a free thread."""
        with self._lock:
            self._free -= 1
            if self._started < self._threads - self._free:
                self._started += 1
                name = f"bridge-{self._name}-{self._started}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
        self._queue.put((call, args))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            call, args = item
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001  (the record's lease ends and it is due again)
                tell("call.failed", call=getattr(call, "__name__", "call"), error=f"{type(error).__name__}: {error}")
            with self._lock:
                self._free += 1
                was_full = self._free == 1
            if was_full and self.on_free is not None:
                self.on_free()

    def close(self) -> None:
        """Start nothing more; calls under way go on."""
        with self._lock:
            for _ in range(self._started):
                self._queue.put(None)
