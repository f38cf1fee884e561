"""How late a bridge is: from `send_task` to RunPod's POST, and from RunPod's end to the stored result.

    scripts/bench latency [--jobs 100] [--seconds 1] [--spread 0.1] [--at-once 1] [--known] [--webhook]
                          [--beside 0] [--json]

On one bridge worker. The emulator, and what sends the jobs that run `--beside`, are processes of their own: what is
measured waits for neither. All clocks are this machine's. Run times are log-normal around `--seconds`; `--spread 0`
makes all jobs equally long, which flatters polling. One request at a time, or `--at-once` so many, sent over a fifth of
a run time. Unless the run times are `--known` from before (as many drawn from the same distribution are put into the
ledger), the first ones teach the others. `--beside` so many jobs a second of 2 s each go through the same worker
meanwhile, on other endpoints.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests

from bridge.job.change import Rules
from bridge.ledger import Ledger, Names
from tests.bench.processes import cpu_s
from tests.bench.road import Bench
from tests.support.helpers import eventually, free_port
from tests.support.house import API_KEY, foreign_app

#: RunPod's own limit of 10 min would end half of the ten-minute jobs.
LONG = {"executionTimeout": 3_600_000}
#: Endpoints of what goes on beside.
BESIDE = ("b0", "b1", "b2")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--webhook", action="store_true")
    parser.add_argument("--beside", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--send-at", type=float, help=argparse.SUPPRESS)  # in the process that sends what is beside
    asked = parser.parse_args()
    if asked.send_at:
        _send_beside(asked.send_at)
        return
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        told = measure(stack, Path(directory), asked)
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for name, value in told.items():
        print(f"{name:28}{value:>10}")  # noqa: T201


def measure(stack: ExitStack, directory: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    draw = random.Random("latency")
    bench = Bench(stack, directory, ("demo", *BESIDE))
    bench.environment["BRIDGE_HTTP_BIND"] = f"127.0.0.1:{free_port()}"
    if asked.webhook:
        bench.environment["BRIDGE_WEBHOOK_BASE_URL"] = f"http://{bench.environment['BRIDGE_HTTP_BIND']}"
    warm = 5 if asked.at_once == 1 else 0
    runs = [asked.seconds * math.exp(draw.gauss(0, asked.spread)) for _ in range(asked.jobs + warm)]
    if asked.known:
        before = [asked.seconds * math.exp(draw.gauss(0, asked.spread)) for _ in range(128)]
        ledger = Ledger(bench.client, Names(), Rules())
        ledger.runs.remember("demo", [(5, int(run * 1000)) for run in before])
    process = bench.worker(stack, "bridge.app")
    ahead = clock_of(bench.environment["RUNPOD_ENDPOINT_BASE_URL"], partial(_emulator, bench, "jobs"))
    with _beside(bench, asked.beside):
        cpu_before = cpu_s(process.pid), time.monotonic()
        sent, stored = _send_all(bench, runs, asked.at_once)
        busy = (cpu_s(process.pid) - cpu_before[0]) / (time.monotonic() - cpu_before[1])
    jobs = {job["input"]["n"]: job for job in _emulator(bench, "jobs") if job["input"].get("n", -1) >= 0}
    polls = sum(1 for call in _emulator(bench, "calls") if call["op"] == "status") / len(runs)
    taken = [(jobs[n]["created"] + ahead - sent[n]) * 1000 for n in range(warm, len(runs))]
    seen = [(stored[n] - (jobs[n]["started"] + ahead + runs[n])) * 1000 for n in range(warm, len(runs))]
    return {
        "jobs": asked.jobs,
        "job_seconds": asked.seconds,
        "jobs_per_s_beside": asked.beside,
        "worker_busy": round(busy, 2),
        "send_to_post_p50_ms": percentile(taken, 50),
        "send_to_post_p95_ms": percentile(taken, 95),
        "send_to_post_p99_ms": percentile(taken, 99),
        "end_to_result_mean_ms": round(statistics.mean(seen), 1),
        "end_to_result_p50_ms": percentile(seen, 50),
        "end_to_result_p95_ms": percentile(seen, 95),
        "end_to_result_p99_ms": percentile(seen, 99),
        "mean_part_of_run_percent": round(statistics.mean(seen) / asked.seconds / 10, 2),
        "status_reads_per_job": round(polls, 2),
    }


@contextmanager
def _beside(bench: Bench, rate: float) -> Iterator[None]:
    """Jobs at a steady pace whose results nobody waits for."""
    with ExitStack() as stack:
        if rate:
            command = (sys.executable, "-m", "tests.bench.latency", "--send-at", str(rate))
            sender = bench.process(stack, "beside", *command)
            eventually(lambda: _emulator(bench, "jobs", BESIDE[0]), timeout=20)
            time.sleep(3)  # until the first of them have ended
            assert sender.running, sender.said()
        yield


def _send_beside(rate: float) -> None:
    app = foreign_app(os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"])
    began = time.monotonic()
    with app.producer_pool.acquire(block=True) as producer:
        for n in itertools.count():
            time.sleep(max(0.0, began + n / rate - time.monotonic()))
            kwargs = {"input": {"n": -1, "mock_delay": 2}, "endpoint": BESIDE[n % len(BESIDE)]}
            app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer)


def _send_all(bench: Bench, runs: list[float], at_once: int) -> tuple[dict[int, float], dict[int, float]]:
    """When each was sent, and when its result was there: told as `get()` is, since looking costs what is measured."""
    sent: dict[int, float] = {}
    stored: dict[int, float] = {}
    waiting: dict[str, int] = {}
    begun, apart = time.time(), statistics.mean(runs) / at_once / 5 if at_once > 1 else 0.0
    with bench.client.pubsub(ignore_subscribe_messages=True) as heard:
        while len(stored) < len(runs):
            n = len(sent)
            due = time.time() >= begun + n * apart if at_once > 1 else not waiting
            if n < len(runs) and len(waiting) < at_once and due:
                kwargs = {"input": {"n": n, "mock_delay": runs[n]}, "endpoint": "demo", "policy": LONG}
                task_id = str(uuid.uuid4())
                waiting[f"celery-task-meta-{task_id}"] = n
                heard.subscribe(f"celery-task-meta-{task_id}")
                sent[n] = time.time()
                bench.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", task_id=task_id)
            message = heard.get_message(timeout=0.02)
            now = time.time()
            if message is not None and json.loads(message["data"])["status"] == "SUCCESS":
                stored[waiting.pop(message["channel"])] = now
                heard.unsubscribe(message["channel"])
    return sent, stored


def _emulator(bench: Bench, what: str, endpoint: str = "demo") -> list[dict[str, Any]]:
    """Its jobs or calls of an endpoint."""
    origin = bench.environment["RUNPOD_ENDPOINT_BASE_URL"].removesuffix("/v2")
    answer = requests.get(f"{origin}/_emulator/{what}", params={"endpoint": endpoint}, timeout=30)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def clock_of(base_url: str, jobs: Callable[[], Iterable[dict[str, Any]]]) -> float:
    """What to add to the emulator's times, as its `jobs` of the endpoint "demo" have them, to get wall time."""
    sent_at = time.time()
    answer = requests.post(
        f"{base_url}/demo/run",
        json={"input": {"n": -2}},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=5,
    )
    created = next(job["created"] for job in jobs() if job["id"] == answer.json()["id"])
    return float((sent_at + time.time()) / 2 - created)


def percentile(values: list[float], percent: int) -> float:
    """Of these, to two places."""
    return round(statistics.quantiles(values, n=100)[percent - 1], 2)


if __name__ == "__main__":
    main()
