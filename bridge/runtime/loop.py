"""A thread that does one thing again and again: a child writes `once() -> seconds until next`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from bridge.errors import LedgerUnavailable
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds. A loop that fails waits this long, doubling up to the cap.
FAILED_WAIT_S, FAILED_WAIT_MAX_S = 0.2, 5.0
#: A loop that has not turned for this long is not healthy.
STALE_S = 60.0


class _Outage:
    """The ledger's, which all loops of this process meet: one trouble, and told as one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away: set[Loop] = set()
        self._hit: set[Loop] = set()
        self._since = 0.0

    def met(self, loop: Loop, error: LedgerUnavailable) -> None:
        with self._lock:
            if not self._away:
                self._since = time.monotonic()
                self._hit.clear()
            self._away.add(loop)
            self._hit.add(loop)
        tell("ledger.unavailable", error=str(error))

    def over(self, loop: Loop, *, turns: bool) -> None:
        """It turns again, or has been stopped; the last one to turn says that the ledger is back."""
        with self._lock:
            if loop not in self._away:
                return
            self._away.remove(loop)
            if self._away or not turns:
                return
            loops, seconds = len(self._hit), round(time.monotonic() - self._since, 1)
        tell("ledger.back", loops=loops, seconds=seconds)


_outage = _Outage()


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
        _outage.over(self, turns=False)

    def _turn(self, once: Callable[[], float]) -> float:
        try:
            wait = once()
        except Exception as error:  # noqa: BLE001  (told, and tried again: nothing else would do this loop's work)
            self._fails += 1
            if isinstance(error, LedgerUnavailable):
                _outage.met(self, error)
            else:
                tell("loop.failed", loop=self.name, error=f"{type(error).__name__}: {error}", fails=self._fails)
            return min(FAILED_WAIT_S * 2.0 ** min(self._fails - 1, 10), FAILED_WAIT_MAX_S)
        if self._fails:
            self._fails = 0
            _outage.over(self, turns=True)
        return wait
