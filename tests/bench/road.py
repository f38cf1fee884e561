"""Throughput of the whole road beside the plain way, both against one emulator, in one run.

    scripts/bench road [--jobs 2000] [--plain-jobs 300] [--seconds 2] [--backlog] [--json]

One bridge worker process; jobs of 2 s over three endpoints (RunPod allows 100 submits a second on each). Measured from
the first `send_task` to the last stored result; CPU is the bridge worker's own, user and system, from /proc.

`loop_ms` is the CPU of a calibration loop run beside it: `cpu_over_loop` can be compared between runs on a machine that
others use too, best with `--backlog`, where the worker stands until all is sent: no idle turns, no waiting for jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis

from bridge.embedded import EmbeddedRedis
from tests.support.helpers import eventually
from tests.support.house import API_KEY, ROOT, Process, foreign_app

ENDPOINTS = ("a", "b", "c")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def switches(pid: int) -> int:
    """How often the threads that a process has now were switched away from, by themselves or not."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            found += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text()))
    return found


def peak_mib(pid: int) -> float:
    """The most memory a process has had."""
    text = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(text.split()[1]) / 1024


def steady(seen: Sequence[tuple[float, int]], jobs: int) -> float:
    """Jobs a second in the middle half of a run: between a quarter and three quarters of all results."""
    inside = [(at, done) for at, done in seen if jobs / 4 <= done <= jobs * 3 / 4]
    (first, few), (last, many) = (inside[0], inside[-1]) if len(inside) > 1 else (seen[0], seen[-1])
    return (many - few) / max(0.001, last - first)


class Loop:
    """A fixed piece of work, done again and again beside a measurement."""

    def __init__(self) -> None:
        """Begins at once."""
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            began, found = time.thread_time(), {}
            for n in range(60_000):
                found[n & 255] = str(n)
            self._seen.append((time.thread_time() - began) * 1000)

    def mean_ms(self) -> float:
        """Ends it."""
        self._ended.set()
        self._thread.join()
        return sum(self._seen) / max(1, len(self._seen))


class Bench:
    """Servers for one run; everything is ended with it."""

    def __init__(
        self, stack: ExitStack, directory: Path, endpoints: Sequence[str] = ENDPOINTS, emulator: Sequence[str] = ()
    ) -> None:
        """Redis, and the emulator as a process of its own, with further arguments."""
        self.directory = directory
        self.redis = EmbeddedRedis(directory=directory / "redis")
        stack.callback(self.redis.stop)
        self.redis.start()
        self.url = f"redis://127.0.0.1:{self.redis.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True)
        command = [sys.executable, "-m", "bridge.emulator", "--port", "0", "--api-key", API_KEY, *emulator]
        for name in endpoints:
            command += ["--endpoint", name]
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "BRIDGE_", "CELERY_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_API_KEY": API_KEY,
            "CELERY_BROKER_URL": self.url,
            "CELERY_RESULT_BACKEND": self.url,
            "BRIDGE_ENDPOINTS": ",".join(endpoints),
            "BRIDGE_HTTP_BIND": "",
        }
        process = self._process(stack, "emulator", *command)
        line = eventually(
            lambda: next(ln for ln in process.said().splitlines() if "RUNPOD_ENDPOINT_BASE_URL=" in ln), 20
        )
        self.environment["RUNPOD_ENDPOINT_BASE_URL"] = (
            line.partition("RUNPOD_ENDPOINT_BASE_URL=")[2].split()[0].strip("'\"")
        )
        self.emulator = process

    def _process(self, stack: ExitStack, name: str, *command: str) -> Process:
        process = Process(name, list(command), self.environment, self.directory / f"{name}.log")
        stack.callback(process.stop)
        return process

    def worker(self, stack: ExitStack, app: str, *args: str) -> Process:
        """One worker process."""
        command = ["-m", "celery", "-A", app, "worker", "-l", "WARNING", "--without-gossip", "--without-mingle", *args]
        process = self._process(stack, app, sys.executable, *command)
        producer = foreign_app(self.url, self.url)
        eventually(lambda: producer.control.inspect(timeout=1).ping(), timeout=30)
        return process

    def redis_cpu_s(self) -> float:
        """Seconds of CPU that Redis has used."""
        info = self.client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def redis_commands(self) -> int:
        """Commands that Redis has run, those of scripts with them."""
        return sum(int(told["calls"]) for told in self.client.info("commandstats").values())

    def measure(
        self, process: Process, send: Any, jobs: int, limit_s: float = 300, *, backlog: bool = False
    ) -> dict[str, Any]:
        """Send all, wait for all results, and tell what it took; with `backlog` from the moment when all is sent."""
        if backlog:
            os.kill(process.pid, signal.SIGSTOP)
        before, redis_before, started = cpu_s(process.pid), self.redis_cpu_s(), time.monotonic()
        commands_before, switches_before = self.redis_commands(), switches(process.pid)
        ids = [send(n) for n in range(jobs)]
        sent = time.monotonic() - started
        if backlog:
            redis_before, commands_before, started = self.redis_cpu_s(), self.redis_commands(), time.monotonic()
            os.kill(process.pid, signal.SIGCONT)
        loop = Loop()
        left, seen = set(ids), []

        def ended() -> bool:
            waiting = list(left)
            for request_id, value in zip(
                waiting, self.client.mget([f"celery-task-meta-{i}" for i in waiting]), strict=True
            ):
                if value and '"SUCCESS"' in value:
                    left.discard(request_id)
            seen.append((time.monotonic(), jobs - len(left)))
            return not left

        eventually(ended, timeout=limit_s, every=0.5)
        seconds = time.monotonic() - started
        cpu_ms, loop_ms = (cpu_s(process.pid) - before) * 1000 / jobs, loop.mean_ms()
        return {
            "jobs": jobs,
            "seconds": round(seconds, 2),
            "sending_s": round(sent, 2),
            "jobs_per_s": round(jobs / seconds, 1),
            "steady_jobs_per_s": round(steady(seen, jobs), 1),
            "cpu_ms_per_job": round(cpu_ms, 2),
            "loop_ms": round(loop_ms, 2),
            "cpu_over_loop": round(cpu_ms / loop_ms, 3),
            "redis_cpu_ms_per_job": round((self.redis_cpu_s() - redis_before) * 1000 / jobs, 2),
            "redis_commands_per_job": round((self.redis_commands() - commands_before) / jobs, 1),
            "switches_per_job": round((switches(process.pid) - switches_before) / jobs, 1),
            "peak_mib": round(peak_mib(process.pid), 1),
        }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench road")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--plain-jobs", type=int, default=300)
    parser.add_argument("--plain-threads", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--backlog", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told: dict[str, Any] = {"job_seconds": asked.seconds}
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        bench = Bench(stack, Path(directory))
        app = foreign_app(bench.url, bench.url)
        given = {"mock_delay": asked.seconds}
        with ExitStack() as inner, app.producer_pool.acquire(block=True) as producer:
            process = bench.worker(inner, "bridge.app")
            app.send_task("bridge.run", kwargs={"input": {"a": 1}, "endpoint": "a"}, queue="bridge.run").get(timeout=20)

            def to_bridge(n: int) -> str:
                kwargs = {"input": {"n": n, **given}, "endpoint": ENDPOINTS[n % 3]}
                return str(app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer).id)

            told["bridge"] = bench.measure(process, to_bridge, asked.jobs, backlog=asked.backlog)
        with ExitStack() as inner, app.producer_pool.acquire(block=True) as producer:
            process = bench.worker(inner, "tests.bench.plain", "-P", "threads", "-c", str(asked.plain_threads))

            def to_plain(n: int) -> str:
                args = [ENDPOINTS[n % 3], {"n": n, **given}]
                return str(app.send_task("plain.run", args=args, producer=producer).id)

            if asked.plain_jobs:
                told["plain"] = bench.measure(process, to_plain, asked.plain_jobs, backlog=asked.backlog)
        told["redis_used"] = bench.client.info()["used_memory_human"]
    print(json.dumps(told) if asked.json else _table(told))  # noqa: T201


def _table(told: dict[str, Any]) -> str:
    ways = [way for way in ("bridge", "plain") if way in told]
    lines = [f"{'':16}" + "".join(f"{way:>14}" for way in ways)]
    lines += [f"{name:16}" + "".join(f"{told[way][name]:>14}" for way in ways) for name in told[ways[0]]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
