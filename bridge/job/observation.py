"""One observation of one job, in the table's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge.job.record import dumps


@dataclass(frozen=True, slots=True)
class Heard:
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
    chunks: tuple[Any, ...] | None = None  # outputs of the attempt's recorded chunks, where the end may need them


def heard_json(value: object) -> str:
    """An output as JSON text. NaN and infinities, which JSON does not have, become null."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(_without_nan(value))


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None  # noqa: PLR0124
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
