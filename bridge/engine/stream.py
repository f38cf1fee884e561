"""Reads streams: one leased reader a job, every chunk recorded and numbered before it is passed on (I13).

RunPod's /stream is a destructive read that holds the connection while there is nothing. So its calls have threads and a
budget of their own, and status reads never wait behind them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.errors import ApiError, JobUnknown, Unanswered
from bridge.job.words import is_end
from bridge.runpod.operations import Operation

if TYPE_CHECKING:
    from bridge.engine.calls import Callers
    from bridge.engine.commits import Commits
    from bridge.engine.vitals import Vitals
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient

IDLE_S = 1.0
#: RunPod's shortest hold. Short holds let few threads serve many streams.
HOLD_MS = 1_000
#: Milliseconds until the next read: after a page with chunks, after an empty one, after a failed one.
AGAIN_MS, EMPTY_MS, FAILED_MS = 50, 250, 1_000


@dataclass(frozen=True, slots=True)
class Stream:
    """One `once()` takes streams that are due, as many as there are free threads."""

    ledger: Ledger
    commits: Commits
    vitals: Vitals
    callers: Callers
    client_of: Callable[[str], RunPodClient]
    endpoint_id_of: Callable[[str], str]
    lease_ms: int

    def once(self) -> float:
        """Returns seconds until the next look."""
        free = self.callers.free
        if not free:
            return 0.2
        taken, wait_ms = self.ledger.streams(free, lease_ms=self.lease_ms)
        for held in taken:
            self.callers.start(self._read, held)
        return IDLE_S if wait_ms < 0 else min(IDLE_S, wait_ms / 1000)

    def _read(self, held: Held) -> None:
        token = secrets.token_hex(8)
        table, endpoint = self.ledger.table, held.record.endpoint
        endpoint_id = self.endpoint_id_of(endpoint)
        allowed, _ = self.vitals.may_call(endpoint, token, submitting=False)
        if allowed == 0:
            return  # the endpoint is away or closed: the lease ends, and it is due again
        grant = self.vitals.budget.acquire(endpoint_id, Operation.STREAM, 1, token=token, slot_ms=self.lease_ms)
        if not grant.count:
            return  # the lease ends, and it is due again
        try:
            change = self.ledger.change(held, partial(table.stream_reading, reader=token))
            if change.verdict == "reading":
                self._page(change.after)
        finally:
            self.vitals.budget.release(endpoint_id, Operation.STREAM, token, used=1, unused=0)

    def _page(self, held: Held) -> None:
        record, table = held.record, self.ledger.table
        try:
            page = self.client_of(record.endpoint).stream(record.endpoint_id, record.job_id, HOLD_MS)
        except JobUnknown:
            self.commits.put(held, partial(table.stream_read, chunks=(), again_ms=None, lost=False))
        except ApiError as error:
            self.vitals.failed(record.endpoint, record.endpoint_id, Operation.STREAM, error)
            # A page may have been in transit: RunPod has dropped it, and nobody can read it again.
            lost = isinstance(error, Unanswered)
            self.commits.put(held, partial(table.stream_read, chunks=(), again_ms=FAILED_MS, lost=lost))
        else:
            self.vitals.ok(record.endpoint)
            chunks = [(chunk.output, chunk.metrics) for chunk in page.chunks]
            over = is_end(page.status) and not chunks  # a terminal status may come before the last chunks
            again = None if over else AGAIN_MS if chunks else EMPTY_MS
            self.commits.put(held, partial(table.stream_read, chunks=chunks, again_ms=again, lost=False))
