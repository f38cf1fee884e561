"""Back-pressure: when the doors must take nothing more, so that a flood stays in the broker (I16, HARDENING 11).

A mark that was passed holds until the figure is below its low-water mark, so that doors do not flutter. All processes
read the same figures, and so come to the same answer within half a second of each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.errors import LedgerError

if TYPE_CHECKING:
    from bridge.ledger.endpoints.load import Load

#: Seconds a measurement is believed: while all is well, and in the upper half of a mark.
CALM_S, NEAR_S = 0.5, 0.1
#: Part of the mark below which a closed door opens. Freed memory comes back to Redis slowly and in part.
LOW, LOW_MEMORY = 0.8, 0.95
#: Part of the marks that one endpoint may fill, unless `max_waiting` of the endpoint says otherwise.
ENDPOINT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """The high-water marks; `outbox` is how many events AMQP may be behind."""

    waiting: int
    waiting_bytes: int
    memory_ratio: float
    outbox: int
    scheduled: int


class Pressure:
    """Thread-safe; one per process. `closed` never raises."""

    def __init__(
        self, measure: Callable[[], Load], marks: Marks, max_waiting: Callable[[str], int | None] = lambda _: None
    ) -> None:
        """`measure` asks the ledger; `max_waiting` is one endpoint's own mark."""
        self._measure = measure
        self._marks = marks
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._believed_s = 0.0
        self._room = 0.0  # how many more may be taken before the nearest mark, as measured last
        self._took = 0
        #: Set when this process has filled the room that was measured: somebody should ask at once.
        self.full = threading.Event()
        self._over: set[tuple[str, str]] = set()  # (word, endpoint or "")
        self._waiting: Mapping[str, int] = {}

    def closed(self, endpoint: str | None = None) -> str | None:
        """Why nothing more may be taken; None while the door is open.

        `memory`, `waiting`, `waiting_bytes`, `outbox`, `scheduled`. With an endpoint also `endpoint`: it alone fills
        its share, while others may still be taken.
        """
        self._look()
        over = self._over
        for word in ("memory", "waiting", "waiting_bytes", "outbox", "scheduled"):
            if (word, "") in over:
                return word
        return "endpoint" if endpoint is not None and ("endpoint", endpoint) in over else None

    def room(self, endpoint: str) -> int:
        """How many more requests of an endpoint may wait, measured now; 0 while the door is closed for it."""
        self._at = float("-inf")
        if self.closed(endpoint) is not None:
            return 0
        share = self._max_waiting(endpoint) or int(self._marks.waiting * ENDPOINT_SHARE)
        return int(max(0, min(self._room, share - self._waiting.get(endpoint, 0))))

    def took(self, count: int = 1) -> None:
        """This process has taken so many since it measured: near the mark it measures again, and does not overshoot."""
        self._took += count  # a lost update between threads costs a little lateness, nothing else
        if self._took >= self._room:
            self.full.set()

    def _look(self) -> None:
        stale = time.monotonic() - self._at >= self._believed_s or self._took >= self._room
        if not stale or not self._lock.acquire(blocking=False):
            return  # somebody else is measuring: the last answer stands
        try:
            self.full.clear()
            self._took = 0
            load = self._measure()
            self._judge(load)
        except LedgerError:  # messages are held elsewhere while the ledger is away; the last answer stands
            self._believed_s = CALM_S
        finally:
            self._at = time.monotonic()
            self._lock.release()

    def _judge(self, load: Load) -> None:
        over = set(self._over)
        near, room = False, float("inf")
        for word, endpoint, value, mark, low in self._figures(load):
            if value >= mark:
                over.add((word, endpoint))
            elif value < low * mark:
                over.discard((word, endpoint))
            near = near or value >= mark / 2
            if word in {"waiting", "endpoint"} and value < mark:
                room = min(room, mark - value)
        self._over = over
        # A mark that is passed leaves no room to watch: the measurement's age alone makes it stale.
        self._room = room
        self._believed_s = NEAR_S if near else CALM_S

    def _figures(self, load: Load) -> Iterator[tuple[str, str, float, float, float]]:
        """(word, endpoint, value, high-water mark, low part) of everything that is watched."""
        marks = self._marks
        yield "memory", "", load.memory_ratio, marks.memory_ratio, LOW_MEMORY
        yield "waiting", "", sum(load.waiting.values()), marks.waiting, LOW
        yield "waiting_bytes", "", sum(load.waiting_bytes.values()), marks.waiting_bytes, LOW
        yield "outbox", "", load.outbox, marks.outbox, LOW
        yield "scheduled", "", sum(load.scheduled.values()), marks.scheduled, LOW
        for endpoint, waiting in load.waiting.items():
            share = self._max_waiting(endpoint) or marks.waiting * ENDPOINT_SHARE
            yield "endpoint", endpoint, waiting, share, LOW
