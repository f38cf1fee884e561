"""Many streams at once on one bridge worker: how late each chunk is recorded, and what that costs.

    scripts/bench streams [--streams 400] [--every 1.0] [--chunks 30] [--json]

The emulator is in this process and makes chunk n of a job at `start + (n + 1) * every`; the event of each chunk tells
when the bridge had recorded it. RunPod allows 200 reads a second and endpoint: with 400 busy streams each can be read
every two seconds at best, so that its chunks are a second late on average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bridge.embedded import EmbeddedRedis
from bridge.emulator import Emulator, EndpointConfig
from tests.bench.latency import clock_of
from tests.bench.processes import cpu_s, peak_mib
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench streams")
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--chunks", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        told = measure(Path(directory), asked.streams, asked.every, asked.chunks)
    if asked.json:
        print(json.dumps(told))  # noqa: T201
        return
    for name, value in told.items():
        print(f"{name:28}{value:>10}")  # noqa: T201


def measure(directory: Path, streams: int, every: float, count: int) -> dict[str, Any]:
    """Delays in milliseconds."""
    redis = EmbeddedRedis(directory=directory / "redis")
    redis.start()
    url = f"redis://127.0.0.1:{redis.port}/0"
    config = EndpointConfig(workers_min=1, jobs_per_worker=streams + 10)
    try:
        with (
            Emulator(endpoints={"demo": config}, api_keys=[API_KEY]) as emulator,
            House(directory, broker=url, redis_url=url, emulator=emulator) as house,
        ):
            worker = house.worker()
            ahead = clock_of(house.emulator.base_url, lambda: house.emulator.jobs("demo"))
            given = {"mock_stream": count, "mock_delay": every}
            ids = [house.send(given, stream=True, ignore_result=True).id for _ in range(streams)]
            cpu, began = cpu_s(worker.pid), time.monotonic()
            eventually(lambda: _ended(house, ids), timeout=every * count + 120, every=0.5)
            took, cpu = time.monotonic() - began, cpu_s(worker.pid) - cpu
            started = {job["id"]: job["started"] + ahead for job in emulator.jobs("demo")}
            calls = emulator.calls("demo")
            late: list[float] = []
            indexes: dict[str, list[int]] = {}
            outputs: dict[str, list[str]] = {}
            entries: Any = house.client.xrange(house.ledger.names.events)
            for entry, fields in entries:
                event = json.loads(fields["data"])
                if event["type"] != "bridge.job.chunk":
                    continue
                data = event["data"]
                indexes.setdefault(event["subject"], []).append(data["index"])
                outputs.setdefault(event["subject"], []).append(data["output"])
                made = started[data["job_id"]] + (data["index"] + 1) * every
                late.append(int(entry.partition("-")[0]) - made * 1000)
            whole = [f"chunk {n}" for n in range(1, count + 1)]
            good = sum(indexes.get(i) == list(range(count)) and outputs.get(i) == whole for i in ids)
            threads = next(
                line.split()[1]
                for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
                if line.startswith("Threads")
            )
            reads, peak = [call for call in calls if call["op"] == "stream"], peak_mib(worker.pid)
    finally:
        redis.stop()
    return {
        "streams": streams,
        "chunks_each": count,
        "seconds_between": every,
        "streams_whole_in_order": good,
        "chunk_delay_mean_ms": round(statistics.mean(late)),
        "chunk_delay_p50_ms": round(statistics.median(late)),
        "chunk_delay_p99_ms": round(statistics.quantiles(late, n=100)[98]),
        "chunk_delay_most_ms": round(max(late)),
        "stream_reads_a_second": round(len(reads) / took, 1),
        "most_reads_in_10_s": _most(sorted(call["time"] for call in reads)),
        "stream_429s": sum(call["code"] == 429 for call in reads),
        "status_reads_a_job": round(sum(call["op"] == "status" for call in calls) / streams, 2),
        "worker_cpu_share": round(cpu / took, 2),
        "worker_threads": threads,
        "worker_peak_mib": round(peak),
    }


def _ended(house: House, ids: list[str]) -> bool:
    return all(phase is not None and phase.ended for phase in house.ledger.phases(ids))


def _most(times: list[float]) -> int:
    """The most calls within any 10 s."""
    first = most = 0
    for last, at in enumerate(times):
        while times[first] <= at - 10:
            first += 1
        most = max(most, last - first + 1)
    return most


if __name__ == "__main__":
    main()
