"""How long an idle bridge takes: from `send_task` to RunPod's POST, and from RunPod's end to the stored result.

    scripts/bench latency [--jobs 100] [--seconds 1] [--webhook] [--json]

One request at a time on one bridge worker. The emulator is in this process, so both ends are read from one clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from bridge.embedded import EmbeddedRedis
from bridge.emulator import Emulator
from tests.helpers import free_port
from tests.house import API_KEY, House


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--webhook", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        told = measure(Path(directory), asked.jobs, asked.seconds, webhook=asked.webhook)
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for name, value in told.items():
        print(f"{name:28}{value:>10}")  # noqa: T201


def measure(directory: Path, jobs: int, seconds: float, *, webhook: bool) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    redis = EmbeddedRedis(directory=directory / "redis")
    redis.start()
    url, port = f"redis://127.0.0.1:{redis.port}/0", free_port()
    settings: dict[str, Any] = {"http_bind": f"127.0.0.1:{port}"}
    if webhook:
        settings["webhook_base_url"] = f"http://127.0.0.1:{port}"
    taken, seen = [], []
    try:
        with (
            Emulator(endpoints=["demo"], api_keys=[API_KEY]) as emulator,
            House(directory, broker=url, redis_url=url, emulator=emulator, **settings) as house,
        ):
            house.worker()
            ahead = _clock_of(house)
            for n in range(jobs + 5):
                sent_at = time.time()
                sent = house.send({"n": n, "mock_delay": seconds})
                sent.get(timeout=seconds + 30, interval=0.001)
                stored_at = time.time()
                job = next(job for job in emulator.jobs("demo") if job["input"].get("n") == n)
                if n >= 5:
                    taken.append((job["created"] + ahead - sent_at) * 1000)
                    seen.append((stored_at - (job["started"] + ahead + seconds)) * 1000)
            polls = sum(1 for call in emulator.calls() if call["op"] == "status") / (jobs + 5)
    finally:
        redis.stop()
    return {
        "jobs": jobs,
        "job_seconds": seconds,
        "send_to_post_p50_ms": _percentile(taken, 50),
        "send_to_post_p99_ms": _percentile(taken, 99),
        "end_to_result_p50_ms": _percentile(seen, 50),
        "end_to_result_p99_ms": _percentile(seen, 99),
        "status_reads_per_job": round(polls, 2),
    }


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


def _percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100)[percent - 1], 2)


if __name__ == "__main__":
    main()
