"""What an emulated endpoint is like: RunPod's published figures as defaults, its open questions as settings.

Sources are named by the RunPod page that tells a figure ("send requests", "endpoint configurations",
"operation reference"). A setting marked *open* is one that RunPod documents nowhere or in two ways.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """How often one operation may be called: `rate` calls per 10 s, `concurrent` at once (None: no such limit)."""

    rate: int
    concurrent: int | None = None


#: Per endpoint and operation, as published ("send requests", rate limits). /health and /retry have no row.
PUBLISHED_LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "run": Limit(1000, 200),
        "runsync": Limit(2000, 400),
        "status": Limit(2000, 400),
        "stream": Limit(2000, 400),
        "cancel": Limit(100, 20),
        "purge-queue": Limit(2),
        "openai": Limit(2000, 400),
        "requests": Limit(10, 2),
    }
)

#: Operations that share another's row of the table.
LIMITED_AS: Mapping[str, str] = MappingProxyType({"status-sync": "status"})


@dataclass(frozen=True, slots=True)
class Handler:
    """An unmodified handler: its file, the Python that runs it (another environment's), arguments of its program."""

    file: Path
    python: str = sys.executable
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """One emulated endpoint. Times are virtual seconds unless the name says ms; sizes are bytes."""

    # --- RunPod workers and scaling ("endpoint configurations")
    workers_min: int = 0
    workers_max: int = 3
    #: Jobs one built-in RunPod worker runs at once. A real handler decides for itself.
    jobs_per_worker: int = 1000
    #: From the decision to start a built-in RunPod worker to its first job.
    cold_start_s: float = 0.0
    idle_timeout_s: float = 5.0
    #: A RunPod worker that died or fell silent is noticed after this long; its jobs are then sent out again.
    lost_after_s: float = 20.0
    #: How often the platform sends a job out again after a lost RunPod worker, before it fails it.
    platform_retries: int = 1
    #: A real handler process that exited is started again after this long.
    restart_s: float = 1.0

    # --- how long things last
    execution_timeout_ms: int = 600_000
    ttl_ms: int = 86_400_000
    #: Enforcement is coarse: live runs ended about 3 to 9 s past their limit.
    execution_timeout_lag_s: float = 3.0
    #: A finished job of /run, and of /runsync, can be asked about for this long.
    run_retention_s: float = 1800.0
    sync_retention_s: float = 60.0

    # --- waiting operations; `wait` is taken in ms, 1000 to 300000
    runsync_wait_s: float = 90.0
    status_sync_wait_s: float = 90.0
    stream_hold_s: float = 10.0
    #: At most so many chunks in one answer of /stream.
    page: int = 200

    # --- webhooks
    webhook_tries: int = 3
    webhook_interval_s: float = 10.0
    #: Real seconds a receiver has to answer.
    webhook_timeout_s: float = 10.0
    #: Captured bodies carry `input` and `webhook` beside the /status document.
    webhook_echo: bool = True
    #: *open*: statuses that are told. CANCELLED is claimed by one report only.
    webhook_on: frozenset[str] = frozenset({"COMPLETED", "FAILED", "TIMED_OUT"})

    # --- limits
    limits: Mapping[str, Limit] = field(default_factory=lambda: PUBLISHED_LIMITS)
    #: The effective rate is at least running RunPod workers times this ("send requests").
    requests_per_worker: int = 0
    run_body: int = 10 * MIB
    runsync_body: int = 20 * MIB
    #: A text that a generator yields is told in chunks of at most so many bytes ("operation reference", stream).
    chunk_body: int = 1_000_000

    #: Whether the built-in handler gives its input back without `mock_return`; off, it says "Hello World!" as RunPod's.
    echo: bool = True

    # --- the Batch API, beta ("batch jobs")
    #: Whether the endpoint has it; without it every call of it is 404.
    batch: bool = True
    batches_active: int = 10
    batch_requests: int = 5_000
    batch_queued: int = 50_000
    #: *open*: the order of a batch's requests. The console's is failed, in progress, queued, completed.
    batch_order: Literal["console", "added", "id"] = "console"
    #: *open*: requests on a page of results at most, and without `?limit=`.
    batch_page: int = 50
    batch_page_most: int = 100

    # --- streams
    #: Whether the built-in handler is a generator that yields the items of `mock_return` (`--generator` of RunPod's).
    generator: bool = False
    #: Whether a built-in generator job's final output is the list of its chunks (`return_aggregate_stream`).
    aggregate_streams: bool = False
    #: *open*: some answers of /stream carry the final output beside an empty last page.
    stream_final_output: bool = False

    # --- further open questions
    #: Seconds told in `Retry-After` with a 429 for a broken limit; None sends no header.
    retry_after_s: float | None = None
    #: 429 also when over 50 jobs wait and over RunPod workers x 500 (told until 2025-10); off by default.
    queue_limit: bool = False
    #: `input` missing, null or `{}`. Documented as required; live runs accepted it, and the job failed later.
    empty_input: Literal["reject", "accept"] = "reject"
    #: Whether a finished /runsync job is kept for as long as its `?wait`, where that is longer; one page says not.
    retention_follows_wait: bool = True
    #: A policy below the minimum (executionTimeout 5000 ms, ttl 10000 ms).
    below_minimum: Literal["clamp", "reject", "accept"] = "clamp"
    #: A policy over seven days, which is documented as the most.
    above_maximum: Literal["reject", "accept"] = "reject"
    #: `wait` outside 1000 to 300000 ms.
    wait_out_of_range: Literal["clamp", "reject"] = "clamp"
    #: What a job that hit its executionTimeout is called. Live runs gave FAILED, one page says TIMED_OUT.
    execution_timeout_status: Literal["FAILED", "TIMED_OUT"] = "FAILED"
    #: What becomes of a job at its ttl: live and one page say it vanishes, another says TIMED_OUT.
    ttl_status: Literal["gone", "TIMED_OUT"] = "gone"
    #: What /status says of a job that /purge-queue removed.
    purged: Literal["gone", "CANCELLED"] = "gone"
    #: /cancel of a job that has ended: its true status, or 404.
    cancel_ended: Literal["status", "not_found"] = "status"
    #: A progress update that comes after the result once set a job back to IN_PROGRESS for good.
    late_progress: Literal["ignore", "overwrite"] = "ignore"
    #: Text of a 401 (sent as text/plain).
    unauthorised_body: str = ""

    def __post_init__(self) -> None:
        """Refuse figures that no endpoint can have."""
        if not 0 <= self.workers_min <= self.workers_max:
            raise ValueError(f"workers_min {self.workers_min} must lie between 0 and workers_max {self.workers_max}")
        for name in (
            "jobs_per_worker",
            "page",
            "batch_page",
            "batch_page_most",
            "chunk_body",
            "webhook_tries",
            "execution_timeout_ms",
            "ttl_ms",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name.endswith("_s") and value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")
