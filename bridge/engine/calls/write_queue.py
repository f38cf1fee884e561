"""Where RunPod's answers wait for the ledger: changes that calls came back with, written many at a time by one thread.

A change that was put here is a fact (a job id, an end) and must reach the ledger: while Redis is away it is held here
and tried again, however long that takes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.errors import LedgerError, LedgerUnavailable
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.ledger.records.write import Make

BATCH = 64
#: Seconds that a change waits for company when the last one did not come alone: fewer round trips, and far below
#: what anybody notices.
GATHER_S = 0.002
WAIT_S, WAIT_MAX_S = 0.1, 2.0
#: So many changes may wait: an answer that stands only in this process is lost with it, and may be paid for again.
BACKLOG_MAX = 4 * BATCH
#: Seconds until another look of those who wait for `room`.
FULL_S = 0.02
#: Seconds until who waits for a `write` looks whether anybody writes.
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Put:
    held: Held
    make: Make
    done: Callable[[Change], None] | None = None
    weight: float = 0.0
    answer: queue.SimpleQueue[Change | None] | None = None  # of who waits

    def over(self, change: Change | None) -> None:
        """Tell who waits; None: it was not written."""
        if self.answer is not None:
            self.answer.put(change)


class WriteQueue:
    """`put` from any thread; `noticed` hears of every change that was written."""

    def __init__(self, ledger: Ledger, noticed: Callable[[Change], None], name: str = "writes") -> None:
        """`noticed` must be quick: it runs between two batches."""
        self._name = name
        self._ledger = ledger
        self._noticed = noticed
        self._queue: queue.SimpleQueue[_Put | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._give_up_at = float("inf")

    def start(self) -> None:
        """Begin writing."""
        self._thread = threading.Thread(target=self._run, name=f"bridge-{self._name}", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> bool:
        """Write what is there, for as long as the grace lasts. Whether all of it was written."""
        self._give_up_at = time.monotonic() + grace_s
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(grace_s)
            return not self._thread.is_alive()
        return True

    def put(self, held: Held, make: Make, done: Callable[[Change], None] | None = None) -> None:
        """Have a change written soon; `done` hears how it went."""
        self._queue.put(_Put(held, make, done))

    def write(self, held: Held, make: Make, weight: float = 0.0) -> Change | None:
        """Have a change written and wait for it; None when it cannot be made, or not before this process ends.

        `weight`: its part of what one batch holds at most. Changes that wait are written in their order, so whoever
        writes many large ones, one after another, lets everybody else's pass between them.
        """
        answer: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._queue.put(_Put(held, make, weight=weight, answer=answer))
        while True:
            try:
                return answer.get(timeout=LOOK_S)
            except queue.Empty:
                if self._thread is None or not self._thread.is_alive():
                    return None if answer.empty() else answer.get()  # it may have been its last

    def notice(self, change: Change) -> None:
        """A change that was written elsewhere, for those who hear of them here."""
        self._noticed(change)

    def backlog(self) -> int:
        """How many changes wait."""
        return self._queue.qsize()

    def room(self) -> int:
        """How many more calls to RunPod may leave whose answers are to be written; 0 for none at the moment."""
        return max(0, BACKLOG_MAX - self.backlog())

    def _run(self) -> None:
        ending, busy = False, False
        while not (ending and self._queue.empty()):  # what was written last may have brought another change
            batch: list[_Put] = []
            weight = 0.0
            item = self._queue.get()
            if busy and self._give_up_at == float("inf"):
                time.sleep(GATHER_S)
            while item is not None:
                batch.append(item)
                weight += item.weight
                if len(batch) >= BATCH or weight >= 1 or self._queue.empty():
                    break
                item = self._queue.get()
            ending, busy = ending or item is None, len(batch) > 1
            if batch:
                self._write(batch)

    def _write(self, batch: list[_Put]) -> None:
        wait = WAIT_S
        while True:
            try:
                changes = self._ledger.change_many([(put.held, put.make) for put in batch])
                break
            except LedgerUnavailable as error:
                tell("ledger.unavailable", error=str(error), waiting=len(batch) + self.backlog())
                if time.monotonic() >= self._give_up_at:
                    for put in batch:
                        put.over(None)
                    return
                time.sleep(wait)
                wait = min(wait * 2, WAIT_MAX_S)
            except Exception as error:  # noqa: BLE001  (nobody else's change may wait for one that cannot be made)
                self._one_by_one(batch, error)
                return
        self._told(batch, changes)

    def _one_by_one(self, batch: list[_Put], error: Exception) -> None:
        """One change of the batch cannot be made: the others must not suffer from it (HARDENING 14)."""
        if len(batch) == 1:
            record = batch[0].held.record
            tell(
                "record.failed",
                request_id=record.id,
                endpoint=record.endpoint,
                error=f"{type(error).__name__}: {error}",
            )
            with contextlib.suppress(LedgerError):
                self._ledger.fault_noted(record.id, f"{type(error).__name__}: {error}")
            batch[0].over(None)
            return
        for put in batch:
            self._write([put])

    def _told(self, batch: list[_Put], changes: list[Change]) -> None:
        for put, change in zip(batch, changes, strict=True):
            put.over(change)
            for hears in (self._noticed, put.done):  # each for itself: `done` may bring the end
                try:
                    if hears is not None:
                        hears(change)
                except Exception as error:  # noqa: BLE001  (it is written; who is told must not end this thread)
                    tell("call.failed", call="noticed", error=f"{type(error).__name__}: {error}")
