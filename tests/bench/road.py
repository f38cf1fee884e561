"""Throughput of the whole road beside other ways, all against one emulator, in one run.

    scripts/bench road [--jobs 6000] [--seconds 2] [--endpoints 8] [--processes 1] [--broker redis|rabbitmq]
                       [--peers plain,requests,gevent,prefork,asyncio] [--plain-jobs 300] [--backlog] [--json]

RunPod allows 1,000 submits in 10 s on each endpoint: with fewer than five of them that limit would be measured.
`jobs_per_s` is from the first `send_task` to the last stored result; `steady_jobs_per_s` in the middle half of the
results, `steady_busy` the cores that each process used there. CPU is user and system, from /proc.

`loop_ms` is the CPU of a calibration loop run beside it: `cpu_over_loop` can be compared between runs on a machine that
others use too, best with `--backlog`, where the worker stands until all is sent: no idle turns, no waiting for jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis

from bridge.embedded import EmbeddedRedis
from tests.bench.by_hand import QUEUE
from tests.bench.processes import Loop, cpu_of, family, memory_of, peak_mib, switches
from tests.support.helpers import eventually
from tests.support.house import API_KEY, ROOT, Process, foreign_app, hang_up
from tests.support.servers import RabbitServer, find_rabbitmq


@dataclass(frozen=True)
class Peer:
    """Another way to do the same: a Celery pool and a task of `tests.bench.plain`; None: `tests.bench.by_hand`."""

    jobs: int
    pool: tuple[str, ...] | None
    task: str = "plain.run"


#: As a user would write them, with as many jobs as take some ten seconds.
PEERS = {
    "plain": Peer(300, ("-P", "threads", "-c", "100")),
    "requests": Peer(300, ("-P", "threads", "-c", "100"), "plain.poll"),
    "gevent": Peer(1000, ("-P", "gevent", "-c", "1000")),
    "prefork": Peer(60, ("-P", "prefork", "-c", "20")),
    "asyncio": Peer(3000, None),
}


def named(count: int) -> tuple[str, ...]:
    """Names of so many endpoints."""
    return tuple(f"e{n}" for n in range(count))


def steady(seen: Sequence[Seen], jobs: int) -> tuple[float, dict[str, float]]:
    """Jobs a second, and cores of each process, in the middle half: between a quarter and three of all results."""
    inside = [one for one in seen if jobs / 4 <= one.done <= jobs * 3 / 4]
    first, last = (inside[0], inside[-1]) if len(inside) > 1 else (seen[0], seen[-1])
    took = max(0.001, last.at - first.at)
    return (last.done - first.done) / took, {name: (last.cpu[name] - first.cpu[name]) / took for name in last.cpu}


@dataclass(frozen=True)
class Seen:
    """How far a run was at some time, and the CPU that each process had used."""

    at: float
    done: int
    cpu: dict[str, float]


class Bench:
    """Servers for one run; everything is ended with it."""

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        endpoints: Sequence[str],
        emulator: Sequence[str] = (),
        *,
        broker: str = "redis",
    ) -> None:
        """Redis, the broker, and the emulator as a process of its own, with further arguments."""
        self.directory = directory
        self.redis = EmbeddedRedis(directory=directory / "redis")
        stack.callback(self.redis.stop)
        self.redis.start()
        self.url = self.broker = f"redis://127.0.0.1:{self.redis.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True)
        stack.callback(self.client.close)
        self.rabbit = self._rabbit(stack) if broker == "rabbitmq" else None
        self.app = foreign_app(self.broker, self.url)
        stack.callback(hang_up, self.app)
        command = [sys.executable, "-m", "bridge.emulator", "--port", "0", "--api-key", API_KEY, *emulator]
        for name in endpoints:
            command += ["--endpoint", name]
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "BRIDGE_", "CELERY_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_API_KEY": API_KEY,
            "CELERY_BROKER_URL": self.broker,
            "CELERY_RESULT_BACKEND": self.url,
            "BRIDGE_REDIS_URL": self.url,
            "BRIDGE_ENDPOINTS": ",".join(endpoints),
            "BRIDGE_HTTP_BIND": "",
            "BRIDGE_ONE_CPU": os.environ.get("BRIDGE_ONE_CPU", "auto"),
        }
        self.emulator = self.process(stack, "emulator", *command)
        line = eventually(
            lambda: next(ln for ln in self.emulator.said().splitlines() if "RUNPOD_ENDPOINT_BASE_URL=" in ln), 20
        )
        self.environment["RUNPOD_ENDPOINT_BASE_URL"] = (
            line.partition("RUNPOD_ENDPOINT_BASE_URL=")[2].split()[0].strip("'\"")
        )

    def _rabbit(self, stack: ExitStack) -> RabbitServer:
        script = find_rabbitmq()
        if script is None:
            sys.exit("scripts/bench: --broker rabbitmq needs a RabbitMQ server on this machine")
        home = self.directory / "rabbit"
        home.mkdir()
        rabbit = RabbitServer(script, home)
        stack.callback(rabbit.stop)
        self.broker = rabbit.start().url()
        return rabbit

    def process(self, stack: ExitStack, name: str, *command: str) -> Process:
        """Any process beside the others."""
        process = Process(name, list(command), self.environment, self.directory / f"{name}.log")
        stack.callback(process.stop)
        return process

    def workers(self, stack: ExitStack, app: str, *args: str, count: int = 1) -> list[Process]:
        """Worker processes of an app, once all of them answer."""
        command = ["-m", "celery", "-A", app, "worker", "-l", "WARNING", "--without-gossip", "--without-mingle", *args]
        found = [
            self.process(stack, f"{app}-{n}", sys.executable, *command, "-n", f"{app}{n}@bench") for n in range(count)
        ]
        names = {f"{app}{n}@bench" for n in range(count)}
        eventually(lambda: names <= set(self.app.control.inspect(timeout=1).ping() or ()), timeout=30)
        return found

    def worker(self, stack: ExitStack, app: str, *args: str) -> Process:
        """One worker process."""
        return self.workers(stack, app, *args)[0]

    def redis_cpu_s(self) -> float:
        """Seconds of CPU that Redis has used."""
        info = self.client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def redis_commands(self) -> int:
        """Commands that Redis has run, those of scripts with them."""
        return sum(int(told["calls"]) for told in self.client.info("commandstats").values())

    def measure(
        self, processes: Sequence[Process], send: Callable[[int], str], jobs: int, *, backlog: bool = False
    ) -> dict[str, Any]:
        """Send all, wait for all results, and tell what it took; with `backlog` from the moment when all is sent."""
        pids = [pid for process in processes for pid in family(process.pid)]
        groups = {"worker": pids, "redis": [self.redis.pid], "emulator": [self.emulator.pid], "bench": [os.getpid()]}
        if self.rabbit is not None:
            groups["rabbitmq"] = family(self.rabbit.pid)
        if backlog:
            for process in processes:
                os.kill(process.pid, signal.SIGSTOP)
        before, redis_before, started = cpu_of(pids), self.redis_cpu_s(), time.monotonic()
        commands_before, switches_before = self.redis_commands(), sum(map(switches, pids))
        ids = [send(n) for n in range(jobs)]
        sent = time.monotonic() - started
        if backlog:
            redis_before, commands_before, started = self.redis_cpu_s(), self.redis_commands(), time.monotonic()
            for process in processes:
                os.kill(process.pid, signal.SIGCONT)
        loop = Loop()
        left, seen = set(ids), list[Seen]()

        def ended() -> bool:
            waiting = list(left)
            for request_id, value in zip(
                waiting, self.client.mget([f"celery-task-meta-{i}" for i in waiting]), strict=True
            ):
                if value and '"SUCCESS"' in value:
                    left.discard(request_id)
            cpu = {name: cpu_of(of) for name, of in groups.items()}
            seen.append(Seen(time.monotonic(), jobs - len(left), cpu))
            return not left or not all(process.running for process in processes)

        eventually(ended, timeout=120, every=0.25)
        assert not left, f"a process ended: {[process.said()[-1000:] for process in processes if not process.running]}"
        seconds = time.monotonic() - started
        cpu_ms, loop_ms = (cpu_of(pids) - before) * 1000 / jobs, loop.mean_ms()
        rate, busy = steady(seen, jobs)
        return {
            "jobs": jobs,
            "seconds": round(seconds, 2),
            "sending_s": round(sent, 2),
            "jobs_per_s": round(jobs / seconds, 1),
            "steady_jobs_per_s": round(rate, 1),
            "steady_busy": {name: round(cores, 2) for name, cores in busy.items()},
            "cpu_ms_per_job": round(cpu_ms, 2),
            "loop_ms": round(loop_ms, 2),
            "cpu_over_loop": round(cpu_ms / loop_ms, 3),
            "redis_cpu_ms_per_job": round((self.redis_cpu_s() - redis_before) * 1000 / jobs, 2),
            "redis_commands_per_job": round((self.redis_commands() - commands_before) / jobs, 1),
            "switches_per_job": round((sum(map(switches, pids)) - switches_before) / jobs, 1),
            "peak_mib": round(peak_mib(pids[0]) if len(pids) == 1 else memory_of(pids), 1),
        }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench road")
    parser.add_argument("--jobs", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--endpoints", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--peers", default="plain", help=f"of {','.join(PEERS)}")
    parser.add_argument("--plain-jobs", type=int, help="instead of 300; 0: without peers")
    parser.add_argument("--backlog", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    peers = [name for name in asked.peers.split(",") if name and asked.plain_jobs != 0]
    told: dict[str, Any] = {name: getattr(asked, name) for name in ("broker", "processes", "endpoints", "backlog")}
    told["job_seconds"] = asked.seconds
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        bench = Bench(stack, Path(directory), named(asked.endpoints), broker=asked.broker)
        with ExitStack() as inner:
            told["bridge"] = _bridge(bench, inner, asked)
        for name in peers:
            with ExitStack() as inner:
                jobs = asked.plain_jobs if name == "plain" and asked.plain_jobs else PEERS[name].jobs
                told[name] = _peer(bench, inner, PEERS[name], jobs, asked)
        told["redis_used"] = bench.client.info()["used_memory_human"]
    print(json.dumps(told) if asked.json else _table(told))  # noqa: T201


def _bridge(bench: Bench, stack: ExitStack, asked: argparse.Namespace) -> dict[str, Any]:
    processes, endpoints = bench.workers(stack, "bridge.app", count=asked.processes), named(asked.endpoints)
    producer = stack.enter_context(bench.app.producer_pool.acquire(block=True))

    def send(n: int) -> str:
        kwargs = {"input": {"n": n, "mock_delay": asked.seconds}, "endpoint": endpoints[n % len(endpoints)]}
        return str(bench.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer).id)

    first = f"celery-task-meta-{send(0)}"
    eventually(lambda: '"SUCCESS"' in (bench.client.get(first) or ""), timeout=20)
    return bench.measure(processes, send, asked.jobs, backlog=asked.backlog)


def _peer(bench: Bench, stack: ExitStack, peer: Peer, jobs: int, asked: argparse.Namespace) -> dict[str, Any]:
    endpoints = named(asked.endpoints)
    if peer.pool is None:
        process = bench.process(stack, "by-hand", sys.executable, "-m", "tests.bench.by_hand")
        eventually(lambda: "ready." in process.said(), timeout=20)
    else:
        process = bench.worker(stack, "tests.bench.plain", *peer.pool)
    producer = stack.enter_context(bench.app.producer_pool.acquire(block=True))

    def send(n: int) -> str:
        endpoint, given = endpoints[n % len(endpoints)], {"n": n, "mock_delay": asked.seconds}
        if peer.pool is not None:
            return str(bench.app.send_task(peer.task, args=[endpoint, given], producer=producer).id)
        request_id = str(uuid4())
        bench.client.rpush(QUEUE, json.dumps({"id": request_id, "endpoint": endpoint, "input": given}))
        return request_id

    return bench.measure([process], send, jobs, backlog=asked.backlog)


def _table(told: dict[str, Any]) -> str:
    ways = [way for way in ("bridge", *PEERS) if way in told]
    lines = [f"{'':24}" + "".join(f"{way:>14}" for way in ways)]
    for name in told[ways[0]]:
        if name == "steady_busy":
            lines += [
                f"  cores of {one:13}" + "".join(f"{told[way][name][one]:>14}" for way in ways)
                for one in told[ways[0]][name]
            ]
        else:
            lines.append(f"{name:24}" + "".join(f"{told[way][name]:>14}" for way in ways))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
