"""One job as the platform keeps it, and the documents that RunPod shows of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from bridge.emulator.model.clock import Timer

IN_QUEUE, IN_PROGRESS = "IN_QUEUE", "IN_PROGRESS"
COMPLETED, FAILED, CANCELLED, TIMED_OUT = "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"
TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED, TIMED_OUT})

#: No value at all, where null is a value ("job states": `output` may be absent on COMPLETED).
ABSENT: Any = object()


class Job:
    """A job. Times are virtual seconds of the emulator's clock; durations that are shown are ms."""

    __slots__ = (
        "chunks",
        "created",
        "delay_ms",
        "error",
        "execution_ms",
        "execution_timeout_ms",
        "extra",
        "gone",
        "id",
        "input",
        "keep_s",
        "life",
        "low_priority",
        "output",
        "queued",
        "retries",
        "run_timer",
        "runs",
        "started",
        "status",
        "sync",
        "ttl_ms",
        "waited_s",
        "waiting",
        "watched",
        "webhook",
        "worker",
    )

    def __init__(self, id: str, input: Any, now: float, *, sync: bool) -> None:
        self.id = id
        self.input = input
        self.sync = sync
        self.status = IN_QUEUE
        self.created = self.queued = now
        self.started: float | None = None
        self.delay_ms: int | None = None
        self.execution_ms: int | None = None
        self.execution_timeout_ms = 0
        self.ttl_ms = 0
        self.low_priority = False
        self.webhook: str | None = None
        #: s3Config, webhookV2 and the like: handed to the RunPod worker, never shown.
        self.extra: dict[str, Any] | None = None
        self.output: Any = ABSENT
        self.error: str | None = None
        self.retries = 0
        self.runs = 0
        self.worker: Any = None
        #: Forgotten by the platform: purged, past its ttl or its retention, or vanished by a fault.
        self.gone = False
        #: Seconds a finished job is kept, when /status?ttl= shortened it.
        self.keep_s: float | None = None
        #: Seconds that the caller of /runsync asked to wait: its result is kept at least as long.
        self.waited_s = 0.0
        self.life: Timer | None = None
        self.run_timer: Timer | None = None
        self.chunks: deque[dict[str, Any]] | None = None
        self.waiting: list[asyncio.Future[None]] | None = None
        #: Told when it ends or is forgotten: the batch that it belongs to.
        self.watched: Callable[[Job], None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is in a terminal status."""
        return self.status in TERMINAL

    def wake(self) -> None:
        """Wake every call that waits for this job, and tell its batch."""
        if self.watched is not None:
            self.watched(self)
        waiting, self.waiting = self.waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    def document(self) -> dict[str, Any]:
        """Return the /status document.

        `delayTime` and `workerId` from IN_PROGRESS on, `executionTime` once ended, `retries` only after the
        platform sent the job out again; `output` while IN_PROGRESS is the last progress update.
        """
        shown: dict[str, Any] = {}
        if self.delay_ms is not None:
            shown["delayTime"] = self.delay_ms
        if self.error is not None:
            shown["error"] = self.error
        if self.execution_ms is not None:
            shown["executionTime"] = self.execution_ms
        shown["id"] = self.id
        if self.output is not ABSENT:
            shown["output"] = self.output
        if self.retries:
            shown["retries"] = self.retries
        shown["status"] = self.status
        if self.worker is not None:
            shown["workerId"] = self.worker
        return shown

    def brief(self) -> dict[str, Any]:
        """Return `{"id", "status"}`: the answer of /run, /cancel and /retry."""
        return {"id": self.id, "status": self.status}
