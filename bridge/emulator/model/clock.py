"""One virtual clock for everything that takes time in the emulator.

Virtual time runs `speed` times as fast as real time and can be moved forward; timers fire in order on the way.
The clock belongs to one event loop and is used from that loop's thread only.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from typing import Any

#: The furthest that one step moves: a hundred years. Far beyond it there are no dates, and no seconds in a float.
MOST_S = 100 * 365 * 86_400.0
#: Cancelled timers stay in the heap until they are this many, and more than half of it.
_CANCELLED_KEPT = 1000


class Timer(list[Any]):
    """One entry of the heap: [when, number, callback, argument]. A list, because lists compare in C."""

    __slots__ = ()


class Clock:
    """Virtual seconds since the start of the emulator."""

    def __init__(self, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be a number above 0, not {speed}")
        self.speed = speed
        self._real = time.monotonic()
        self._began = time.time()
        self._base = 0.0
        self._held: float | None = None
        self._heap: list[Timer] = []
        self._numbers = 0
        self._cancelled = 0
        self._handle: asyncio.TimerHandle | None = None
        self._handle_when = 0.0

    def now(self) -> float:
        """Return virtual seconds since the start; while timers fire, the time they were set for."""
        if self._held is not None:
            return self._held
        return self._base + (time.monotonic() - self._real) * self.speed

    def epoch(self, at: float) -> float:
        """Return virtual time `at` as seconds since 1970."""
        return self._began + at

    def after(self, seconds: float, callback: Callable[[Any], None], argument: Any = None) -> Timer:
        """Call `callback(argument)` in `seconds` of virtual time."""
        self._numbers += 1
        timer = Timer((self.now() + seconds, self._numbers, callback, argument))
        heapq.heappush(self._heap, timer)
        if self._held is None and self._heap[0] is timer:
            self._arm()
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Make sure that `timer` does not fire (again); None and fired timers are fine."""
        if timer is None or timer[2] is None:
            return
        timer[2] = timer[3] = None
        self._cancelled += 1
        if self._cancelled > _CANCELLED_KEPT and self._cancelled * 2 > len(self._heap):
            self._heap = [kept for kept in self._heap if kept[2] is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of virtual time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.after(seconds, wake, future)
        try:
            await future
        finally:
            self.cancel(timer)

    async def advance(self, seconds: float) -> None:
        """Move virtual time forward, firing every timer on the way at its own time."""
        if not seconds >= 0:
            raise ValueError(f"time moves forward only: seconds must be at least 0, not {seconds}")
        if seconds > MOST_S:
            raise ValueError(f"seconds must be at most {MOST_S:.0f}, a hundred years, not {seconds}")
        target = self.now() + seconds
        while (due := self._next()) is not None and due <= target:
            self._fire(due)
            for _ in range(3):  # let what the timers woke set its own timers
                await asyncio.sleep(0)
        if target > self.now():
            self._set(target)
        self._disarm()  # what was armed on the way reckoned without the rest of the way
        self._arm()

    def close(self) -> None:
        """Forget all timers."""
        self._disarm()
        self._heap.clear()

    def _set(self, now: float) -> None:
        self._base, self._real = now, time.monotonic()

    def _next(self) -> float | None:
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
            self._cancelled = max(0, self._cancelled - 1)
        return float(self._heap[0][0]) if self._heap else None

    def _fire(self, until: float) -> None:
        """Call every timer due by `until`, and set virtual time to `until` when it lies ahead."""
        try:
            while (due := self._next()) is not None and due <= until:
                timer = heapq.heappop(self._heap)
                self._held = due
                callback, argument = timer[2], timer[3]
                timer[2] = timer[3] = None
                callback(argument)
        finally:
            self._held = None
        if until > self.now():
            self._set(until)

    def _arm(self) -> None:
        due = self._next()
        if due is None:
            return
        if self._handle is not None:
            if self._handle_when <= due:
                return
            self._disarm()
        self._handle_when = due
        delay = max(0.0, (due - self.now()) / self.speed)
        self._handle = asyncio.get_running_loop().call_later(delay, self._ring)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        try:
            self._fire(self.now())
        finally:
            self._arm()


def wake(future: asyncio.Future[None]) -> None:
    """Let who awaits `future` go on."""
    if not future.done():
        future.set_result(None)
