"""RunPod's Batch API (beta; docs: `serverless/advanced-workflows/batch-jobs`), one function per operation.

Only what that page shows is relied on: the answers of create, of the summary, and of the list of requests. What else
is answered is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bridge.errors import Unreadable
from bridge.job.lenient_json import whole, word
from bridge.runpod.answers import ABSENT, JobState
from bridge.runpod.meaning import JOB_ID

if TYPE_CHECKING:
    from bridge.runpod.client import RunPodClient

#: RunPod's limits: requests of one batch, batches of one endpoint that have not ended.
REQUESTS_MAX, ACTIVE_MAX = 5_000, 10
DRAFT, FINALIZED, FAILED, CANCELLED = "DRAFT", "FINALIZED", "FAILED", "CANCELLED"
#: How the body of an append begins; the request follows, then the end.
APPEND_START, APPEND_END = b'{"requests":[', b"]}"


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as its summary tells it; an unknown word of a status is kept."""

    status: str
    total: int
    in_progress: int
    completed: int
    failed: int

    @property
    def over(self) -> bool:
        """Whether none of its requests will change any more."""
        done = self.completed + self.failed >= self.total
        return self.status in {FAILED, CANCELLED} or (self.status == FINALIZED and done)


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some of its requests, each as a job with RunPod's id of the request."""

    jobs: tuple[JobState, ...]
    total: int
    more: bool


def create(client: RunPodClient, endpoint_id: str) -> str:
    """POST /batch with nothing in it: the id of an empty draft. Nothing of a draft is ever run."""
    told = client.batch(endpoint_id, body=b"[]")
    batch_id = told.get("id")
    if not isinstance(batch_id, str) or not JOB_ID.fullmatch(batch_id):
        raise Unreadable("RunPod's answer names no batch", 200)
    return batch_id


def empty_drafts(client: RunPodClient, endpoint_id: str) -> list[tuple[str, int]]:
    """GET /batch: drafts without a request, each with RunPod's time of its creation in epoch ms.

    Nothing shows this answer: items are read as summaries, and whatever cannot be read is left out.
    """
    items = client.batch(endpoint_id).get("batches")
    found = []
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, Mapping) or item.get("status") != DRAFT or whole(item.get("requestTotal")) != 0:
            continue
        batch_id, made = item.get("id"), whole(item.get("createdAt"))
        if made and isinstance(batch_id, str) and JOB_ID.fullmatch(batch_id):
            found.append((batch_id, made))
    return found


def append(client: RunPodClient, endpoint_id: str, batch_id: str, request: bytes) -> None:
    """POST /batch/{id}/requests with one request, given as /run takes it."""
    client.batch(endpoint_id, f"/{batch_id}/requests", APPEND_START + request + APPEND_END)


def remove(client: RunPodClient, endpoint_id: str, batch_id: str, job_id: str) -> None:
    """DELETE /batch/{id}/requests/{request}: of a draft only."""
    client.batch(endpoint_id, f"/{batch_id}/requests/{job_id}", remove=True)


def finalize(client: RunPodClient, endpoint_id: str, batch_id: str) -> None:
    """POST /batch/{id}/finalize: from here on its requests may run, once each, however often this is sent."""
    client.batch(endpoint_id, f"/{batch_id}/finalize", b"{}")


def cancel(client: RunPodClient, endpoint_id: str, batch_id: str) -> None:
    """POST /batch/{id}/cancel: ends what is queued; what is in progress goes on."""
    client.batch(endpoint_id, f"/{batch_id}/cancel", b"{}")


def summary(client: RunPodClient, endpoint_id: str, batch_id: str) -> BatchState:
    """GET /batch/{id}."""
    told = client.batch(endpoint_id, f"/{batch_id}")
    status = word(told.get("status"))
    if not status:
        raise Unreadable("RunPod's answer describes no batch: no status", 200)
    names = "requestTotal", "requestInProgress", "requestCompleted", "requestFailed"
    return BatchState(status, *(whole(told.get(name)) or 0 for name in names))


def requests(client: RunPodClient, endpoint_id: str, batch_id: str, offset: int, limit: int) -> BatchPage:
    """GET /batch/{id}/requests?offset=&limit=. Pages may be shorter than asked for."""
    told = client.batch(endpoint_id, f"/{batch_id}/requests?offset={offset}&limit={limit}")
    items = told.get("requests")
    if not isinstance(items, list):
        raise Unreadable("RunPod's answer lists no requests", 200)
    jobs = tuple(_job(item) for item in items if isinstance(item, Mapping) and isinstance(item.get("id"), str))
    return BatchPage(jobs, whole(told.get("total")) or 0, told.get("hasMore") is True)


def _job(item: Mapping[str, Any]) -> JobState:
    error = item.get("error")
    return JobState(
        job_id=item["id"],
        status=word(item.get("status")) or "IN_QUEUE",
        execution_time=_between(item.get("startedAt"), item.get("completedAt")),
        output=item.get("output", ABSENT),
        error=error if isinstance(error, str) or error is None else str(error),
    )


def _between(started: object, completed: object) -> int | None:
    """Milliseconds between two RFC 3339 times; None where one is missing or no time."""
    try:
        begin, end = (datetime.fromisoformat(str(text)) for text in (started, completed))
        return max(0, round((end - begin).total_seconds() * 1000))
    except (ValueError, TypeError):
        return None
