"""An end that this process has just read is told without reading it again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.app.task import Context

from bridge.doors.celery.finish.finish_lease import FinishLease, begin
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """An empty one."""
    client = connect(redis_url)
    yield Ledger(client, Names(), Rules())
    client.close()


def ended(ledger: Ledger) -> Held:
    """A request of Celery's that has ended, as it was read, with another output than the ledger's."""
    table = ledger.table
    record = Record(id="r1", endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n")
    held = Held(record, {Long.INPUT: "1", Long.CANVAS: "{}"})
    ledger.accept("r1", lambda now, wish: table.accept(held, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    sending = partial(table.sending, lease=claimed.token, endpoint_id="demo", base_url="http://x")
    sent = ledger.change(claimed.records[0], sending)
    taken = ledger.change(sent.after, partial(table.submitted, job_id="j", status="IN_QUEUE", poll_ms=0))
    heard = Observation("j", "COMPLETED", 1, output='"the ledger\'s"')
    ledger.change(taken.after, partial(table.observed, heard=heard, poll_ms=1))
    known = ledger.load("r1", output=True)
    assert known is not None
    return known._replace(output='"as it was read"')


def turn(ledger: Ledger, known: Held) -> FinishLease:
    """The turn that is taken on what is known."""
    settings = SimpleNamespace(bridge_finish_turn_s=60, bridge_finish_turns_max=5, celery_limit=1_000)
    uses = cast("Any", SimpleNamespace(settings=settings, ledger=ledger))
    return begin(uses, cast("Any", None), Context(id="r1"), 1, "n", known)


def test_what_is_known_is_not_read_again(ledger: Ledger) -> None:
    """The turn is taken onto the version that was read."""
    assert turn(ledger, ended(ledger)).end.result == "as it was read"


def test_of_what_is_known_without_its_output_only_that_is_read(ledger: Ledger) -> None:
    """As a claim brings it: the output is of that version, for the turn is taken onto it."""
    known = ended(ledger)._replace(output=None)
    assert turn(ledger, known).end.result == "the ledger's"


def test_what_has_changed_meanwhile_is_read_again(ledger: Ledger) -> None:
    """The turn is taken onto another version, which may have another output."""
    known = ended(ledger)
    ledger.change(known, partial(ledger.table.finish_sent, delay_ms=1_000))
    assert turn(ledger, known).end.result == "the ledger's"
