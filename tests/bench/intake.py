"""How many requests a second one process accepts from each door for plain JSON.

    scripts/bench intake [--requests 20000] [--bytes 200] [--submitting] [--json]

The messages wait in queue and stream before the process starts; measured is from the first record to the last, the
process' own CPU beside it. The endpoint is paused, so that nothing but acceptance runs; `--submitting` lets the engine
submit to the emulator meanwhile, as it does in a working house.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pika

from bridge.embedded import EmbeddedRedis
from bridge.ledger import connect
from tests.bench.processes import cpu_s, peak_mib
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RabbitServer, find_rabbitmq


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench intake")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=200, help="of each input")
    parser.add_argument("--submitting", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        folder = Path(directory)
        server = EmbeddedRedis(directory=folder / "redis")
        script = find_rabbitmq()
        (folder / "rabbit").mkdir()
        rabbit = RabbitServer(script, folder / "rabbit") if script else None
        server.start()
        try:
            if rabbit is not None:
                rabbit.start()
            for door in ("stream", "amqp") if rabbit else ("stream",):
                number = 1 + len(told)
                url = f"redis://127.0.0.1:{server.port}/{number}"
                broker = rabbit.fresh_url() if rabbit and door == "amqp" else url
                told[door] = measure(folder, door, broker, url, asked)
        finally:
            server.stop()
            if rabbit is not None:
                rabbit.stop()
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for door, figures in told.items():
        print(door, "  ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201


def measure(folder: Path, door: str, broker: str, url: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One door."""
    home = folder / door
    home.mkdir()
    with House(home, broker=broker, redis_url=url) as house:
        command = [sys.executable, "-m", "bridge.cli", "engine"]
        first = house.start("engine", *command)  # declares; its doors are known to work
        eventually(lambda: "ready" in first.said(), 20)
        if not asked.submitting:
            house.client.xadd("bridge:commands", {"data": '{"op": "pause", "endpoint": "demo"}'})
            eventually(lambda: house.client.xlen("bridge:commands") == 0, 20)
        first.stop()
        fill(door, broker, url, asked.requests, asked.bytes)
        process = house.start("engine", *command)

        def count() -> int:
            return sum(number for name, number in house.ledger.counts("demo").items() if name.isupper())

        eventually(lambda: count() > 0, 60, every=0.002)
        begun, before, had = time.monotonic(), cpu_s(process.pid), count()
        eventually(lambda: count() >= asked.requests, 300, every=0.02)
        seconds = time.monotonic() - begun
        took = asked.requests - had
        return {
            "requests": took,
            "seconds": round(seconds, 2),
            "accepted_per_s": round(took / seconds),
            "cpu_ms_per_request": round((cpu_s(process.pid) - before) * 1000 / took, 3),
            "peak_mib": round(peak_mib(process.pid), 1),
        }


def fill(door: str, broker: str, url: str, requests: int, size: int) -> None:
    """Put all requests where the door will find them."""
    bodies = (json.dumps({"id": f"{door}-{n}", "input": {"prompt": "x" * size}}) for n in range(requests))
    if door == "stream":
        client = connect(url)
        with client.pipeline(transaction=False) as pipe:
            for n, body in enumerate(bodies):
                pipe.xadd("bridge:requests", {"data": body})
                if n % 1000 == 0:
                    pipe.execute()
            pipe.execute()
        client.close()
        return
    connection = pika.BlockingConnection(pika.URLParameters(broker))
    channel = connection.channel()
    for body in bodies:
        channel.basic_publish("bridge.jobs", "job.submit.demo", body.encode(), pika.BasicProperties(delivery_mode=2))
    eventually(lambda: channel.queue_declare("bridge.requests", passive=True).method.message_count == requests, 60)
    connection.close()


if __name__ == "__main__":
    main()
