"""The shared budget under a flood: calls that RunPod refuses, part of the rate used, a calm endpoint's latency.

    scripts/bench flood [--seconds 60] [--processes 4] [--scale 1.0] [--halved] [--json]

Two endpoints are flooded, a third gets five requests a second; four bridge worker processes; the emulator enforces
RunPod's limits. `--scale` divides the limits of both sides alike, where the machine cannot carry the whole; `--halved`
halves RunPod's alone, of which the bridge is told nothing. The flood waits in the ledger when the clock starts.
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
from pathlib import Path
from typing import Any

from bridge.embedded import EmbeddedRedis
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect
from bridge.runpod.operations import LIMITS, Operation
from tests.helpers import eventually
from tests.house import API_KEY, ROOT, Process, foreign_app

FLOODED, CALM = ("a", "b"), "calm"
CALM_EVERY_S = 0.2


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

    def send(self, endpoint: str, n: int) -> str:
        """One request whose result nobody waits for."""
        kwargs = {"input": {"n": n}, "endpoint": endpoint}
        return str(self.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", ignore_result=True).id)

    def ask(self, task: str, endpoint: str) -> None:
        """A control task."""
        self.app.send_task(f"bridge.{task}", kwargs={"endpoint": endpoint}, queue="bridge.control").get(timeout=30)

    def load(self, each: int) -> None:
        """Let so many requests of the flooded endpoints wait in the ledger."""
        for endpoint in FLOODED:
            self.ask("pause", endpoint)
            for n in range(each):
                self.send(endpoint, n)
        eventually(
            lambda: all(self.ledger.counts(name).get("ACCEPTED", 0) >= each for name in FLOODED), timeout=300, every=0.5
        )

    def calm(self, seconds: float) -> list[int]:
        """Milliseconds from acceptance to RunPod's having taken it, of the endpoint that has little to do."""
        ids: list[str] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            ids.append(self.send(CALM, len(ids)))
            time.sleep(CALM_EVERY_S)
        eventually(lambda: all(self.ledger.load(one) for one in ids), timeout=30)

        def taken(request_id: str) -> int:
            held = self.ledger.load(request_id)
            return held.record.submitted_at - held.record.accepted_at if held and held.record.submitted_at else 0

        eventually(lambda: all(taken(one) for one in ids), timeout=30)
        return sorted(taken(one) for one in ids)


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
    busy: list[int] = []
    before = flood.calls()
    for endpoint in FLOODED:
        flood.ask("resume", endpoint)
    started = time.monotonic()
    quiet = threading.Thread(target=lambda: busy.extend(flood.calm(seconds)))
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
        "calm_p50_ms": {"idle": statistics.median(idle), "flooded": statistics.median(busy)},
        "calm_p95_ms": {"idle": idle[int(len(idle) * 0.95)], "flooded": busy[int(len(busy) * 0.95)]},
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
