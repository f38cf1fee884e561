"""Threads that call RunPod; work is claimed only when one of them is free to do it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable


class Callers:
    """A pool that knows how many of its threads are free."""

    def __init__(self, name: str, threads: int) -> None:
        """Threads start when they are first needed."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"bridge-{name}")
        self._lock = threading.Lock()
        self._free = threads
        self._threads = threads
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
        self._pool.submit(self._run, call, args)

    def _run(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  (the record's lease ends and it is due again)
            tell("call.failed", call=getattr(call, "__name__", "call"), error=f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._free += 1
                was_full = self._free == 1
            if was_full and self.on_free is not None:
                self.on_free()

    def close(self) -> None:
        """Start nothing more; calls under way go on."""
        self._pool.shutdown(wait=False, cancel_futures=False)
