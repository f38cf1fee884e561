"""How long an idle bridge takes to carry a cancel: from the message to RunPod's /cancel, while 10,000 requests wait.

    scripts/bench cancel [--cancels 100] [--waiting 10000] [--where ledger|queue] [--door task|stream] [--json]

`--where queue`: the waiting requests are messages in `bridge.run` that the bridge worker does not take (its doors are
closed by BRIDGE_WAITING_MAX, as in a flood). `--where ledger`: all of them are accepted, and wait for an endpoint that
is paused. The cancelled jobs run on another endpoint. The emulator is in this process, so both ends are read from one
clock. RunPod's limit of 100 cancels in 10 s is kept by spacing them.
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
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House

#: Seconds between two cancels: under RunPod's limit.
APART_S = 0.12


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench cancel")
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--where", choices=["ledger", "queue"], default="queue")
    parser.add_argument("--door", choices=["task", "stream"], default="task")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        told = measure(Path(directory), asked.cancels, asked.waiting, asked.where, asked.door)
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for name, value in told.items():
        print(f"{name:28}{value:>10}")  # noqa: T201


def measure(directory: Path, cancels: int, waiting: int, where: str, door: str) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    redis = EmbeddedRedis(directory=directory / "redis")
    redis.start()
    url = f"redis://127.0.0.1:{redis.port}/0"
    settings = {"endpoints": "demo,held", "waiting_max": str(cancels + 400 if where == "queue" else 100_000)}
    try:
        with (
            Emulator(endpoints=["demo", "held"], api_keys=[API_KEY]) as emulator,
            House(directory, broker=url, redis_url=url, emulator=emulator, **settings) as house,
        ):
            house.worker()
            ahead = _clock_of(emulator)
            jobs = [house.send({"mock_delay": 3600, "n": n}).id for n in range(cancels)]
            for request_id in jobs:
                eventually(lambda one=request_id: house.phase(one) == "TRACKED", timeout=60)  # type: ignore[misc]
            house.ask("pause", endpoint="held")
            with house.app.producer_pool.acquire(block=True) as producer:
                for n in range(waiting):
                    kwargs = {"input": {"n": n}, "endpoint": "held"}
                    house.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", producer=producer)
            at_rest = _at_rest(house, waiting, where)
            asked_at: dict[str, float] = {}
            for request_id in jobs:
                asked_at[request_id] = time.time()
                _cancel(house, request_id, door)
                time.sleep(APART_S)
            eventually(lambda: len(_calls(emulator)) >= cancels, timeout=30)
            called_at = _calls(emulator)
            record_of = {held.record.id: held.record.job_id for held in house.ledger.load_many(jobs).values()}
            took = [(called_at[record_of[one]] + ahead - at) * 1000 for one, at in asked_at.items()]
            assert _at_rest(house, waiting, where) == at_rest, "the waiting requests moved meanwhile"
    finally:
        redis.stop()
    return {
        "cancels": cancels,
        "door": door,
        "in_the_queue": at_rest[0],
        "accepted_and_waiting": at_rest[1],
        "message_to_cancel_p50_ms": round(statistics.median(took), 2),
        "message_to_cancel_p90_ms": round(statistics.quantiles(took, n=10)[8], 2),
        "message_to_cancel_p99_ms": round(statistics.quantiles(took, n=100)[98], 2),
    }


def _at_rest(house: House, waiting: int, where: str) -> tuple[int, int]:
    """Messages in the queue, and requests accepted, once nothing moves any more."""

    def seen() -> tuple[int, int]:
        return int(house.client.llen("bridge.run")), house.ledger.counts("held").get("ACCEPTED", 0)

    if where == "ledger":
        eventually(lambda: seen() == (0, waiting), timeout=120, every=0.2)
        return seen()
    last = [seen()]

    def still() -> bool:
        last.append(seen())
        return len(last) > 10 and len(set(last[-10:])) == 1

    eventually(still, timeout=120, every=0.2)
    return last[-1]


def _cancel(house: House, request_id: str, door: str) -> None:
    if door == "stream":
        house.client.xadd("bridge:commands", {"data": json.dumps({"op": "cancel", "id": request_id})})
    else:
        house.app.send_task("bridge.cancel", kwargs={"id": request_id}, queue="bridge.control", ignore_result=True)


def _calls(emulator: Emulator) -> dict[str, float]:
    return {call["job_id"]: call["time"] for call in reversed(emulator.calls("demo")) if call["op"] == "cancel"}


def _clock_of(emulator: Emulator) -> float:
    """What to add to the emulator's times to get wall time: by the quickest of many calls, right to half its time."""
    found: list[tuple[float, float]] = []
    with requests.Session() as session:
        for n in range(50):
            sent_at = time.time()
            url, key = f"{emulator.base_url}/demo/status/clock-{n}", {"Authorization": f"Bearer {API_KEY}"}
            session.get(url, headers=key, timeout=5)
            took = time.time() - sent_at
            at = next(call["time"] for call in emulator.calls("demo") if call["job_id"] == f"clock-{n}")
            found.append((took, sent_at + took / 2 - at))
    return min(found)[1]


if __name__ == "__main__":
    main()
