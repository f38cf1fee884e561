"""Who hears of a written change in this process: Celery's states, the loops that go on with it, logs and metrics.

Doors and loops call it after the ledger has answered; a process without an engine wakes those that have one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from bridge.errors import LedgerError
from bridge.job.enums import Step
from bridge.telemetry import tell
from bridge.telemetry.metrics import end_seen

if TYPE_CHECKING:
    from bridge.engine.accept.accept import Verdict
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.engine import Engine
    from bridge.engine.tell.celery_states import States
    from bridge.job.change import Change
    from bridge.ledger import Ledger


class Notifier:
    """One per process; thread-safe."""

    def __init__(self, ledger: Ledger, pressure: Pressure, make_states: Callable[[], States]) -> None:
        """`make_states` is called at first use: they load Celery, which most commands do without."""
        self._ledger = ledger
        self._pressure = pressure
        self._make_states = make_states
        self._states: States | None = None
        self._lock = threading.Lock()
        #: The loops of this process, while they run.
        self.engine: Engine | None = None
        #: Endpoints whose cap on jobs in flight keeps requests waiting: an end of any of them makes room.
        self.capped: set[str] = set()

    @property
    def states(self) -> States:
        """Celery's view of requests on their way."""
        with self._lock:
            if self._states is None:
                self._states = self._make_states()
        return self._states

    def accepted(self, *verdicts: Verdict) -> None:
        """Requests are in: have them worked on, and told to Celery; one wake for all of them."""
        new = [v.accepted.held for v in verdicts if v.accepted.kind == "created" and v.accepted.held]
        if not new:
            return
        self._pressure.took(len(new))
        shown = [h for h in new if h.record.door == "celery" and not h.record.silent and not h.record.phase.ended]
        for held in shown:
            self.states.put(held)
        engine = self.engine
        if engine is None:
            if shown:  # no loop of this process writes them
                self.states.once()
            self._wake_others()
            return
        for (step, endpoint), count in Counter((held.record.step, held.record.endpoint) for held in new).items():
            if step is not None:
                engine.came(step, endpoint, count)

    def changed(self, change: Change) -> None:
        """A change was written: count it, tell Celery's state, and wake who goes on with it."""
        _count(change)
        if self._states is not None:  # a process that writes no states has nobody to tell
            self._states.changed(change)
        engine = self.engine
        if engine is not None:
            engine.changed(change)
            if self.capped and change.record.phase.ended:
                engine.wake(Step.SUBMIT)
        elif not change.empty:
            self._wake_others()

    def _wake_others(self) -> None:
        """A wake that is lost costs less than a second; the change is written, and must not be asked for twice."""
        with suppress(LedgerError):
            self._ledger.engines.wake()


def _count(change: Change) -> None:
    """Submits, second submits and ends; each is told once, by whoever wrote it."""
    if change.empty:
        return
    record = change.record
    names = {"request_id": record.id, "endpoint": record.endpoint}
    if change.verdict == "submitted":
        tell("request.submitted", **names, job_id=record.job_id)
    elif change.verdict == "submit_again":
        tell("submit.again", **names)
    if record.phase.ended and (change.before is None or not change.before.record.phase.ended):
        tell(
            "request.ended",
            **names,
            status=record.status,
            reason=record.reason,
            delay_ms=record.delay_time,
            execution_ms=record.execution_time,
        )
        if record.submitted_at and record.delay_time >= 0 and record.execution_time >= 0:
            late = record.ended_at - record.submitted_at - record.delay_time - record.execution_time
            end_seen(record.endpoint, max(0, late) / 1000)
