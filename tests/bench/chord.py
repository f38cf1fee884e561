"""A chord of many jobs beside as many jobs that belong to no chord: how much longer until its body has run.

    scripts/bench chord [--jobs 1000] [--seconds 1] [--json]

One bridge worker, and one of the other team's app for the chord's body. Both are measured from the first message until
all is stored: all results, and the body's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from celery import chord

from tests.bench.processes import cpu_s
from tests.bench.road import Bench, named
from tests.support.helpers import eventually

ENDPOINTS = named(8)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench chord")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        told = measure(stack, Path(directory), asked.jobs, asked.seconds)
    sys.stdout.write((json.dumps(told) if asked.json else "\n".join(f"{k}: {v}" for k, v in told.items())) + "\n")


def measure(stack: ExitStack, directory: Path, jobs: int, seconds: float) -> dict[str, Any]:
    """Both, one after the other, and how they compare."""
    bench = Bench(stack, directory, ENDPOINTS)
    bench.environment |= {"FOREIGN_BROKER": bench.url, "FOREIGN_BACKEND": bench.url}
    worker, app, client = bench.worker(stack, "bridge.app"), bench.app, bench.client
    bench.worker(stack, "tests.foreign")
    tasks = [
        app.signature(
            "bridge.run",
            kwargs={"input": {"n": n, "mock_delay": seconds}, "endpoint": ENDPOINTS[n % len(ENDPOINTS)]},
            queue="bridge.run",
        )
        for n in range(jobs)
    ]

    def took(send: Any) -> dict[str, float]:
        began, before = time.monotonic(), cpu_s(worker.pid)
        keys = [f"celery-task-meta-{one}" for one in send()]
        eventually(lambda: all(text and '"SUCCESS"' in text for text in client.mget(keys)), timeout=120, every=0.05)
        return {
            "seconds": round(time.monotonic() - began, 2),
            "cpu_ms_per_job": round((cpu_s(worker.pid) - before) * 1000 / jobs, 2),
        }

    took(lambda: [tasks[0].clone().apply_async().id])
    apart = took(lambda: [task.clone().apply_async().id for task in tasks])
    together = took(lambda: [chord(tasks, app=app)(app.signature("tests.foreign.collect")).id])
    return {"jobs": jobs, "apart": apart, "chord": together, "times": round(together["seconds"] / apart["seconds"], 2)}


if __name__ == "__main__":
    main()
