"""Turns what the client heard into the table's words; the output becomes JSON text once, here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.job.lenient_json import spelled
from bridge.job.observation import Observation
from bridge.runpod.answers import ABSENT

if TYPE_CHECKING:
    from bridge.runpod.answers import JobState


def observation_of(answer: JobState, attempt: int) -> Observation:
    """`attempt` is the one that was current when the call started."""
    output, nonfinite = (None, 0) if answer.output is ABSENT else spelled(answer.output)
    return Observation(
        job_id=answer.job_id,
        status=answer.status,
        attempt=attempt,
        delay_time=answer.delay_time,
        execution_time=answer.execution_time,
        worker_id=answer.worker_id,
        retries=answer.retries,
        output=output,
        error=answer.error,
        odd=answer.odd,
        nonfinite=nonfinite,
    )
