"""Progress never overwrites an end in Celery's result backend, in the one order in which it could."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from bridge.engine.endpoint_health import Waiting
from bridge.engine.tell.celery_states import States
from bridge.engine.tell.retell_waiting import Retell
from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.enums import Phase, Sink, Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from tests.support.house import hang_up


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's backend
def test_a_state_that_comes_behind_the_end_does_not_cover_it(redis_url: str) -> None:
    """The state is looked at, then the whole end happens, then the state is written, and its process dies.

    Nobody would take it back, and who waits for the result would wait for ever.
    """
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    app = Celery("bridge", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(result_serializer="json", accept_content=["json"])
    record = Record(
        id="a", endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n", fingerprint="f"
    )
    new = Held(record, {Long.INPUT: "{}", Long.CANVAS: "{}"})
    ledger.accept("a", lambda now, wish: ledger.table.accept(new, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    table = ledger.table
    sent = ledger.change(
        claimed.records[0],
        lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x"),
    )
    held = ledger.change(sent.after, lambda h, now: table.submitted(h, now, "j1", "IN_PROGRESS", poll_ms=0)).after
    states = States(ledger, app, lambda _endpoint: None, 1 << 20)
    states.put(held)
    store = states._store

    def ends_first(batch: list[Any]) -> None:
        """What another process does between our look and our write."""
        end = ledger.change(
            held, lambda h, now: table.observed(h, now, Observation("j1", "COMPLETED", 1, output='{"o":1}'), poll_ms=1)
        )
        told: dict[str, Any] = {
            "status": "SUCCESS",
            "result": {"o": 1},
            "task_id": "a",
            "traceback": None,
            "children": [],
        }
        client.set("celery-task-meta-a", json.dumps(told))
        ledger.change(end.after, lambda h, now: table.delivered(h, now, Sink.CELERY, round_=1))
        store(batch)

    states._store = ends_first  # type: ignore[method-assign]
    states.once()
    meta = app.backend.get_task_meta("a", cache=False)
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"o": 1})
    client.close()
    hang_up(app)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's backend
@pytest.mark.parametrize("meanwhile", ["leased", "submitting"])
def test_a_request_that_is_being_tried_while_the_others_are_told_why_they_wait_hears_it_too(
    redis_url: str, meanwhile: str
) -> None:
    """It is in no line then, and nobody would tell it until the reason changes again."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    app = Celery("bridge", broker=redis_url, backend=redis_url, set_as_current=False)
    record = Record(id="a", endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", fingerprint="f")
    new = Held(record, {Long.INPUT: "{}", Long.CANVAS: "{}"})
    ledger.accept("a", lambda now, wish: ledger.table.accept(new, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    table, held = ledger.table, claimed.records[0]
    states = States(ledger, app, lambda _held: Waiting("key"), 1 << 20)
    health: Any = SimpleNamespace(
        waiting_for=lambda _: "key",
        gate=SimpleNamespace(state=lambda _: SimpleNamespace(told=""), tell=lambda *_: None),
    )

    def sending(held: Held, now: int) -> Change:
        return table.sending(held, now, claimed.token, endpoint_id="demo", base_url="http://x")

    if meanwhile == "submitting":
        held = ledger.change(held, sending).after
    Retell(ledger, states, health).once()
    states.once()
    if meanwhile == "submitting":
        states.changed(ledger.change(held, table.deferred))
        states.once()
    assert app.backend.get_task_meta("a", cache=False)["result"]["waiting_for"] == "key"
    client.close()
    hang_up(app)


@pytest.fixture
def store(redis_url: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """Writes IN_QUEUE of a request over what is there; what is there then."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    app = Celery("bridge", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(timezone="Asia/Tokyo")
    states = States(ledger, app, lambda _endpoint: None, 1 << 20)

    def written(name: str, before: Mapping[str, Any] | str | None, **record: Any) -> dict[str, Any]:
        key = f"celery-task-meta-{name}"
        if before is not None:
            client.set(key, before if isinstance(before, str) else json.dumps(before))
        made = Record(id=name, endpoint="demo", status="IN_QUEUE", phase=Phase.TRACKED, door="celery", **record)
        states.put(Held(made, {}))
        states._store([(name, states._newest.pop(name))])
        text = str(client.get(key))
        return json.loads(text) if text.startswith("{") else {"status": text}

    try:
        yield written
    finally:
        client.close()
        hang_up(app)


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "REVOKED"])
def test_no_state_covers_an_end_of_its_round(store: Callable[..., dict[str, Any]], status: str) -> None:
    """Whatever the end; what is on its way is replaced."""
    assert store("ended", {"status": status, "date_done": "2026-01-01T00:00:00"})["status"] == status
    assert store("under-way", {"status": "ACCEPTED", "date_done": None})["status"] == "IN_QUEUE"
    assert store("new", None)["status"] == "IN_QUEUE"


def test_a_later_rounds_state_covers_the_end_of_the_round_before(store: Callable[..., dict[str, Any]]) -> None:
    """By the time at which Celery stored it, in the app's own zone; the end of its own round stands."""
    began = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
    old = {"status": "FAILURE", "date_done": "2026-01-01T20:59:59.999999+09:00"}
    own = {"status": "FAILURE", "date_done": "2026-01-01T21:00:00.010000+09:00"}
    assert store("a", old, round=2, submitted_at=began)["status"] == "IN_QUEUE"
    assert store("b", own, round=2, submitted_at=began)["status"] == "FAILURE"


def test_what_is_no_result_of_celerys_is_left_alone(store: Callable[..., dict[str, Any]]) -> None:
    """Another serializer's, or somebody else's."""
    assert store("pickled", "\x80\x04 not JSON")["status"].endswith("not JSON")
