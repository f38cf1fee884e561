"""The relay to RabbitMQ, driven by hand: batches, confirms, vanished queues, lost turns, and the stream's bounds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from celery import Celery

from bridge.engine.tell.amqp_publisher import Broker
from bridge.engine.tell.publish import LEASE_MS, Publish
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Phase, Wish
from bridge.job.record import Long, Record, dumps
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.streams.outbox import Bounds
from tests.support.helpers import eventually
from tests.support.proxy import FaultProxy
from tests.support.slow import slow

WIDE = Bounds(count=10**6, bytes=10**9, age_ms=10**9)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger whose events leave on AMQP too."""
    client = connect(redis_url)
    yield Ledger(client, Names(), Rules(), relayed=True)
    client.close()


@pytest.fixture
def channel(amqp_url: str) -> Iterator[Any]:
    """A consumer's own connection; `all` has every event."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    made = connection.channel()
    made.exchange_declare("bridge.events", "topic", durable=True)
    made.queue_declare("all", durable=True)
    made.queue_bind("all", "bridge.events", "job.#")
    yield made
    connection.close()


@pytest.fixture
def relay(ledger: Ledger, amqp_url: str) -> Iterator[Publish]:
    """One publisher, turned by the test."""
    made = relay_of(ledger, amqp_url)
    yield made
    made.close()


def relay_of(ledger: Ledger, url: str, *, patience_s: float = 60.0, bounds: Bounds = WIDE) -> Publish:
    """A publisher of a process of its own."""
    app = Celery("relay", broker=url, set_as_current=False)
    app.conf.broker_transport_options = {"confirm_publish": True}  # as the bridge's own app has it
    return Publish(ledger, Broker(app), lambda _: None, bounds, message_limit=1 << 20, patience_s=patience_s)


def ended(ledger: Ledger, request_id: str, *replies: str) -> str:
    """A request that was accepted and cancelled: two events, the second an end with replies."""
    reply: dict[str, Any] = {"to": None, "on": ["end"], "via": "amqp", "correlation_id": "c-1"}
    if replies:
        reply["to"] = replies[0]
    if len(replies) > 1:
        reply["also"] = [{"to": name, "on": ["end"], "via": "amqp", "correlation_id": "c-2"} for name in replies[1:]]
    sinks = "reply" if replies else "results"
    held = Held(
        Record(id=request_id, endpoint="demo", door="amqp", sinks=sinks, fingerprint="f"), {Long.REPLY: dumps(reply)}
    )
    accepted = ledger.accept(request_id, lambda now, wish: ledger.table.accept(held, now, wish)).held
    assert accepted is not None
    ledger.change(accepted, lambda h, now: ledger.table.wish(h, now, Wish.CANCEL))
    return request_id


def drained(channel: Any, queue: str) -> list[dict[str, Any]]:
    """What a queue holds now, taken out."""
    found: list[dict[str, Any]] = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(json.loads(body))


def phase(ledger: Ledger, request_id: str) -> Phase:
    """Where the record stands."""
    held = ledger.load(request_id)
    assert held is not None
    return held.record.phase


def test_a_batch_is_confirmed_whole_and_in_order(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """Every queue gets a request's events by sequence; ends that nobody was named for stand in bridge.results."""
    ids = [ended(ledger, f"r{n}") for n in range(700)]
    while relay.once() == 0.0:
        pass
    told = drained(channel, "all")
    assert len(told) == 1_400
    assert {e["sequence"] for e in told} == {"0000000001", "0000000002"}
    for request_id in ids[::100]:
        assert [e["sequence"][-1] for e in told if e["subject"] == request_id] == ["1", "2"]
    assert len(drained(channel, "bridge.results")) == 700
    assert all(phase(ledger, request_id) is Phase.CLOSED for request_id in ids)
    assert ledger.outbox.lag().entries == 0


def test_nothing_is_told_twice_by_a_second_look(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """The cursor stands behind what was confirmed, also for the process that comes next."""
    ended(ledger, "r1")
    relay.once()
    relay.once()
    relay.close()
    ended(ledger, "r2")
    other = Publish(ledger, relay.broker, lambda _: None, WIDE, 1 << 20, 60.0)
    other.once()
    other.close()
    assert [(e["subject"], e["sequence"][-1]) for e in drained(channel, "all")] == [
        ("r1", "1"), ("r1", "2"), ("r2", "1"), ("r2", "2"),
    ]  # fmt: skip


def test_a_reply_queue_that_comes_back_gets_its_reply_and_holds_nobody_up(
    ledger: Ledger, relay: Publish, channel: Any
) -> None:
    """basic.return is noticed; the record stays open until the reply was taken."""
    channel.queue_declare("there", durable=True)
    ended(ledger, "lost", "gone")
    ended(ledger, "fine", "there")
    relay.once()
    assert [e["subject"] for e in drained(channel, "there")] == ["fine"]
    assert phase(ledger, "fine") is Phase.CLOSED
    assert phase(ledger, "lost") is Phase.SETTLED
    channel.queue_declare("gone", durable=True)
    eventually(lambda: relay.once() and phase(ledger, "lost") is Phase.CLOSED)
    assert [e["subject"] for e in drained(channel, "gone")] == ["lost"]
    assert ledger.dead.newest() == []


def test_a_reply_queue_that_stays_away_ends_in_a_dead_letter(ledger: Ledger, amqp_url: str, channel: Any) -> None:
    """With the event in it, in the stream and on the queue `bridge.dead`; the record closes all the same."""
    relay = relay_of(ledger, amqp_url, patience_s=0.5)
    ended(ledger, "lost", "gone")
    eventually(lambda: relay.once() and phase(ledger, "lost") is Phase.CLOSED)
    letter = ledger.dead.newest()[0]
    assert (letter["reason"], letter["source"], letter["request_id"]) == ("undeliverable", "gone", "lost")
    assert json.loads(letter["original"])["data"]["status"] == "CANCELLED"
    relay.once()
    told = drained(channel, "bridge.dead")
    assert [one["data"]["reason"] for one in told] == ["undeliverable"]
    assert told[0]["type"] == "bridge.dead.kept"
    relay.close()


def test_of_several_callers_each_is_told_or_given_up(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """One vanished queue of two: the other has its reply at once, and the record waits for the first."""
    channel.queue_declare("there", durable=True)
    ended(ledger, "r1", "there", "gone")
    relay.once()
    assert len(drained(channel, "there")) == 1
    assert phase(ledger, "r1") is Phase.SETTLED
    channel.queue_declare("gone", durable=True)
    eventually(lambda: relay.once() and phase(ledger, "r1") is Phase.CLOSED)
    assert len(drained(channel, "gone")) == 1
    assert drained(channel, "there") == []


def test_a_full_queue_that_refuses_holds_no_other_up(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """A consumer's bounded queue nacks; others have their events, and it has its own when it has room."""
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("small", arguments=full)
    channel.queue_bind("small", "bridge.events", "job.cancelled.#")
    ended(ledger, "r1")
    ended(ledger, "r2")
    relay.once()
    assert len(drained(channel, "all")) == 4
    assert [e["subject"] for e in drained(channel, "small")] == ["r1"]
    taken = eventually(lambda: drained(channel, "small") or (relay.once() and []))
    assert isinstance(taken, list)
    assert [e["subject"] for e in taken] == ["r2"]


def test_a_turn_that_was_lost_moves_no_cursor(ledger: Ledger, relay: Publish, amqp_url: str, channel: Any) -> None:
    """One relay at a time: who slept past its lease is fenced, and the other goes on from the confirmed place."""
    ended(ledger, "r1")
    turn = ledger.outbox.take("sleeper", lease_ms=LEASE_MS)
    assert turn is not None
    batch = ledger.outbox.entries(turn.cursor, 10)
    assert relay.once() == 2.0, "another has the turn"
    ledger.client.delete(ledger.names.key("relay"))  # its lease has ended
    relay.once()
    assert not ledger.outbox.renew("sleeper", lease_ms=LEASE_MS)
    assert not ledger.outbox.done("sleeper", batch[0][0], 1, lease_ms=LEASE_MS)
    ledger.outbox.release("sleeper")
    other = relay_of(ledger, amqp_url)
    assert other.once() == 2.0, "a stranger's release gives nobody's turn away"
    assert ledger.outbox.lag().entries == 0
    assert len(drained(channel, "all")) == 2


def test_a_relay_that_loses_its_turn_while_it_publishes_leaves_the_cursor(
    ledger: Ledger, relay: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch is told again by the next one."""
    ended(ledger, "r1")
    kept = ledger.outbox.entries
    monkeypatch.setattr(  # the lease ends between reading the batch and the confirms
        ledger.outbox, "entries", lambda *args: (kept(*args), ledger.client.set(ledger.names.key("relay"), "other"))[0]
    )
    assert relay.once() == 2.0
    assert ledger.outbox.lag().entries == 2


def test_what_ends_while_the_broker_is_away_waits(ledger: Ledger, amqp_url: str, channel: Any) -> None:
    """The relay says so, tries again, and tells everything when the broker is back."""
    url = pika.URLParameters(amqp_url)
    channel.queue_declare("billing", durable=True)
    with FaultProxy("127.0.0.1", url.port) as proxy:
        relay = relay_of(ledger, amqp_url.replace(f":{url.port}", f":{proxy.port}"))
        ended(ledger, "r1", "billing")
        relay.once()
        proxy.refuse()
        ended(ledger, "r2", "billing")
        assert relay.once() == 1.0
        assert ledger.outbox.lag().entries == 2
        assert phase(ledger, "r2") is Phase.SETTLED
        proxy.restore()
        eventually(lambda: relay.once() and phase(ledger, "r2") is Phase.CLOSED)
        relay.close()
    assert [e["subject"] for e in drained(channel, "billing")][-1] == "r2"


def test_the_lag_counts_what_was_not_confirmed(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """Entries and seconds; nothing where nobody relays; a deleted stream does not confuse it."""
    del channel
    for n in range(10):
        ended(ledger, f"r{n}")
    assert ledger.outbox.lag().entries == 20
    relay.once()
    assert ledger.outbox.lag().entries == 0
    ended(ledger, "more")
    assert ledger.outbox.lag().entries == 2
    assert Ledger(ledger.client, Names(), Rules()).outbox.lag().entries == 0
    ledger.client.delete(ledger.names.events)
    ended(ledger, "anew")
    relay.close()
    relay.once()
    assert ledger.outbox.lag().entries == 0


def test_the_lag_is_the_age_of_the_oldest_event_that_waits(ledger: Ledger) -> None:
    """A quiet hour before it is no lag, and one event alone grows older."""
    now = int(ledger.client.time()[0] * 1000)
    quiet = ledger.client.xadd(ledger.names.events, {"data": "{}"}, id=f"{now - 3_600_000}-0")
    ledger.client.hset(ledger.names.key("meta"), mapping={"cursor": quiet, "relayed": 1})
    assert ledger.outbox.lag().seconds == 0.0
    ledger.client.xadd(ledger.names.events, {"data": "{}"}, id=f"{now - 30_000}-0")
    first = ledger.outbox.lag().seconds
    assert 30 <= first < 60
    eventually(lambda: ledger.outbox.lag().seconds > first)
    ledger.client.xadd(ledger.names.events, {"data": "{}"}, id=f"{now}-0")
    assert first < ledger.outbox.lag().seconds < 90


# Clocks


@pytest.mark.parametrize("hours", [1, -1])
def test_a_step_of_the_process_clock_neither_gives_a_late_reply_up_nor_puts_it_off(
    ledger: Ledger, relay: Publish, channel: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Its patience and its next try go by the ledger's time."""
    ended(ledger, "late", "gone")
    relay.once()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3_600)
    eventually(lambda: relay.once() and not str(ledger.client.hvals(ledger.outbox._tries)).startswith("['1 "))
    assert ledger.dead.newest() == []
    channel.queue_declare("gone", durable=True)
    eventually(lambda: relay.once() and phase(ledger, "late") is Phase.CLOSED)
    assert [event["subject"] for event in drained(channel, "gone")] == ["late"]


def test_a_process_whose_clock_is_years_ahead_trims_neither_events_nor_dead_letters(
    ledger: Ledger, relay: Publish, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ages go by the ledger's time."""
    del channel
    for n in range(200):
        ended(ledger, f"r{n}")
        ledger.dead.keep("malformed", door="stream", body=f"bad {n}")
    while relay.once() == 0.0:
        pass
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * 365 * 86_400)
    ledger.outbox.trim(WIDE)
    ledger.dead.trim(bytes_max=10**9, retention_ms=10**9)
    assert (entries(ledger), int(ledger.client.xlen(ledger.names.dead))) == (400, 200)


# Bounds


def entries(ledger: Ledger) -> int:
    """How long the stream is."""
    return int(ledger.client.xlen(ledger.names.events))


def test_count_and_age_drop_only_what_was_confirmed(ledger: Ledger, relay: Publish, channel: Any) -> None:
    """Behind the cursor the stream keeps as much as it may; before it, everything."""
    for n in range(500):
        ended(ledger, f"r{n}")
    tight = Bounds(count=200, bytes=10**9, age_ms=0)
    assert ledger.outbox.trim(tight) == 0
    assert entries(ledger) == 1_000, "nothing is confirmed yet"
    while relay.once() == 0.0:
        pass
    ledger.outbox.trim(Bounds(count=200, bytes=10**9, age_ms=10**9))
    assert 200 <= entries(ledger) < 400, "confirmed entries stay up to the count"
    ledger.outbox.trim(tight)
    assert entries(ledger) < 200, "older than the age"
    assert len(drained(channel, "all")) == 1_000


def test_the_bytes_bound_drops_the_oldest_loudly_and_keeps_their_replies(ledger: Ledger, amqp_url: str) -> None:
    """The one bound that reaches what AMQP has not confirmed: ends become dead letters, and their records close."""
    for n in range(300):
        ended(ledger, f"r{n}", "nobody")
    used = int(ledger.client.memory_usage(ledger.names.events) or 0)
    away = amqp_url.replace("127.0.0.1", "127.0.0.2").rsplit(":", 1)[0] + ":1/x"  # nobody listens there
    relay = relay_of(ledger, away, bounds=Bounds(10**6, used // 2, 10**9))
    assert relay.once() == 1.0
    lag = ledger.outbox.lag().entries
    assert 0 < lag < 400
    letters = ledger.dead.newest()
    assert len(letters) >= 100
    assert "full" in letters[0]["detail"]
    assert phase(ledger, "r0") is Phase.CLOSED
    assert phase(ledger, "r299") is Phase.SETTLED
    relay.close()
    assert ledger.outbox.trim(Bounds(10**6, used // 2, 10**9)) == 0
    assert int(ledger.client.memory_usage(ledger.names.events) or 0) <= used // 2


HURTS: dict[str, Callable[[Any, str], Any]] = {
    "trimmed": lambda client, events: client.xtrim(events, maxlen=0),
    "deleted": lambda client, events: client.delete(events),
    "one entry deleted": lambda client, events: client.xdel(events, client.xrevrange(events, count=1)[0][0]),
}


@pytest.mark.parametrize("hurt", ["deleted", slow("trimmed"), slow("one entry deleted")])
def test_an_end_that_somebody_took_off_the_stream_before_amqp_had_it_is_told_all_the_same(
    ledger: Ledger, relay: Publish, channel: Any, hurt: str
) -> None:
    """As an equal copy; the record closes."""
    channel.queue_declare("mine", durable=True)
    ended(ledger, "first", "mine")
    relay.once()
    ended(ledger, "asked", "mine")
    ended(ledger, "unasked")
    entries: Any = ledger.client.xrange(ledger.names.events)
    lost = [json.loads(entry["data"]) for _, entry in entries]
    HURTS[hurt](ledger.client, ledger.names.events)
    eventually(lambda: relay.once() and phase(ledger, "asked") is phase(ledger, "unasked") is Phase.CLOSED, timeout=20)
    told = [*drained(channel, "mine"), *drained(channel, "bridge.results")]
    assert [event["subject"] for event in told] == ["first", "asked", "unasked"]
    assert all(event in lost for event in told)
    assert (ledger.outbox.lag().entries, ledger.dead.newest()) == (0, [])


def test_a_reply_whose_entry_was_trimmed_while_it_was_late_is_told_all_the_same(
    ledger: Ledger, relay: Publish, channel: Any
) -> None:
    """Late again, or taken."""
    ended(ledger, "late", "gone")
    relay.once()
    ledger.client.xtrim(ledger.names.events, maxlen=0)
    channel.queue_declare("gone", durable=True)
    eventually(lambda: relay.once() and phase(ledger, "late") is Phase.CLOSED)
    assert [event["subject"] for event in drained(channel, "gone")] == ["late"]
