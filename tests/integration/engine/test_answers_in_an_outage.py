"""RunPod's answers that come while the ledger is away: none is lost to what is told of the endpoint beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.engine.endpoint_health import EndpointHealth
from bridge.engine.submit.submit import Submit
from bridge.engine.watch.stream import Stream
from bridge.errors import (
    ApiError,
    KeyUnusable,
    OutOfCredit,
    Refused,
    Throttled,
    Unanswered,
    Unreachable,
    Unreadable,
)
from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.enums import Phase
from bridge.job.record import Long, Record
from bridge.job.transitions import Table
from bridge.ledger import connect
from bridge.runpod.answers import Chunk, JobState, StreamPage
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.circuit_breaker import CircuitBreaker
from bridge.runpod.operations import Operation
from bridge.settings.config_file import Endpoint
from tests.support.helpers import eventually, free_port
from tests.support.house import House
from tests.support.servers import RedisServer

DEMO = Endpoint(name="demo", id="demo")
#: What RunPod may say to a submit, and what becomes of its request.
SAID = [
    (OutOfCredit("no credit", 402), "deferred"),
    (KeyUnusable("no key"), "deferred"),
    (Refused("odd", 400), "refused"),
    (Throttled("slow down"), "deferred"),
    (Unreachable("no way"), "deferred"),
    (Unanswered("silence"), "unanswered"),
]


class Writes:
    """Remembers what is to be written."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.put_: list[Change] = []

    def put(self, held: Held, make: Callable[[Held, int], Change], done: Any = None) -> None:
        """Made at once."""
        del done
        self.put_.append(make(held, 2_000))

    def write(self, held: Held, make: Callable[[Held, int], Change], weight: float = 0.0) -> None:
        """The same."""
        del weight
        self.put(held, make)


@pytest.fixture
def health() -> Iterator[EndpointHealth]:
    """Of a process whose Redis takes no connection."""
    client = connect(f"redis://127.0.0.1:{free_port()}")
    gate, budget = CircuitBreaker(client), Budget(client)
    found = EndpointHealth(gate, budget, lambda: 1_000, health=lambda *_: None)
    yield found
    client.close()


def held() -> Held:
    """A request whose POST has left."""
    record = Record(
        id="r", endpoint="demo", endpoint_id="demo", door="json", sinks="", phase=Phase.SUBMITTING, submits=1,
        sent_at=1_000, lease="mine", accepted_at=500, attempt=1,
    )  # fmt: skip
    return Held(record, {Long.INPUT: "1"})


def submit(health: EndpointHealth, writes: Writes) -> Submit:
    """As far as it hears answers."""
    away = cast("Any", None)
    ledger = SimpleNamespace(table=Table(Rules()))
    pace = SimpleNamespace(first_ms=lambda _: 100)
    more: list[Any] = [away, away, away, pace, away, 1, 1, away]
    return Submit(cast("Any", ledger), cast("Any", writes), health, *more)


def test_a_job_id_that_comes_while_the_ledger_is_away_is_written_later(health: EndpointHealth) -> None:
    """It was paid for: who loses it submits again."""
    writes = Writes()
    submit(health, writes)._hear(
        held(), Endpoint(name="demo", id="demo"), Operation.RUN, lambda: JobState("j-1", "IN_QUEUE")
    )
    assert [(change.verdict, change.record.job_id) for change in writes.put_] == [("submitted", "j-1")]


@pytest.mark.parametrize(("said", "verdict"), SAID, ids=[type(said).__name__ for said, _ in SAID])
def test_what_is_said_to_a_submit_while_the_ledger_is_away_counts(
    said: ApiError, verdict: str, health: EndpointHealth
) -> None:
    """One that surely was not taken is no lost answer, of which a request has few."""
    writes = Writes()

    def fails() -> JobState:
        raise said

    submit(health, writes)._hear(held(), DEMO, Operation.RUN, fails)
    assert [change.verdict for change in writes.put_] == [verdict]


def test_chunks_that_come_while_the_ledger_is_away_are_written_later(health: EndpointHealth) -> None:
    """RunPod has none of them any more."""
    writes, away = Writes(), cast("Any", None)
    page = StreamPage("IN_PROGRESS", (Chunk("a"), Chunk("b")))
    client = SimpleNamespace(stream=lambda *_: page)
    ledger = cast("Any", SimpleNamespace(table=SimpleNamespace(stream_read=lambda *_, **told: told)))
    callers = cast("Any", SimpleNamespace(busy=0))
    stream = Stream(ledger, cast("Any", writes), health, callers, cast("Any", lambda _: client), away, 1_000)
    stream._page(held(), "me")
    assert [told["chunks"] for told in cast("Any", writes.put_)] == [[("a", None), ("b", None)]]


@pytest.mark.parametrize("op", [Operation.RUN, Operation.STATUS])
def test_an_endpoints_news_are_kept_here_while_nobody_else_can_be_told(op: Operation, health: EndpointHealth) -> None:
    """They are told with the next call's."""
    for said in [*(said for said, _ in SAID), Unreadable("odd", 200)]:
        health.failed("demo", "demo", op, said)
    assert health.wait_s("demo") > 0
    health.ok("demo", submitted=True)
    assert (health.wait_s("demo"), health.ok_at("demo")) == (0.0, 1_000)


def test_an_answer_on_its_way_while_redis_dies_is_no_second_job(
    tmp_path: Path, redis_server: RedisServer, redis_url: str
) -> None:
    """The first one of an endpoint: the others would be told that it answers."""
    settings: dict[str, Any] = {
        "unanswered_grace_s": "1",
        "lease_s": "15",
        "read_timeout_s": "6",
        "connect_timeout_s": "1",
    }
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **settings) as house:
        worker = house.worker()
        house.emulator.fault("hang", op="run", times=1, seconds=3.0)
        house.send({"n": 1}, task_id="r", ignore_result=True)
        eventually(lambda: len(house.emulator.jobs("demo")) == 1)
        redis_server.wait_for_file()
        redis_server.kill()
        try:
            eventually(lambda: "ledger.unavailable" in worker.said())  # it has come, and waits for the ledger
        finally:
            redis_server.start()
        eventually(lambda: house.phase("r") == "CLOSED", timeout=60)
        assert len(house.emulator.jobs("demo")) == 1
        found = house.ledger.load("r")
        assert found is not None
        assert (found.record.submits, found.record.possible_duplicate) == (1, 0)
