"""What RunPod answers, in our words: snake_case begins here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.errors import Unreadable
from bridge.job.lenient_json import whole, word

#: Workers or jobs of an endpoint that are believed at most: limits are made of them, in numbers that Lua spells whole.
COUNT_MAX = 10**9


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


#: What is left out of an answer when it cannot be: its output must not be lost for it.
_MEMBERS: Mapping[str, Callable[[object], Any]] = {
    "delayTime": whole,
    "executionTime": whole,
    "workerId": word,
    "retries": whole,
}


def job_of(job_id: str, told: dict[str, Any]) -> JobState:
    """What was told of this job, and no other."""
    if (told.get("id") or job_id) != job_id:
        raise Unreadable(f"RunPod's answer is about another job: {told['id'][:80]}", 200)
    return job({**told, "id": job_id})


def job(told: dict[str, Any]) -> JobState:
    """One job. Members that cannot be are left out, and named in `odd`."""
    read = {name: kind(told.get(name)) for name, kind in _MEMBERS.items()}
    return JobState(
        job_id=str(told.get("id") or ""),
        # A submit that names an id is answered, whatever else it says.
        status=word(told.get("status")) or "IN_QUEUE",
        delay_time=read["delayTime"],
        execution_time=read["executionTime"],
        worker_id=read["workerId"],
        retries=read["retries"],
        output=told.get("output", ABSENT),
        error=text(told.get("error")),
        odd=tuple(name for name, value in read.items() if value is None and told.get(name) is not None),
    )


def chunk(item: object) -> Chunk:
    """One of a page; of unforeseen form it is kept as it is."""
    if not isinstance(item, dict) or "output" not in item:
        return Chunk(item)
    metrics = item.get("metrics")
    return Chunk(item["output"], metrics if isinstance(metrics, dict) else None)


def counters(value: object) -> dict[str, int]:
    """Of jobs or workers, by name."""
    return {name: min(whole(count) or 0, COUNT_MAX) for name, count in value.items()} if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """What should be a text, as one."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
