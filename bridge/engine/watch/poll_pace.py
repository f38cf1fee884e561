"""What the pace knows of each endpoint, current from the ledger; and what this process learns, given back to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge.engine.watch.poll_plan import Known, Load, known, next_poll_ms
from bridge.errors import LedgerError
from bridge.job.enums import Status
from bridge.runpod.operations import LIMITS, Operation

if TYPE_CHECKING:
    from bridge.ledger.stores.run_times import Runs
    from bridge.runpod.limits.budget import Budget

#: Seconds between two looks at what the ledger knows of an endpoint, and between two runs that are learnt from it.
FRESH_S, LEARN_S = 2.0, 0.1
#: From so many jobs in flight on, the budget that is left and RunPod's own queue are asked about.
MANY = 50
#: Status reads a second that one process carries beside all else it does. RunPod's limit is each endpoint's own: forty
#: of them would allow 8,000.
CARRIES = 300.0

Queue = Callable[[str], "Mapping[str, Any] | None"]


class Pace:
    """Thread-safe; one for all loops of a process."""

    def __init__(
        self,
        runs: Runs,
        budget: Budget,
        endpoint_id_of: Callable[[str], str],
        queue_of: Queue = lambda _name: None,
        engines: Callable[[], int] = lambda: 1,
    ) -> None:
        """`queue_of` gives RunPod's counters `{jobs, workers}` of an endpoint as somebody has heard them, or None.

        `engines` says how many processes share the reads.
        """
        self._runs = runs
        self._budget = budget
        self._endpoint_id_of = endpoint_id_of
        self._queue_of = queue_of
        self._engines = engines
        self._in_flight: dict[str, int] = {}  # of those endpoints that have many
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, object, Known]] = {}
        self._learnt: dict[str, list[tuple[int, int]]] = {}
        self._learnt_at: dict[str, float] = {}

    def learn(self, endpoint: str, delay_ms: int | None, run_ms: int | None, age_ms: int) -> None:
        """A job of this endpoint has ended; of many at once a few are enough."""
        now = time.monotonic()
        with self._lock:
            if now - self._learnt_at.get(endpoint, 0.0) < LEARN_S:
                return
            self._learnt_at[endpoint] = now
            pair = (max(0, delay_ms or 0), max(1, run_ms or age_ms))
            self._learnt.setdefault(endpoint, []).append(pair)

    def first_ms(self, endpoint: str) -> int:
        """The first look after the submit. Asks Redis nothing, but for an endpoint that is new here."""
        return self.next_ms(endpoint, Status.IN_QUEUE, 0)

    def next_ms(
        self, endpoint: str, status: str, age_ms: int, *, delay_ms: int | None = None, progressing: bool = False
    ) -> int:
        """The next look at a job that has been with RunPod for `age_ms` and has not ended."""
        return next_poll_ms(self._about(endpoint), status, age_ms, delay_ms=delay_ms, progressing=progressing)

    def _about(self, endpoint: str) -> Known:
        found = self._known.get(endpoint)
        return found[2] if found is not None else self.refresh(endpoint)

    def refresh(self, endpoint: str) -> Known:
        """Look at what the ledger knows, if that was long ago. Done by the tracker: a commit waits for no look."""
        now = time.monotonic()
        at, basis, about = self._known.get(endpoint, (0.0, None, Known()))
        if now - at < FRESH_S and at:
            return about
        with self._lock:  # one thread looks; the others go on with what was known
            if self._known.get(endpoint, (0.0,))[0] != at:
                return self._known[endpoint][2]
            self._known[endpoint] = (now, basis, about)
            learnt = self._learnt.pop(endpoint, [])
        try:
            if learnt:
                self._runs.remember(endpoint, learnt)
            samples, in_flight = self._runs.read(endpoint)
            load = self._load(endpoint, in_flight)
        except LedgerError:
            return about  # what was known is still the best there is
        if (samples, load) != basis:
            about = known(samples, load)
            self._known[endpoint] = (now, (samples, load), about)
        return about

    def _load(self, endpoint: str, in_flight: int) -> Load:
        rate = LIMITS[Operation.STATUS].calls / 10
        with self._lock:
            self._in_flight.pop(endpoint, None)
            if in_flight < MANY:
                return Load(0, rate)
            self._in_flight[endpoint] = in_flight
            share = in_flight / sum(self._in_flight.values())
        left = self._budget.state_of(self._endpoint_id_of(endpoint), Operation.STATUS)
        limit = left["limit"]
        # Others use it too, or RunPod has said 429: while little is left, half of it is planned with.
        rate = limit / 10 * (0.5 if left["left"] < limit / 10 else 1.0)
        rate = min(rate, CARRIES * max(1, self._engines()) * share)
        heard = self._queue_of(endpoint) or {}
        workers = heard.get("workers") or {}
        up = workers.get("running", 0) + workers.get("idle", 0)
        # Rounded, so that a plan is made anew only when something has changed that matters.
        return Load(_rounded(in_flight), rate, _rounded((heard.get("jobs") or {}).get("inQueue", 0)), up)


def _rounded(count: int) -> int:
    """To two digits."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return count // step * step
