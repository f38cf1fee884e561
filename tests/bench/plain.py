"""The plain way, for comparison: a Celery task that calls the official `runpod` package and waits for the job."""

from __future__ import annotations

import os
from typing import Any

import runpod
from celery import Celery

app = Celery("plain", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
runpod.api_key = os.environ["RUNPOD_API_KEY"]


@app.task(name="plain.run")
def run(endpoint: str, given: dict[str, Any]) -> Any:
    """Submit, poll once a second, return the output."""
    return runpod.Endpoint(endpoint).run({"input": given}).output(timeout=600)
