"""The shared budget under a flood: calls that RunPod refuses, part of the rate used, a calm endpoint's latency.

    scripts/bench flood [--seconds 60] [--processes 4] [--scale 1.0] [--halved] [--json]

Two endpoints are flooded, a third gets five requests a second; four bridge worker processes; the emulator enforces
RunPod's limits. `--scale` divides the limits of both sides alike, where the machine cannot carry the whole; `--halved`
halves RunPod's alone, of which the bridge is told nothing. The flood waits in the ledger when the clock starts.

Two latencies of the calm endpoint are told, each idle and beside the flood, both from `send_task` on: until RunPod has
answered the POST, and until the end of a job of one second is written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.embedded import EmbeddedRedis
from bridge.job.change import Rules
from bridge.job.enums import Step
from bridge.job.record import Record
from bridge.ledger import Ledger, Names, connect
from bridge.runpod.operations import LIMITS, Operation
from tests.support.helpers import eventually
from tests.support.house import API_KEY, ROOT, Process, foreign_app

FLOODED, CALM = ("a", "b"), "calm"
CALM_EVERY_S = 0.2
#: Seconds that RunPod works on a job of the calm endpoint.
CALM_JOB_S = 1.0


@dataclass(frozen=True)
class Calm:
    """Milliseconds, sorted, from `send_task` until RunPod had taken each request, and until its end was written."""

    taken: list[int]
    ended: list[int]


def beside(idle: list[int], flooded: list[int]) -> dict[str, Any]:
    """Median and 95 % of both, and how many times the median grew."""
    told = {
        name: {"p50": statistics.median(found), "p95": found[int(len(found) * 0.95)]}
        for name, found in (("idle", idle), ("flooded", flooded))
    }
    return {**told, "times": round(told["flooded"]["p50"] / told["idle"]["p50"], 3)}


class Flood:
    """Everything of one run; ended with the stack."""

    def __init__(self, stack: ExitStack, directory: Path, *, scale: float, halved: bool, processes: int) -> None:
        """Starts Redis, the emulator and the bridge workers."""
        self.directory, self.scale = directory, scale
        server = EmbeddedRedis(directory=directory / "redis")
        stack.callback(server.stop)
        server.start()
        url = f"redis://127.0.0.1:{server.port}/0"
        self.client = connect(url)
        stack.callback(self.client.close)
        self.ledger = Ledger(self.client, Names(), Rules())
        config = directory / "bridge.toml"
        rows = [f"{op.value} = {{calls = {max(1, int(limit.calls * scale))}}}\n" for op, limit in LIMITS.items()]
        config.write_text("[limits]\n" + "".join(rows).replace("purge-queue", '"purge-queue"'))
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "BRIDGE_", "CELERY_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_API_KEY": API_KEY,
            "CELERY_BROKER_URL": url,
            "CELERY_RESULT_BACKEND": url,
            "BRIDGE_ENDPOINTS": ",".join((*FLOODED, CALM)),
            "BRIDGE_HTTP_BIND": "",
            "BRIDGE_CONFIG_FILE": str(config),
        }
        factor = scale * (0.5 if halved else 1.0)
        runpod = ["-m", "tests.bench.flood_runpod", "--api-key", API_KEY, "--factor", str(factor), *FLOODED, CALM]
        emulator = Process("runpod", [sys.executable, *runpod], environment, directory / "runpod.log")
        stack.callback(emulator.stop)
        self.base_url = eventually(
            lambda: next(ln for ln in emulator.said().splitlines() if ln.startswith("http")), timeout=20
        ).strip()
        environment["RUNPOD_ENDPOINT_BASE_URL"] = self.base_url
        worker = ["-m", "celery", "-A", "bridge.app", "worker", "-l", "WARNING", "--without-gossip", "--without-mingle"]
        self.app = foreign_app(url, url)
        stack.callback(self.app.close)
        for n in range(processes):
            command = [sys.executable, *worker, "-c", "4", "-n", f"bridge{n}@flood"]
            stack.callback(Process(f"worker{n}", command, environment, directory / f"worker{n}.log").stop)
        eventually(lambda: len(self.app.control.inspect(timeout=2).ping() or {}) == processes, timeout=60)

    def calls(self) -> dict[str, dict[str, dict[str, int]]]:
        """What the emulator has counted: endpoint, operation, code."""
        address = self.base_url.removesuffix("/v2") + "/_emulator/counts"
        with urllib.request.urlopen(address) as answer:  # noqa: S310  (our own emulator)
            return {name: found["calls"] for name, found in json.load(answer).items()}

    def send(self, endpoint: str, **given: float) -> str:
        """One request whose result nobody waits for."""
        kwargs = {"input": given, "endpoint": endpoint}
        return str(self.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", ignore_result=True).id)

    def ask(self, task: str, endpoint: str) -> None:
        """A control task."""
        self.app.send_task(f"bridge.{task}", kwargs={"endpoint": endpoint}, queue="bridge.control").get(timeout=30)

    def load(self, each: int) -> None:
        """Let so many requests of the flooded endpoints wait in the ledger."""
        for endpoint in FLOODED:
            self.ask("pause", endpoint)
            for n in range(each):
                self.send(endpoint, n=n)
        eventually(
            lambda: all(self.ledger.counts(name).get("ACCEPTED", 0) >= each for name in FLOODED), timeout=300, every=0.5
        )

    def calm(self, seconds: float) -> Calm:
        """Send to the endpoint that has little to do, and see how long each request took."""
        sent: dict[str, int] = {}
        ends = time.monotonic() + seconds
        self.ledger.due(Step.SUBMIT)  # tells the ledger's time
        while time.monotonic() < ends:
            at = self.ledger.now()
            sent[self.send(CALM, n=len(sent), mock_delay=CALM_JOB_S)] = at
            time.sleep(CALM_EVERY_S)

        def done() -> dict[str, Record]:
            found = {name: held.record for name, held in self.ledger.load_many(list(sent)).items()}
            return found if len(found) == len(sent) and all(one.ended_at for one in found.values()) else {}

        records = eventually(done, timeout=60, every=0.5)
        return Calm(
            taken=sorted(record.submitted_at - sent[name] for name, record in records.items()),
            ended=sorted(record.ended_at - sent[name] for name, record in records.items()),
        )


def refused(before: Any, after: Any) -> tuple[int, int]:
    """Calls answered 429, and all calls, between two counts."""
    found = [0, 0]
    for endpoint, ops in after.items():
        for op, codes in ops.items():
            for code, count in codes.items():
                new = count - before.get(endpoint, {}).get(op, {}).get(code, 0)
                found[0] += new if code == "429" else 0
                found[1] += new
    return found[0], found[1]


def taken_of(counts: Any, endpoint: str) -> int:
    """How many POST /run were answered well."""
    return int(counts.get(endpoint, {}).get("run", {}).get("200", 0))


def measure(flood: Flood, seconds: float, permitted_10s: float) -> dict[str, Any]:
    """Open the sluice, and count for so long."""
    idle = flood.calm(15)
    flood.load(int(permitted_10s * (seconds / 10 + 2)))
    busy: list[Calm] = []
    before = flood.calls()
    for endpoint in FLOODED:
        flood.ask("resume", endpoint)
    started = time.monotonic()
    quiet = threading.Thread(target=lambda: busy.append(flood.calm(seconds)))
    quiet.start()
    rates: list[int] = []
    last = before
    while time.monotonic() - started < seconds:
        time.sleep(max(0.0, started + (len(rates) + 1) * 10 - time.monotonic()))
        now = flood.calls()
        rates.append(sum(taken_of(now, name) - taken_of(last, name) for name in FLOODED))
        last = now
    after = flood.calls()
    elapsed = time.monotonic() - started
    quiet.join()
    over, calls = refused(before, after)
    taken = sum(taken_of(after, name) - taken_of(before, name) for name in FLOODED)
    return {
        "seconds": round(elapsed, 1),
        "calls": calls,
        "answered_429": over,
        "answered_429_part": round(over / max(1, calls), 5),
        "submits": taken,
        "used_part": round(taken / (permitted_10s * len(FLOODED) * elapsed / 10), 3),
        "submits_each_10s": rates,
        "calm_taken_ms": beside(idle.taken, busy[0].taken),
        "calm_ended_ms": beside(idle.ended, busy[0].ended),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench flood")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--halved", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-flood-") as directory, ExitStack() as stack:
        flood = Flood(stack, Path(directory), scale=asked.scale, halved=asked.halved, processes=asked.processes)
        permitted = LIMITS[Operation.RUN].calls * asked.scale * (0.5 if asked.halved else 1.0)
        told = {"scale": asked.scale, "halved": asked.halved, **measure(flood, asked.seconds, permitted)}
    print(json.dumps(told) if asked.json else "\n".join(f"{k:18} {v}" for k, v in told.items()))  # noqa: T201


if __name__ == "__main__":
    main()
