"""What a job in flight costs in Redis beyond its input, output and canvas.

    scripts/bench memory [--jobs 100000]

Records are accepted, sent and submitted through the ledger, as the engine does it, without RunPod; then used_memory is
compared. The event stream has a bound of its own and is trimmed away before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path

from bridge.embedded import EmbeddedRedis
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect

BATCH = 500


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory")
    parser.add_argument("--jobs", type=int, default=100_000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        redis = EmbeddedRedis(directory=Path(directory))
        redis.start()
        try:
            client = connect(f"redis://127.0.0.1:{redis.port}/0")
            ledger = Ledger(client, Names(), Rules())
            ledger.engines.beat("bench")
            before, started = _used(ledger), time.monotonic()
            for _ in range(jobs // BATCH):
                _batch(ledger)
            ledger.client.xtrim(ledger.names.events, maxlen=0, approximate=False)
            per_job = (_used(ledger) - before) / jobs
            print(f"jobs in flight   {jobs:>10}")  # noqa: T201
            print(f"bytes per job    {per_job:>10.0f}")  # noqa: T201
            print(f"records per s    {jobs / (time.monotonic() - started):>10.0f}")  # noqa: T201
        finally:
            redis.stop()


def _used(ledger: Ledger) -> int:
    info: dict[str, int] = ledger.client.info("memory")
    return int(info["used_memory"])


def _batch(ledger: Ledger) -> None:
    table = ledger.table
    for _ in range(BATCH):
        record = Record(
            id=str(uuid.uuid4()),
            endpoint="sdxl",
            endpoint_id="abc123def456gh",
            base_url="https://api.runpod.ai/v2",
            door="celery",
            fingerprint="0123456789abcdef",
            nonce="0123456789abcdef",
            sinks="celery",
            ttl_ms=86_400_000,
        )
        held = Held(record, {Long.INPUT: "{}"})
        ledger.accept(record.id, lambda now, wish, held=held: table.accept(held, now, wish))  # type: ignore[misc]
    claimed = ledger.claim(Step.SUBMIT, {"sdxl": BATCH}, lease_ms=60_000)
    sending = partial(
        table.sending, lease=claimed.token, endpoint_id="abc123def456gh", base_url="https://api.runpod.ai/v2"
    )
    sent = ledger.change_many([(held, sending) for held in claimed.records])
    for change in sent:
        taken = partial(table.submitted, job_id=f"{uuid.uuid4()}-u1", status="IN_QUEUE", poll_ms=60_000)
        ledger.change(change.after, taken)


if __name__ == "__main__":
    main()
