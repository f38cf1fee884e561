"""More than one job of one request: after a lost answer, both may run (HARDENING 3)."""

from __future__ import annotations

import json
from typing import Any

from bridge.job.change import Draft
from bridge.job.enums import Step, is_end
from bridge.job.record import Long


def jobs_of(draft: Draft) -> list[dict[str, Any]]:
    """All of them, `{job_id, endpoint_id, attempt, status}`; empty while there is only one."""
    text = draft.text(Long.JOBS)
    return json.loads(text) if text else []


def forget_job(draft: Draft, job_id: str, status: str) -> None:
    """Note how one of them stands: its end, or GONE."""
    jobs = jobs_of(draft)
    for job in jobs:
        if job["job_id"] == job_id:
            job["status"] = status
    if jobs:
        draft.keep(Long.JOBS, jobs)


def alive_job(draft: Draft) -> dict[str, Any] | None:
    """One that may still complete."""
    return next(filter(_alive, jobs_of(draft)), None)


def cancel_others(draft: Draft) -> None:
    """The request has its result: every other job that may run is to be cancelled."""
    for job in jobs_of(draft):
        if _alive(job) and job["job_id"] != draft.record.job_id:
            draft.cancel_job(job["job_id"], job["endpoint_id"])


def follow(draft: Draft, job: dict[str, Any]) -> Draft:
    """This job is the one that counts from now on."""
    return draft.set(job_id=job["job_id"], endpoint_id=job["endpoint_id"], status=job["status"]).due(Step.POLL)


def _alive(job: dict[str, Any]) -> bool:
    return not is_end(job["status"]) and job["status"] != "GONE"
