"""Celery's view of a request on its way: ACCEPTED, IN_QUEUE, IN_PROGRESS; never written over an end.

Only the newest state of a request is written. Losing one costs nothing: the next observation writes again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery.backends.redis import RedisBackend

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
IDLE_S, AGAIN_S = 1.0, 0.2


class States:
    """`changed` from any thread; `once` writes what is newest."""

    def __init__(
        self, ledger: Ledger, app: Celery, waiting_for: Callable[[str], str | None], celery_limit: int
    ) -> None:
        """`waiting_for` says why an endpoint's requests wait."""
        self._ledger = ledger
        self._app = app
        self._waiting_for = waiting_for
        self._celery_limit = celery_limit
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[str, dict[str, Any]]] = {}
        self._written: set[str] = set()  # states just written, whose requests may have ended meanwhile
        self.wake: Callable[[], None] = lambda: None

    def changed(self, change: Change) -> None:
        """A request that Celery knows has a new status."""
        before, record = change.before, change.record
        if record.door != "celery" or record.silent or record.phase.ended or change.empty:
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
        if batch:
            ended = self._ended([key for key, _ in batch])
            batch = [(key, state) for key, state in batch if key not in ended]
        if batch:
            self._store(batch)
            self._written.update(key for key, _ in batch)
        self._look_again()
        return 0.0 if len(batch) == BATCH else AGAIN_S if self._written else IDLE_S

    def _look_again(self) -> None:
        """An end may have been stored while we wrote (facts: the backend itself guards only SUCCESS).

        A request that ended meanwhile is looked at until its end has been told, and then told once more.
        """
        ended = self._ended(list(self._written))
        for request_id, phase in ended.items():
            if phase is not Phase.SETTLED:
                self._store_end_again(request_id)
        self._written = {request_id for request_id, phase in ended.items() if phase is Phase.SETTLED}

    def _ended(self, request_ids: list[str]) -> dict[str, Phase | None]:
        phases = self._ledger.phases(request_ids) if request_ids else []
        found = zip(request_ids, phases, strict=True)
        return {key: phase for key, phase in found if phase is None or phase.ended}

    def _store(self, batch: list[tuple[str, tuple[str, dict[str, Any]]]]) -> None:
        backend = self._app.backend
        if isinstance(backend, RedisBackend):
            # As its `set` does for one, in one round trip for all; that no end is covered is seen to below.
            with backend.client.pipeline(transaction=False) as pipe:
                for request_id, (state, info) in batch:
                    key, value = backend.get_key_for_task(request_id), backend.encode(_meta(request_id, state, info))
                    pipe.set(key, value, ex=backend.expires or None)
                    pipe.publish(key, value)
                pipe.execute()
        elif getattr(backend, "persistent", True):  # rpc:// has no place for a state on the way
            for request_id, (state, info) in batch:
                backend.store_result(request_id, info, state)

    def _store_end_again(self, request_id: str) -> None:
        held = self._ledger.load(request_id, wanted=ALL, output=True)
        if held is None:
            return
        tell("state.repaired", request_id=request_id, endpoint=held.record.endpoint)
        end: CeleryEnd = celery_end(held, limit=self._celery_limit, clock_offset=self._ledger.clock.offset)
        self._app.backend.store_result(request_id, end.result, end.state)


def _meta(request_id: str, state: str, info: dict[str, Any]) -> dict[str, Any]:
    """What Celery's backends keep of a task (`Backend._get_result_meta`)."""
    return {
        "status": state,
        "result": info,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": request_id,
    }
