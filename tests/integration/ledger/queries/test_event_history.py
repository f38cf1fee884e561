"""What is found of one request among everybody's events, and what that costs."""

from __future__ import annotations

from functools import partial

import pytest

from bridge.job.enums import Wish
from bridge.ledger import Ledger
from bridge.ledger.queries import event_history
from bridge.ledger.queries.event_history import History
from bridge.ledger.streams.outbox import Outbox
from tests.support.house import born


def names(found: list[dict[str, object]]) -> list[str]:
    """Of events."""
    return [str(event["type"]).rpartition(".")[2] for event in found]


def test_a_requests_events_are_found_among_everybodys(ledger: Ledger) -> None:
    """Ids that begin alike are others; what a stranger has written there is passed over."""
    ledger.accept_many([(name, born(name, ledger)) for name in ("a", "aa", "a:b")])
    for data in ('{"subject":"a"}', '{"subject":"a","sequence":"x","data":{},"type":"t"}', "[]", '"subject":"a"'):
        ledger.client.xadd(ledger.names.events, {"data": data})
    held = ledger.load("a")
    assert held is not None
    wish = partial(ledger.table.wish, cause=Wish.CANCEL, by="me", door="console")
    ended = ledger.change(held, wish).record
    found = History(ledger).of(ended)
    assert (names(found), {event["subject"] for event in found}) == (["accepted", "cancelled"], {"a"})


def test_who_looks_again_reads_nothing_that_he_has_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the record's sequence is the same the stream is not asked at all."""
    asked = []
    real = Outbox.entries

    def entries(self: Outbox, cursor: str, count: int) -> object:
        asked.append(cursor)
        return real(self, cursor, count)

    monkeypatch.setattr(Outbox, "entries", entries)
    ledger.accept_many([("a", born("a", ledger))])
    held, past = ledger.load("a"), History(ledger)
    assert held is not None
    assert names(past.of(held.record)) == ["accepted"]
    first = len(asked)
    assert names(past.of(held.record)) == ["accepted"]
    assert len(asked) == first


def test_a_walk_is_bounded_however_many_events_there_are(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own beginning is found; a walk for what is not there ends."""
    monkeypatch.setattr(event_history, "WALK", 400)
    ledger.accept_many([("mine", born("mine", ledger))])
    others = [f"other-{n}" for n in range(1_500)]
    ledger.accept_many([(name, born(name, ledger)) for name in others])
    held = ledger.load("mine")
    assert held is not None
    assert names(History(ledger).of(held.record)) == ["accepted"]
    ledger.client.xtrim(ledger.names.events, maxlen=1_000, approximate=False)
    assert History(ledger).of(held.record) == []
