"""The plain way, for comparison: a Celery task that submits a job and waits for it."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import requests
import runpod
from celery import Celery

app = Celery("plain", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
runpod.api_key = os.environ["RUNPOD_API_KEY"]
_of_thread = threading.local()


@app.task(name="plain.run")
def run(endpoint: str, given: dict[str, Any]) -> Any:
    """By the official `runpod` package: submit, poll once a second, return the output."""
    return runpod.Endpoint(endpoint).run({"input": given}).output(timeout=600)


@app.task(name="plain.poll")
def poll(endpoint: str, given: dict[str, Any]) -> Any:
    """By `requests`, as it is written by hand: the same with one session for each thread."""
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
        _of_thread.session.headers["Authorization"] = f"Bearer {runpod.api_key}"
    session, base = _of_thread.session, f"{os.environ['RUNPOD_ENDPOINT_BASE_URL']}/{endpoint}"
    answer = session.post(f"{base}/run", json={"input": given}, timeout=30)
    answer.raise_for_status()
    job_id = answer.json()["id"]
    while True:
        time.sleep(1)
        answer = session.get(f"{base}/status/{job_id}", timeout=30)
        answer.raise_for_status()
        told = answer.json()
        if told["status"] == "COMPLETED":
            return told["output"]
        if told["status"] in {"FAILED", "CANCELLED", "TIMED_OUT"}:
            raise RuntimeError(told.get("error", told["status"]))
