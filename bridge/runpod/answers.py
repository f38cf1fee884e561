"""What RunPod answers, in our words: snake_case begins here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class _Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


#: An answer had no output at all, which is not the same as `null`.
ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class JobState:
    """One job as RunPod describes it. Times in ms; an unknown status word is kept as it came."""

    job_id: str
    status: str
    delay_time: int | None = None
    execution_time: int | None = None
    worker_id: str | None = None
    retries: int | None = None
    output: Any = ABSENT
    error: str | None = None
    odd: tuple[str, ...] = ()  # members that said what cannot be, and are left out


@dataclass(frozen=True, slots=True)
class Chunk:
    """One yield of a generator handler."""

    output: Any
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StreamPage:
    """What one /stream call drained. Destructive: nobody gets these chunks again."""

    status: str
    chunks: tuple[Chunk, ...] = ()
    output: Any = ABSENT


@dataclass(frozen=True, slots=True)
class Purged:
    """RunPod's answer to /purge-queue."""

    removed: int
    status: str


@dataclass(frozen=True, slots=True)
class Health:
    """RunPod's counters of an endpoint; absent ones count as 0."""

    jobs: Mapping[str, int]
    workers: Mapping[str, int]
