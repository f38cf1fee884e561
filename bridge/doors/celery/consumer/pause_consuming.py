"""Stops the bridge worker from taking more off `bridge.run` while a high-water mark is passed, and lets it go on after.

Only the consumer of that one queue is cancelled: control and finish go on, and what was prefetched is still accepted.
The ledger is asked in a thread of its own, because a Redis that hangs must not hang the worker's event loop; queues
are changed on the loop, the only thread that may touch the broker's connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from bridge.doors.celery import wait_for_ledger
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer

    from bridge.engine.accept.back_pressure import Pressure

QUEUE = "bridge.run"
#: Seconds between looks; what this worker itself has taken makes it look at once.
LOOK_S = 0.1


class BackPressure(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of Celery's consumer: started anew with each connection; what was cancelled stays so meanwhile."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    #: This process' own.
    pressure: Callable[[], Pressure]

    def __init__(self, consumer: Consumer, **_kwargs: Any) -> None:
        """Celery builds it once for each consumer."""
        self._reason: str | None = None
        self._cancelled = False
        self._thread: threading.Thread | None = None
        self._consumer: Consumer | None = None
        super().__init__(consumer)

    def start(self, consumer: Consumer) -> None:
        """Begin to look."""
        self._consumer = consumer
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="bridge-intake", daemon=True)
            self._thread.start()

    def stop(self, _consumer: Consumer) -> None:
        """The connection is gone, or the worker ends."""
        self._consumer = None

    def _look(self) -> None:
        pressure = self.pressure()
        while not wait_for_ledger.stopping.is_set():
            pressure.full.wait(LOOK_S)
            self._reason = pressure.closed()
            consumer = self._consumer
            if consumer is not None and bool(self._reason) != self._cancelled:
                consumer.call_soon(self._apply, consumer)
                wait_for_ledger.stopping.wait(LOOK_S)

    def _apply(self, consumer: Consumer) -> None:
        tasks, reason = consumer.task_consumer, self._reason
        if tasks is None:
            return
        if reason and not self._cancelled and tasks.consuming_from(QUEUE):
            consumer.cancel_task_queue(QUEUE)
            self._cancelled = True
            tell("door.closed", reason=reason)
        elif not reason and self._cancelled:
            consumer.add_task_queue(QUEUE)
            self._cancelled = False
            tell("door.opened")


def step(pressure: Callable[[], Pressure]) -> type[BackPressure]:
    """The step for one app."""
    return type("BoundIntake", (BackPressure,), {"pressure": staticmethod(pressure)})
