"""Celery's view of a request on its way: ACCEPTED, IN_QUEUE, IN_PROGRESS; never written over an end.

Only the newest state of a request is written. Losing one costs nothing: the next observation writes again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bridge.engine.finish import CeleryEnd, celery_end
from bridge.job.record import Long
from bridge.job.words import Phase, Status
from bridge.ledger.ledger import ALL
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger

BATCH = 100
IDLE_S = 1.0


class States:
    """`changed` from any thread; `once` writes what is newest."""

    def __init__(
        self, ledger: Ledger, app: Celery, waiting_for: Callable[[str], str | None], message_limit: int
    ) -> None:
        """`waiting_for` says why an endpoint's requests wait."""
        self._ledger = ledger
        self._app = app
        self._waiting_for = waiting_for
        self._message_limit = message_limit
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[str, dict[str, Any]]] = {}
        self.wake: Callable[[], None] = lambda: None

    def changed(self, change: Change) -> None:
        """A request that Celery knows has a new status."""
        before, record = change.before, change.record
        if record.door != "celery" or record.phase.ended or change.empty:
            return
        if before is not None and (before.record.status, before.long.get(Long.PROGRESS)) == (
            record.status,
            change.after.long.get(Long.PROGRESS),
        ):
            return
        self.put(change.after)

    def put(self, held: Held) -> None:
        """Have the state of a request written soon."""
        with self._lock:
            self._newest[held.record.id] = (self._state(held), self._info(held))
        self.wake()

    @staticmethod
    def _state(held: Held) -> str:
        return (
            held.record.status if held.record.status in {Status.IN_QUEUE, Status.IN_PROGRESS} else Status.ACCEPTED.value
        )

    def _info(self, held: Held) -> dict[str, Any]:
        record = held.record
        info: dict[str, Any] = {"endpoint": record.endpoint, "job_id": record.job_id or None, "attempt": record.attempt}
        if record.phase is Phase.ACCEPTED:
            info["waiting_for"] = self._waiting_for(record.endpoint) or "budget"
        progress = held.json(Long.PROGRESS)
        if progress is not None:
            info["progress"] = progress
        return info

    def once(self) -> float:
        """Returns seconds until the next look."""
        with self._lock:
            batch = [(key, self._newest.pop(key)) for key in list(self._newest)[:BATCH]]
        if not batch:
            return IDLE_S
        backend = self._app.backend
        for request_id, (state, info) in batch:
            backend.store_result(request_id, info, state)
        # The end may have been stored while we wrote (facts: the backend itself guards only SUCCESS).
        for (request_id, _), phase in zip(batch, self._ledger.phases([key for key, _ in batch]), strict=True):
            if phase is Phase.CLOSED:
                self._store_end_again(request_id)
        return 0.0 if len(batch) == BATCH else IDLE_S

    def _store_end_again(self, request_id: str) -> None:
        held = self._ledger.load(request_id, wanted=ALL, output=True)
        if held is None:
            return
        tell("state.repaired", request_id=request_id, endpoint=held.record.endpoint)
        end: CeleryEnd = celery_end(held, message_limit=self._message_limit, clock_offset=self._ledger.clock.offset)
        self._app.backend.store_result(request_id, end.result, end.state)
