"""What to make of a status read that brought an answer nobody can read, or none: is it this job, or the endpoint?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.errors import ApiError
from bridge.job.transitions.unreadable import UNREAD_TOLD_MS
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Unread:
    """It is the job's own trouble when the endpoint has answered somebody else, or /health, since it began.

    Then nobody else waits for it, it is read more and more rarely, and the table tells it and gives it up in time.
    """

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth

    def heard(self, held: Held, job_id: str, endpoint_id: str, error: ApiError, *, noted: bool = False) -> None:
        """`noted`: the endpoint's endpoint_health have heard of the error already."""
        record, endpoint = held.record, held.record.endpoint
        since = record.unread_since
        if not since or self.endpoint_health.ok_at(endpoint) <= since:
            if not noted:
                self.endpoint_health.failed(endpoint, endpoint_id, Operation.STATUS, error)
            if since and self.ledger.now() - since >= UNREAD_TOLD_MS:
                with suppress(ApiError):
                    self.endpoint_health.ask_health(endpoint, endpoint_id)
        unread = partial(
            self.ledger.table.unread,
            job_id=job_id,
            attempt=record.attempt,
            why=error.message,
            endpoint_ok_at=self.endpoint_health.ok_at(endpoint),
            delay_ms=self.endpoint_health.again_ms(endpoint, 0.25),
        )
        self.writes.put(held, unread, partial(_told, error=error.logged))


def _told(change: Change, error: str) -> None:
    record = change.record
    if change.verdict == "unreadable" or (change.verdict == "settled" and record.reason == "unreadable"):
        end = record.status if record.phase.ended else None
        named = {"request_id": record.id, "endpoint": record.endpoint, "job_id": record.job_id}
        tell("job.unreadable", **named, error=error, ended=end)
