"""Progress never overwrites an end in Celery's result backend, in the one order in which it could."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from bridge.engine.states import States
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.heard import Heard
from bridge.job.record import Long, Record
from bridge.job.words import Sink, Step
from bridge.ledger import Ledger, Names, connect
from tests.house import hang_up


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's backend
def test_a_progress_that_was_written_behind_the_end_is_taken_back(redis_url: str) -> None:
    """The state is looked at, then the whole end happens, then the state is written: the next turn repairs it."""
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
            held, lambda h, now: table.observed(h, now, Heard("j1", "COMPLETED", 1, output='{"o":1}'), poll_ms=1)
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
        # Celery's own backend refuses to cover a SUCCESS; the pipeline that writes many states does not look.
        store(batch)

    states._store = ends_first  # type: ignore[method-assign]
    states.once()
    states._store = store  # type: ignore[method-assign]
    states.once()
    meta = app.backend.get_task_meta("a", cache=False)
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"o": 1})
    client.close()
    hang_up(app)
