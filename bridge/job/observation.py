"""One observation of one job, in the table's words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bridge.job.record import Record

#: Milliseconds that RunPod's clock may have been ahead, and 1 % of the whole.
SLACK_MS = 2_000


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation of one job, in the table's words. `attempt` was current when the call STARTED."""

    job_id: str
    status: str
    attempt: int
    delay_time: int | None = None
    execution_time: int | None = None
    worker_id: str | None = None
    retries: int | None = None
    output: str | None = None  # JSON text; None when the answer had none
    ref: str | None = None  # JSON: where the object store has that output
    error: str | None = None
    odd: tuple[str, ...] = ()  # RunPod's members that said what cannot be, and are left out
    nonfinite: int = 0  # NaN and infinities of the output, which stand in it as null
    chunks: tuple[Any, ...] | None = None  # outputs of the attempt's recorded chunks, where the end may need them
    chunks_to: int = 0  # how many had been recorded before they were read: who has read chunks may have deleted them

    def believed(self, age_ms: int) -> Observation:
        """Without times longer than the job can have lived: no GPU ran for them, and nothing is learned from them."""
        most = age_ms + age_ms // 100 + SLACK_MS
        too_long = {
            name
            for name, ms in (("delayTime", self.delay_time), ("executionTime", self.execution_time))
            if ms is not None and ms > most
        }
        if not too_long:
            return self
        return replace(
            self,
            delay_time=None if "delayTime" in too_long else self.delay_time,
            execution_time=None if "executionTime" in too_long else self.execution_time,
            odd=tuple(sorted({*self.odd, *too_long})),
        )


def most_ms(record: Record, now: int) -> int:
    """How long a job of this request can have lived at most."""
    return now - (record.sent_at if record.sent_at and record.submits <= 1 else record.accepted_at)
