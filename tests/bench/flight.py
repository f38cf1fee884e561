"""What it costs to have many jobs in flight: memory of the one bridge worker process, and CPU of the jobs that pass by.

    scripts/bench flight [--jobs 100000] [--passing 600] [--rest 20] [--json]

Long jobs (an hour) are spread over many endpoints, because RunPod takes 100 submits a second on each, and come in
by the stream door: 100, then ten times as many, and so on up to `--jobs`. At each level short ones (2 s) pass by at a
steady pace; their CPU is the worker's own, less what it uses in `--rest` seconds with nothing passing.
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

from tests.bench.processes import cpu_s, peak_mib, rss_mib
from tests.bench.road import Bench
from tests.support.helpers import eventually
from tests.support.house import Process

ENDPOINTS = tuple(f"e{n}" for n in range(40))
FEW, PACE = 100, 50
CHUNK = 1_000
#: RunPod ends a job after ten minutes unless it is told otherwise.
LONG = {"policy": {"executionTimeout": 7_200_000, "ttl": 14_400_000}}


class Flight:
    """One worker process, and jobs that fly past and around it."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        """Emulator, Redis, worker."""
        self.bench = Bench(stack, directory, ENDPOINTS, emulator=("--workers", "3", "--jobs-per-worker", "1000"))
        self.worker: Process = self.bench.worker(stack, "bridge.app")
        self.flying = 0

    def fill(self, jobs: int) -> float:
        """Bring so many long jobs into flight; seconds it took."""
        started, client = time.monotonic(), self.bench.client
        while self.flying < jobs:
            with client.pipeline(transaction=False) as pipe:
                for n in range(self.flying, min(self.flying + CHUNK, jobs)):
                    request = {"id": f"long:{n}", "endpoint": ENDPOINTS[n % len(ENDPOINTS)]}
                    pipe.xadd(
                        "bridge:requests", {"data": json.dumps({**request, "input": {"mock_delay": 3600}, **LONG})}
                    )
                pipe.execute()
            self.flying = min(self.flying + CHUNK, jobs)
            eventually(lambda: client.xlen("bridge:requests") < CHUNK, timeout=120, every=0.1)
        eventually(lambda: self.count("TRACKED") >= jobs, timeout=1800, every=0.5)
        return time.monotonic() - started

    def _as_before(self) -> bool:
        """Whether only the long jobs are left."""
        phases = {phase: self.count(phase) for phase in ("ACCEPTED", "SUBMITTING", "UNANSWERED", "TRACKED", "SETTLED")}
        assert {phase: count for phase, count in phases.items() if count} == {"TRACKED": self.flying}, phases
        return True

    def count(self, phase: str) -> int:
        """Records in a phase, over all endpoints."""
        with self.bench.client.pipeline(transaction=False) as pipe:
            for name in ENDPOINTS:
                pipe.hget(f"bridge:_:count:{name}", phase)
            return sum(int(found or 0) for found in pipe.execute())

    def passing(self, jobs: int, rest_s: float) -> dict[str, float]:
        """CPU of short jobs at a steady pace, beside what the worker uses anyhow."""
        idle = self._cpu_over(lambda: time.sleep(rest_s))
        ids: list[str] = []

        def send() -> None:
            with self.bench.app.producer_pool.acquire(block=True) as producer:
                started = time.monotonic()
                for n in range(jobs):
                    kwargs = {"input": {"n": n, "mock_delay": 2}, "endpoint": ENDPOINTS[n % 3]}
                    ids.append(
                        self.bench.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer).id
                    )
                    time.sleep(max(0.0, started + n / PACE - time.monotonic()))
            eventually(lambda: all(self.bench.client.mget([f"celery-task-meta-{i}" for i in ids])), timeout=60)
            eventually(self._as_before, timeout=60)

        seconds, cpu = self._cpu_over(send)
        after = self._cpu_over(lambda: time.sleep(rest_s))  # looks at young jobs grow rarer all the time
        share = (idle[1] / idle[0] + after[1] / after[0]) / 2
        return {
            "idle_cpu": round(share, 3),
            "cpu_ms_per_job": round((cpu - share * seconds) * 1000 / jobs, 2),
            "rss_mib": round(rss_mib(self.worker.pid), 1),
            "peak_mib": round(peak_mib(self.worker.pid), 1),
        }

    def _cpu_over(self, call: Any) -> tuple[float, float]:
        started, before = time.monotonic(), cpu_s(self.worker.pid)
        call()
        return time.monotonic() - started, cpu_s(self.worker.pid) - before


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench flight")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--passing", type=int, default=600)
    parser.add_argument("--rest", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        flight = Flight(stack, Path(directory))
        told: dict[str, Any] = {"levels": []}
        level = FEW
        while level <= asked.jobs:
            seconds = flight.fill(level)
            found = flight.passing(asked.passing, asked.rest)
            redis_mib = flight.bench.client.info("memory")["used_memory"] / 2**20
            told["levels"].append(
                {"in_flight": level, "filled_in_s": round(seconds, 1), **found, "redis_mib": round(redis_mib, 1)}
            )
            level *= 10
        first, last = told["levels"][0], told["levels"][-1]
        told["cost"] = round(last["cpu_ms_per_job"] / first["cpu_ms_per_job"], 2)
    sys.stdout.write((json.dumps(told) if asked.json else "\n".join(f"{k}: {v}" for k, v in told.items())) + "\n")


if __name__ == "__main__":
    main()
