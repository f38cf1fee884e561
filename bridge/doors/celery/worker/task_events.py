"""Celery's task events for Flower, `celery events` and the like: told from the ledger, once a request.

A job runs in no slot of a worker, so the events that Celery sends of itself would speak of the bridge's two messages.
Of those only task-received is left, which the worker sends that takes the request. When the job has started, how it
ended, that it is tried again: each of these is an event of the ledger, and one bridge worker at a time reads them
behind a cursor and says the same in Celery's words. The cursor is moved after the broker took them, so whoever dies
may have told something twice, and nothing is told that was not so.

Nothing of this runs while no worker has been asked for task events (`-E`, or Flower's `enable_events`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.events import EventDispatcher
from celery.utils.saferepr import saferepr

from bridge.doors.celery.worker.listeners import task_events_wanted
from bridge.engine.tell.celery_result import failure
from bridge.job.enums import EventName, Sink, Status
from bridge.runtime import broker_connection
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker import WorkController

    from bridge.job.record import Record
    from bridge.ledger import Ledger

#: Seconds between looks at the stream; at whether somebody listens, or another worker's turn has ended.
LOOK_S, IDLE_S = 0.2, 1.0
#: An end is told when its result can be read; where that cannot be stored, after so many seconds all the same.
PATIENCE_S = 2.0
#: Characters of a result or an error, as Celery's own.
_SHOWN = 1_024


class TaskEvents:
    """One `once()` sends a batch and moves the cursor."""

    def __init__(self, app: Celery, ledger: Ledger, hostname: str, wanted: Callable[[], bool]) -> None:
        """`hostname` is the worker's that tells; `wanted` says whether it has been asked for task events."""
        self._app = app
        self._ledger = ledger
        self._monitors = ledger.monitors
        self._hostname = hostname
        self._wanted = wanted
        self._connection: Any = None
        self._dispatcher: Any = None
        self._has_turn = False

    def begin(self) -> None:
        """Before the worker takes its first message: what comes from now on is told."""
        if self._wanted():
            self._monitors.take()

    def once(self) -> float:
        """Returns seconds until the next look."""
        if not self._wanted():
            self._leave()
            return IDLE_S
        cursor = self._monitors.take()
        self._has_turn = cursor is not None
        if cursor is None:
            return IDLE_S
        last, sent, waits = self._send(self._monitors.behind(cursor))
        if last:
            self._monitors.told(last)
        return LOOK_S if waits or not sent else 0.0

    def _send(self, entries: list[tuple[str, dict[str, Any] | None]]) -> tuple[str, int, bool]:
        """The last entry that is done with, how many were, and whether the next one waits for its result."""
        records = self._ledger.load_many(list({event["subject"] for _, event in entries if event}))
        last, sent, waits = "", 0, False
        try:
            for entry_id, event in entries:
                held = records.get(event["subject"]) if event else None
                if event is not None and held is not None and held.record.door == "celery":
                    if _too_early(event, held.record):
                        waits = True
                        break
                    for name, fields in self._told(event, held.record):
                        self._dispatch().send(name, uuid=event["subject"], **fields)
                last, sent = entry_id, sent + 1
            if self._dispatcher is not None:
                self._dispatcher.flush(errors=False)
        except Exception:
            self._disconnect()
            raise
        return last, sent, waits

    @staticmethod
    def _told(event: Mapping[str, Any], record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            yield from in_celerys_words(event, whole_document=bool(record.whole_document))
        except (KeyError, TypeError, ValueError):  # somebody else has written there
            tell("events.foreign", entry=str(event.get("id"))[:200], fields="data")

    def _dispatch(self) -> Any:
        """A dispatcher of its own: the worker's keeps events in memory until its loop comes round."""
        if self._dispatcher is None:
            self._connection = self._app.connection_for_write()
            self._connection.ensure_connection(max_retries=1, timeout=5)
            self._dispatcher = EventDispatcher(
                self._connection,
                self._hostname,
                app=self._app,
                buffer_while_offline=False,
                buffer_group={"task"},  # together in one message
                buffer_limit=10_000,
            )
        return self._dispatcher

    def _leave(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._monitors.give_back()
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection, self._dispatcher = self._connection, None, None
        broker_connection.close(connection)

    def close(self) -> None:
        """Give the turn and the connection back."""
        self._leave()


def _too_early(event: Mapping[str, Any], record: Record) -> bool:
    ends = event["data"].get("completed") is True and Sink.CELERY in record.waiting_sinks
    return ends and time.time() - _moment(event.get("time")) < PATIENCE_S


def in_celerys_words(event: Mapping[str, Any], *, whole_document: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an event of a request is in Celery's words; nothing for most of them."""
    name, data = str(event["type"]).rpartition(".")[2], event["data"]
    said: dict[str, Any] = {"timestamp": _moment(event["time"])}
    if name == EventName.STARTED and data["attempt"] == 1 and data["round"] == 1:
        yield "task-started", said
    elif name == EventName.RETRIED:
        yield "task-retried", said | {"exception": f"{data['status']}: {data['reason']}", "traceback": ""}
    elif data.get("completed") is not True:
        return
    elif data["status"] == Status.COMPLETED:
        output = data
        if not whole_document:
            output = data["output"] if "output" in data else {"output_ref": data["output_ref"]}
        runtime_s = (data["executionTime"] or 0) / 1000
        yield "task-succeeded", said | {"result": saferepr(output, _SHOWN), "runtime": runtime_s}
    elif data["status"] == Status.CANCELLED:
        yield "task-revoked", said | {"terminated": data["job_id"] is not None, "signum": None, "expired": False}
    else:
        yield "task-failed", said | {"exception": repr(failure(data))[:_SHOWN], "traceback": ""}


def _moment(stamp: Any) -> float:
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()


def task_events_of(worker: WorkController, ledger: Ledger) -> TaskEvents:
    """For this worker."""

    def wanted() -> bool:
        dispatcher = getattr(getattr(worker, "consumer", None), "event_dispatcher", None)
        return bool(worker.task_events) if dispatcher is None else task_events_wanted(dispatcher)

    return TaskEvents(worker.app, ledger, worker.hostname, wanted)
