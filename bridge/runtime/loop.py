"""A thread that does one thing again and again: a child writes `once() -> seconds until next`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds. A loop that fails waits this long, doubling up to the cap.
FAILED_WAIT_S, FAILED_WAIT_MAX_S = 0.2, 5.0
#: A loop that has not turned for this long is not healthy.
STALE_S = 60.0


class Loop:
    """Start, stop, wake. A failing `once` is told and tried again with growing pauses: a loop never dies of it."""

    def __init__(
        self,
        name: str,
        once: Callable[[], float],
        *,
        at_least_s: float = 0.0,
        at_once: Callable[[], float] | None = None,
    ) -> None:
        """`at_least_s` is the least pause between two turns, so that a burst of wakes becomes one batch.

        `at_once` is all that a hurried wake asks for between two turns; without it there is a turn before its time.
        """
        self.name = name
        self._once = once
        self._at_least_s = at_least_s
        self._at_once = at_once
        self._condition = threading.Condition()
        self._next = 0.0
        self._hurried = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._fails = 0
        self.turned_at = time.monotonic()

    def start(self) -> None:
        """Begin turning in a thread of its own."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"bridge-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end; `join` waits for it."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Whether the loop has ended within the time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def wake(self, after_s: float = 0.0, *, hurry: bool = False) -> None:
        """Turn in `after_s` seconds at the latest; in a hurry now, before the least pause is over."""
        at = time.monotonic() + after_s
        with self._condition:
            if hurry and not self._hurried:
                self._hurried = True
                self._condition.notify_all()
            elif not hurry and at < self._next:
                self._next = at
                self._condition.notify_all()

    @property
    def healthy(self) -> bool:
        """Whether the loop still turns, whatever it meets there."""
        return self._thread is None or time.monotonic() - self.turned_at < STALE_S

    def _run(self) -> None:
        earliest = 0.0
        while not self._stopping:
            started = self.turned_at = time.monotonic()
            once = self._once
            with self._condition:
                if self._hurried and self._at_once and started < max(self._next, earliest):
                    once = self._at_once  # the turn itself keeps its time
                else:
                    self._next, earliest = float("inf"), started + self._at_least_s
                self._hurried = False  # a wake during the turn counts for the next one
            wait = self._turn(once)
            with self._condition:
                self._next = min(self._next, time.monotonic() + wait)
                while not self._stopping:
                    left = 0.0 if self._hurried else max(self._next, earliest) - time.monotonic()
                    if left <= 0:
                        break
                    self.turned_at = time.monotonic()
                    self._condition.wait(min(left, STALE_S / 2))

    def _turn(self, once: Callable[[], float]) -> float:
        try:
            wait = once()
        except Exception as error:  # noqa: BLE001  (told, and tried again: nothing else would do this loop's work)
            self._fails += 1
            tell("loop.failed", loop=self.name, error=f"{type(error).__name__}: {error}", fails=self._fails)
            return min(FAILED_WAIT_S * 2.0 ** min(self._fails - 1, 10), FAILED_WAIT_MAX_S)
        self._fails = 0
        return wait
