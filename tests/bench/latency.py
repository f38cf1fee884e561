"""How long an idle bridge takes: from `send_task` to RunPod's POST, and from RunPod's end to the stored result.

    scripts/bench latency [--jobs 100] [--seconds 1] [--spread 0.1] [--at-once 1] [--known] [--webhook]
                          [--beside 0] [--json]

On one bridge worker; the emulator is in this process, so both ends are read from one clock, and its clock runs as fast
as ours. Run times are log-normal around `--seconds`; `--spread 0` makes all jobs equally long, which flatters polling.
One request at a time, or `--at-once` so many, sent over a fifth of a run time. Unless the run times are `--known` from
before (as many drawn from the same distribution are put into the ledger), the first ones teach the others. `--beside`
so many jobs a second of 2 s each go through the same worker meanwhile, on other endpoints.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from bridge.embedded import EmbeddedRedis
from bridge.emulator import Emulator
from tests.support.helpers import free_port
from tests.support.house import API_KEY, House

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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        told = measure(Path(directory), asked)
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for name, value in told.items():
        print(f"{name:28}{value:>10}")  # noqa: T201


def measure(directory: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    redis = EmbeddedRedis(directory=directory / "redis")
    redis.start()
    url, port, draw = f"redis://127.0.0.1:{redis.port}/0", free_port(), random.Random("latency")
    settings: dict[str, Any] = {"http_bind": f"127.0.0.1:{port}", "endpoints": ",".join(("demo", *BESIDE))}
    if asked.webhook:
        settings["webhook_base_url"] = f"http://127.0.0.1:{port}"
    warm = 5 if asked.at_once == 1 else 0
    runs = [asked.seconds * math.exp(draw.gauss(0, asked.spread)) for _ in range(asked.jobs + warm)]
    try:
        with (
            Emulator(endpoints=["demo", *BESIDE], api_keys=[API_KEY]) as emulator,
            House(directory, broker=url, redis_url=url, emulator=emulator, **settings) as house,
        ):
            if asked.known:
                before = [asked.seconds * math.exp(draw.gauss(0, asked.spread)) for _ in range(128)]
                house.ledger.runs.remember("demo", [(5, int(run * 1000)) for run in before])
            house.worker()
            ahead = _clock_of(house)
            with _beside(house, asked.beside):
                sent, stored = _send_all(house, runs, asked.at_once)
            jobs = {job["input"]["n"]: job for job in emulator.jobs("demo") if job["input"].get("n", -1) >= 0}
            polls = sum(1 for call in emulator.calls() if call["op"] == "status" and call["endpoint"] == "demo") / len(
                runs
            )
    finally:
        redis.stop()
    taken = [(jobs[n]["created"] + ahead - sent[n]) * 1000 for n in range(warm, len(runs))]
    seen = [(stored[n] - (jobs[n]["started"] + ahead + runs[n])) * 1000 for n in range(warm, len(runs))]
    return {
        "jobs": asked.jobs,
        "job_seconds": asked.seconds,
        "jobs_per_s_beside": asked.beside,
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
def _beside(house: House, rate: float) -> Iterator[None]:
    """Jobs at a steady pace whose results nobody waits for."""
    over = threading.Event()

    def send() -> None:
        with house.app.producer_pool.acquire(block=True) as producer:
            began = time.monotonic()
            for n in itertools.count():
                if over.wait(max(0.0, began + n / rate - time.monotonic())):
                    return
                kwargs = {"input": {"n": -1, "mock_delay": 2}, "endpoint": BESIDE[n % len(BESIDE)]}
                house.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer)

    thread = threading.Thread(target=send, daemon=True)
    if rate:
        thread.start()
        time.sleep(3)  # until the first of them have ended
    try:
        yield
    finally:
        over.set()
        if rate:
            thread.join()


def _send_all(house: House, runs: list[float], at_once: int) -> tuple[dict[int, float], dict[int, float]]:
    """When each was sent, and when its result was there; looked at every millisecond or so."""
    sent: dict[int, float] = {}
    stored: dict[int, float] = {}
    waiting: dict[int, str] = {}
    begun, apart = time.time(), statistics.mean(runs) / at_once / 5 if at_once > 1 else 0.0
    while len(stored) < len(runs):
        n = len(sent)
        due = time.time() >= begun + n * apart if at_once > 1 else not waiting
        if n < len(runs) and len(waiting) < at_once and due:
            sent[n] = time.time()
            waiting[n] = f"celery-task-meta-{house.send({'n': n, 'mock_delay': runs[n]}, policy=LONG).id}"
        found: Any = house.client.mget(waiting.values()) if waiting else ()
        now = time.time()
        for n, text in zip(list(waiting), found, strict=True):
            if text and json.loads(text)["status"] == "SUCCESS":
                stored[n] = now
                del waiting[n]
        time.sleep(0.001)
    return sent, stored


def _clock_of(house: House) -> float:
    """What to add to the emulator's times to get wall time."""
    emulator = house.emulator
    sent_at = time.time()
    answer = requests.post(
        f"{emulator.base_url}/demo/run",
        json={"input": {"n": -2}},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=5,
    )
    created = next(job["created"] for job in emulator.jobs("demo") if job["id"] == answer.json()["id"])
    return float((sent_at + time.time()) / 2 - created)


def percentile(values: list[float], percent: int) -> float:
    """Of these, to two places."""
    return round(statistics.quantiles(values, n=100)[percent - 1], 2)


if __name__ == "__main__":
    main()
