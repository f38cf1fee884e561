"""What requests of tomorrow cost: bytes in Redis, CPU of engine and Redis while they wait, control, how late each is.

    scripts/bench schedule [--requests 1000000] [--due 2000] [--seconds 20]

Requests are accepted through the ledger with a `not_before` of tomorrow; an idle look of the engine is timed beside 500
and beside all of them. Then some more come due within seconds, and the engine's own loop lets them go while the others
wait. The event stream has a bound of its own, and is trimmed away before bytes are counted.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from bridge.embedded import EmbeddedRedis
from bridge.engine.submit.scheduled_requests import Schedule
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Status, Step, Wish
from bridge.job.record import Long, Record, altered
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.records.write import Build

BATCH, LOOKS, CONTROLLED = 500, 500, 500
DAY_MS = 86_400_000


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench schedule")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--due", type=int, default=2_000, help="Requests that come due while the others wait.")
    parser.add_argument("--seconds", type=int, default=20, help="Over how long they come due.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        redis = EmbeddedRedis(directory=Path(directory))
        redis.start()
        try:
            ledger = Ledger(connect(f"redis://127.0.0.1:{redis.port}/0"), Names(), Rules())
            ledger.engines.beat("bench")
            accept(ledger, BATCH, DAY_MS, 0)
            alone, before, started = look(ledger), used(ledger), time.monotonic()
            for _ in range(given.requests // BATCH):
                accept(ledger, BATCH, DAY_MS, DAY_MS)
                ledger.client.xtrim(ledger.names.events, maxlen=0, approximate=False)
            took = time.monotonic() - started
            say("requests that wait", ledger.scheduled("sdxl"), "")
            say("Redis, each", (used(ledger) - before) / given.requests, "bytes")
            say("accepted", given.requests / took, "a second")
            for name, cost in (("beside 500", alone), ("beside all", look(ledger))):
                say(f"engine's CPU of a look {name}", cost[0], "us")
                say(f"Redis' CPU of a look {name}", cost[1], "us")
            asked = controlled(ledger)
            for what, times in asked.items():
                say(f"{what} beside all, p50", times[len(times) // 2], "ms")
                say(f"{what} beside all, p99", times[int(len(times) * 0.99)], "ms")
            late = let_go(ledger, given.due, given.seconds)
            for name, at in (("p50", 0.5), ("p99", 0.99), ("most", 1.0)):
                say(f"let go late, {name}", late[min(len(late) - 1, int(len(late) * at))], "ms")
            say("let go, of one second", at_once(ledger, given.due), "a second")
        finally:
            redis.stop()


def say(what: str, figure: float, unit: str) -> None:
    """One line."""
    print(f"{what:36} {figure:>12.1f} {unit}")  # noqa: T201


def used(ledger: Ledger) -> int:
    """Bytes of Redis."""
    info: dict[str, int] = ledger.client.info("memory")
    return int(info["used_memory"])


def accept(ledger: Ledger, count: int, after_ms: int, spread_ms: int) -> None:
    """Requests for later, evenly spread."""

    def build(record: Record, ahead_ms: int) -> Build:
        return lambda now, wish: ledger.table.accept(
            Held(altered(record, not_before=now + ahead_ms), {Long.INPUT: '{"prompt":"a heron"}'}), now, wish
        )

    many = []
    for n in range(count):
        record = Record(
            id=str(uuid.uuid4()), endpoint="sdxl", endpoint_id="abc123def456gh", door="celery",
            fingerprint="0123456789abcdef", nonce="0123456789abcdef", sinks="celery", ttl_ms=DAY_MS,
        )  # fmt: skip
        many.append((record.id, build(record, after_ms + spread_ms * n // count)))
    ledger.accept_many(many)


def look(ledger: Ledger) -> tuple[float, float]:
    """CPU of one look of the schedule's loop: this process, and Redis; microseconds."""
    loop = Schedule(ledger, lambda: None)
    mine, redis = resource.getrusage(resource.RUSAGE_SELF), cpu_of_redis(ledger)
    for _ in range(LOOKS):
        loop.once()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - mine.ru_utime - mine.ru_stime
    return spent / LOOKS * 1e6, (cpu_of_redis(ledger) - redis) / LOOKS * 1e6


def cpu_of_redis(ledger: Ledger) -> float:
    """Seconds so far."""
    info: dict[str, float] = ledger.client.info("cpu")
    return info["used_cpu_sys"] + info["used_cpu_user"]


def controlled(ledger: Ledger) -> dict[str, list[float]]:
    """How long a read and a cancel of one that waits take, as control does them; ms, sorted."""
    ids: Any = ledger.client.zrandmember(ledger.names.due("sdxl", Step.SCHEDULED.value), CONTROLLED)
    took: dict[str, list[float]] = {"read": [], "cancelled": []}
    for request_id in ids:
        started = time.perf_counter()
        held = ledger.load(request_id)
        assert held is not None
        took["read"].append((time.perf_counter() - started) * 1e3)
        change = ledger.change(
            held, lambda held, now: ledger.table.wish(held, now, Wish.CANCEL, by="bench", door="cli")
        )
        took["cancelled"].append((time.perf_counter() - started) * 1e3)
        assert change.record.status == Status.CANCELLED
    return {what: sorted(times) for what, times in took.items()}


def let_go(ledger: Ledger, count: int, over_s: int) -> list[int]:
    """How late each of some requests was let go, in ms, sorted; found after a look, so none was later than is said."""
    accept(ledger, count, 5_000, over_s * 1_000)
    waiting: Any = ledger.client.zrange(ledger.names.due("sdxl", Step.SCHEDULED.value), 0, count - 1, withscores=True)
    due: dict[str, float] = dict(waiting)
    loop, late = Schedule(ledger, lambda: None), list[int]()
    while due:
        time.sleep(loop.once())
        seconds, micros = ledger.client.time()
        now = seconds * 1000 + micros // 1000
        gone = ledger.client.zrange(ledger.names.due("sdxl", Step.SUBMIT.value), 0, -1)
        for request_id in due.keys() & set(gone):
            late.append(int(now - due.pop(request_id)))
    return sorted(late)


def at_once(ledger: Ledger, count: int) -> float:
    """How many a second are let go that are all due at the same time."""
    left = ledger.scheduled("sdxl")
    for _ in range(count // BATCH):
        accept(ledger, BATCH, 5_000, 0)
    time.sleep(5.5)
    loop, started = Schedule(ledger, lambda: None), time.monotonic()
    while ledger.scheduled("sdxl") > left:
        loop.once()
    return count // BATCH * BATCH / (time.monotonic() - started)


if __name__ == "__main__":
    main()
