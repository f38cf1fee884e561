"""Back-pressure: a flood stays in the broker, and the door opens again by itself (I16, HARDENING 11)."""

from __future__ import annotations

import re
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge.engine.accept.back_pressure import Marks, Pressure
from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.endpoints.load import measure
from tests.support.helpers import eventually, free_port
from tests.support.house import House
from tests.support.slow import slow

MARKS = Marks(waiting=10, waiting_bytes=1_000, memory_ratio=0.75, outbox=3, scheduled=5)


def accept(ledger: Ledger, request_id: str, *, endpoint: str = "demo", size: int = 20) -> Held:
    """One request whose input is `size` bytes long."""
    held = Held(Record(id=request_id, endpoint=endpoint), {Long.INPUT: "x" * size})

    def build(now: int, wish: Any) -> Change:
        return ledger.table.accept(held, now, wish)

    accepted = ledger.accept(request_id, build).held
    assert accepted is not None
    return accepted


def fresh(ledger: Ledger, marks: Marks = MARKS, **own: int) -> Callable[[str | None], str | None]:
    """`closed` of a pressure that measures each time it is asked for the first time."""
    pressure = Pressure(lambda: measure(ledger), marks, own.get)

    def closed(endpoint: str | None = None) -> str | None:
        pressure._believed_s = 0.0
        return pressure.closed(endpoint)

    return closed


def test_the_door_closes_at_the_mark_and_opens_below_the_low_one(ledger: Ledger) -> None:
    """Hysteresis: between the two marks it stays as it is."""
    closed = fresh(ledger)
    held = [accept(ledger, f"r{n}") for n in range(9)]
    assert closed(None) is None
    held.append(accept(ledger, "r9"))
    assert closed(None) == "waiting"
    for one in held[:2]:
        ledger.change(one, ledger.table.purge_pending)
    assert measure(ledger).waiting == {"demo": 8}
    assert closed(None) == "waiting"
    ledger.change(held[2], ledger.table.purge_pending)
    assert closed(None) is None


def test_bytes_of_inputs_count_until_the_change_that_drops_them(ledger: Ledger) -> None:
    """Added by the accepting script, taken off by the one that writes the job id; a repeated accept adds nothing."""
    closed = fresh(ledger)
    accept(ledger, "small", size=100)
    accept(ledger, "large", size=900)
    accept(ledger, "large", size=900)
    assert measure(ledger).waiting_bytes == {"demo": 1_000}
    assert closed(None) == "waiting_bytes"
    claimed = ledger.claim(Step.SUBMIT, {"demo": 5}, lease_ms=60_000)
    sent = {  # two of one millisecond come in any order
        one.record.id: ledger.change(
            one, lambda h, now: ledger.table.sending(h, now, claimed.token, endpoint_id="e", base_url="u")
        ).after
        for one in claimed.records
    }
    assert measure(ledger).waiting_bytes == {"demo": 1_000}  # still held: it may be sent again
    ledger.change(sent["large"], lambda h, now: ledger.table.submitted(h, now, "j1", "IN_QUEUE", poll_ms=1_000))
    assert measure(ledger).waiting_bytes == {"demo": 100}
    assert closed(None) is None
    ledger.change(sent["small"], lambda h, now: ledger.table.refused(h, now, "input: no"))
    assert measure(ledger).waiting_bytes == {"demo": 0}


def test_bytes_that_an_older_version_left_uncounted_heal_when_nothing_waits(ledger: Ledger) -> None:
    """A sum that is wrong for ever would close the door for ever."""
    one = accept(ledger, "r1")
    ledger.client.hincrby(ledger.names.count("demo"), "waiting_bytes", 12_345)
    ledger.change(one, ledger.table.purge_pending)
    assert measure(ledger).waiting_bytes == {"demo": 0}


def test_one_endpoint_fills_its_share_and_no_more(ledger: Ledger) -> None:
    """Half of the mark, or the endpoint's own; the door itself stays open, and so do the other endpoints."""
    closed = fresh(ledger, own=2)
    for n in range(5):
        accept(ledger, f"r{n}")
    accept(ledger, "o1", endpoint="own")
    assert (closed("demo"), closed("own"), closed("other"), closed(None)) == ("endpoint", None, None, None)
    accept(ledger, "o2", endpoint="own")
    assert (closed("own"), closed(None)) == ("endpoint", None)


def test_a_relay_that_is_behind_closes_the_door(redis_url: str) -> None:
    """Counted from what AMQP has confirmed last."""
    client = connect(redis_url)
    relayed = Ledger(client, Names(), Rules(), relayed=True)
    for n in range(2):
        accept(relayed, f"r{n}")
    assert fresh(relayed)(None) is None
    accept(relayed, "r3")
    assert fresh(relayed)(None) == "outbox"
    client.close()


def test_a_full_memory_closes_the_door(ledger: Ledger) -> None:
    """The figures are the server's own."""
    used = int(ledger.client.info("memory")["used_memory"])
    ledger.client.config_set("maxmemory", int(used / 0.8))
    try:
        assert fresh(ledger)(None) == "memory"
    finally:
        ledger.client.config_set("maxmemory", 0)
    assert fresh(ledger)(None) is None


def test_pressure_never_raises_and_keeps_its_last_answer(ledger: Ledger) -> None:
    """A ledger that is away is held at the doors; it is not this one's to tell."""
    away = Pressure(
        lambda: measure(Ledger(redis.Redis(port=free_port(), retry=Retry(NoBackoff(), 0)), Names(), Rules())), MARKS
    )
    assert away.closed() is None


def test_what_this_process_took_since_is_measured_before_the_mark_is_passed(ledger: Ledger) -> None:
    """No half second's worth of requests above the mark."""
    pressure = Pressure(lambda: measure(ledger), MARKS)
    assert pressure.closed() is None
    for n in range(10):
        accept(ledger, f"r{n}")
        pressure.took()
    assert pressure.closed() == "waiting"


@pytest.mark.parametrize(
    ("broker", "pool", "mark", "flood"),
    [
        ("redis", "threads", 100, 600),
        slow("amqp", "threads", 100, 600),
        pytest.param("redis", "gevent", 100, 600, marks=pytest.mark.bench),
        pytest.param("amqp", "prefork", 100, 600, marks=pytest.mark.bench),
        pytest.param("redis", "threads", 500, 5_000, marks=[pytest.mark.bench, pytest.mark.timeout(1800)]),
    ],
)
def test_a_flood_stays_in_the_broker_and_all_of_it_ends(
    broker: str, pool: str, mark: int, flood: int, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The ledger never holds more than the mark and what was prefetched; cancels go on; nobody has to open the door."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url, waiting_max=str(mark)) as house:
        worker = house.worker(pool=pool, BRIDGE_HTTP_BIND="127.0.0.1:0", BRIDGE_LOG_JSON="on")
        bound = re.search(r'"bind": "(127.0.0.1:\d+)"', worker.said())
        assert bound is not None
        house.ask("pause", endpoint="demo", reason="test")
        most = 0
        sent: list[str] = []

        def producer() -> None:
            sent.extend(house.send({"n": n}).id for n in range(flood))

        thread = threading.Thread(target=producer)
        thread.start()

        def waiting() -> int:
            nonlocal most
            count = house.ledger.counts("demo").get("ACCEPTED", 0)
            most = max(most, count)
            return count

        def flooded() -> bool:
            return waiting() >= mark and not thread.is_alive()

        eventually(flooded, timeout=60 + flood / 100)
        ready = urllib.request.urlopen(f"http://{bound[1]}/readyz").read().decode()
        assert '"intake":"waiting"' in ready
        cancelled = house.ask("cancel", id=sent[0])  # the control queue goes on
        assert cancelled["outcome"] == "cancelled"
        house.ask("resume", endpoint="demo")

        def ended() -> bool:
            waiting()
            phases = house.ledger.counts("demo")
            return phases.get("CLOSED", 0) == flood

        eventually(ended, timeout=90 + flood / 20)
        # Beyond the mark: what was prefetched, and what a worker takes in the tenths of a second while the door shuts.
        prefetched, closing = 4 * 4, 150
        assert most <= mark + prefetched + closing, most
        assert house.submits() == flood - 1


def test_a_batch_waits_while_its_endpoint_has_its_share(redis_url: str, tmp_path: Path) -> None:
    """`bridge run --file` knows the endpoint before it takes a line: `max_waiting` of that one holds it back."""
    (tmp_path / "bridge.toml").write_text("[endpoints.demo]\nmax_waiting = 20\n")
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(60)))
    with House(tmp_path, broker=redis_url, redis_url=redis_url, config_file=str(tmp_path / "bridge.toml")) as house:
        house.worker()
        house.ask("pause", endpoint="demo", reason="test")
        files = ["--file", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
        batch = house.fork("batch", sys.executable, "-m", "bridge.cli", "run", *files)
        eventually(lambda: house.ledger.counts("demo").get("ACCEPTED", 0) >= 20, timeout=20)
        assert house.ledger.counts("demo")["ACCEPTED"] <= 21
        assert batch.running
        house.ask("resume", endpoint="demo")
        eventually(lambda: not batch.running, timeout=40)
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 60
