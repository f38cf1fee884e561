"""How long after its job has run a caller has the result, by the bridge and by other ways, in one run.

    scripts/bench result [--jobs 40] [--seconds 2] [--at-once 8] [--json]

From the call that sends until the result is there, less the job's own run time, which is log-normal and 30 % wide. The
bridge knows the endpoint's run times from 128 jobs before. Celery tasks are sent and their results looked for every
millisecond; the clients of the `runpod` package are called here, with no queue between.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp

from bridge.embedded import EmbeddedRedis
from bridge.emulator import Emulator, EndpointConfig
from tests.bench.latency import percentile
from tests.support.helpers import eventually, free_port
from tests.support.house import API_KEY, House

#: Wide enough that polls once a second are late by anything up to a second.
SPREAD = 0.3
PLAIN = ("-m", "celery", "-A", "tests.bench.plain", "worker", "-l", "INFO", "-P", "threads", "-c", "20")
#: Sends a job that runs so many seconds, and returns when its result is there.
Way = Callable[[float], None]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench result")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        server = EmbeddedRedis(directory=Path(directory) / "redis")
        server.start()
        try:
            for number, webhook in enumerate((True, False)):
                home = Path(directory) / str(number)
                home.mkdir()
                told |= _ways(home, f"redis://127.0.0.1:{server.port}/{number}", asked, webhook=webhook)
        finally:
            server.stop()
    sys.stdout.write((json.dumps(told) if asked.json else "\n".join(f"{k}: {v}" for k, v in told.items())) + "\n")


def _ways(home: Path, url: str, asked: argparse.Namespace, *, webhook: bool) -> dict[str, Any]:
    """The bridge with webhooks; or by polling, and all others."""
    port, draw = free_port(), random.Random("result")
    settings = {"http_bind": f"127.0.0.1:{port}"}
    if webhook:
        settings["webhook_base_url"] = f"http://127.0.0.1:{port}"

    def runs(count: int) -> list[float]:
        return [asked.seconds * math.exp(draw.gauss(0, SPREAD)) for _ in range(count)]

    config = EndpointConfig(workers_min=1, jobs_per_worker=1000)
    with (
        Emulator(endpoints={"demo": config}, api_keys=[API_KEY]) as emulator,
        House(home, broker=url, redis_url=url, emulator=emulator, **settings) as house,
    ):
        house.ledger.runs.remember("demo", [(5, int(run * 1000)) for run in runs(128)])
        house.worker()

        def bridge(run: float) -> None:
            _stored(house, house.send({"mock_delay": run}).id)

        if webhook:
            return {"bridge, webhook": _measure(bridge, runs, asked)}
        plain = house.start("plain", sys.executable, *PLAIN)
        eventually(lambda: "ready." in plain.said(), timeout=30)

        def task(name: str) -> Way:
            return lambda run: _stored(house, house.app.send_task(name, args=["demo", {"mock_delay": run}]).id)

        ways = {
            "bridge, polling": bridge,
            "Celery task, runpod package": task("plain.run"),
            "Celery task, requests": task("plain.poll"),
            **_clients(emulator.base_url),
        }
        return {name: _measure(way, runs, asked) for name, way in ways.items()}


def _clients(base_url: str) -> dict[str, Way]:
    """The `runpod` package as its documentation uses it."""
    import runpod  # noqa: PLC0415  (reads its settings when it is imported)

    runpod.api_key, runpod.endpoint_url_base = API_KEY, base_url
    endpoint = runpod.Endpoint("demo")

    def run(seconds: float) -> None:
        endpoint.run({"input": {"mock_delay": seconds}}).output(timeout=60)

    def run_sync(seconds: float) -> None:
        endpoint.run_sync({"input": {"mock_delay": seconds}}, timeout=60)

    async def job(seconds: float) -> None:
        async with aiohttp.ClientSession() as session:
            one = await runpod.AsyncioEndpoint("demo", session).run({"mock_delay": seconds})
            await one.output(timeout=60)

    return {
        "runpod run().output()": run,
        "runpod run_sync()": run_sync,
        "runpod asyncio": lambda seconds: asyncio.run(job(seconds)),
    }


def _stored(house: House, request_id: str) -> None:
    deadline, key = time.monotonic() + 60, f"celery-task-meta-{request_id}"
    while time.monotonic() < deadline:
        text: Any = house.client.get(key)
        if text and json.loads(text)["status"] == "SUCCESS":
            return
        time.sleep(0.001)
    sys.exit(f"scripts/bench: {request_id} has no result after 60 s")


def _measure(way: Way, runs: Callable[[int], list[float]], asked: argparse.Namespace) -> dict[str, float]:
    way(asked.seconds)  # opens connections

    def late(run: float) -> float:
        began = time.monotonic()
        way(run)
        return (time.monotonic() - began - run) * 1000

    with ThreadPoolExecutor(asked.at_once) as pool:
        found = list(pool.map(late, runs(asked.jobs)))
    return {f"p{percent}_ms": percentile(found, percent) for percent in (50, 95, 99)}


if __name__ == "__main__":
    main()
