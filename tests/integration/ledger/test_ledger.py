"""The ledger's scripts on a real Redis: judged by what is in Redis afterwards, and by what others are handed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest

from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.enums import Phase, Sink, Step, Wish
from bridge.job.observation import Observation
from bridge.job.record import Long, Record, from_row
from bridge.ledger import Ledger, Names, connect
from bridge.redis import round_trips
from tests.support.helpers import eventually


def request(request_id: str, **more: object) -> Held:
    """A new request of the Celery door."""
    record = Record(
        id=request_id, endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n", fingerprint="f"
    )
    return Held(replace(record, **more), {Long.INPUT: '{"a":1}', Long.CANVAS: "{}"})  # type: ignore[arg-type]


def accept(ledger: Ledger, request_id: str, **more: object) -> Held:
    """Accepted, and leased by nobody."""
    held = request(request_id, **more)
    accepted = ledger.accept(request_id, lambda now, wish: ledger.table.accept(held, now, wish))
    assert accepted.kind == "created"
    assert accepted.held is not None
    return accepted.held


def submit(ledger: Ledger, request_id: str, job_id: str = "j1") -> Held:
    """Accepted, sent, and known to RunPod."""
    accept(ledger, request_id)
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    table = ledger.table
    sent = ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x")
    )
    assert sent.verdict == "sending"
    return ledger.change(sent.after, lambda h, now: table.submitted(h, now, job_id, "IN_QUEUE", poll_ms=0)).after


def _observed(ledger: Ledger, heard: Observation, held: Held, now: int) -> Change:
    return ledger.table.observed(held, now, heard, poll_ms=1)


def events(ledger: Ledger) -> list[dict[str, object]]:
    """What the stream holds, in order."""
    entries: Any = ledger.client.xrange(ledger.names.events)
    return [json.loads(entry["data"]) for _, entry in entries]


def test_one_record_per_id(ledger: Ledger) -> None:
    """I2: a repeat finds the first one, and tells nothing again."""
    accept(ledger, "a")
    again = ledger.accept("a", lambda now, wish: ledger.table.accept(request("a"), now, wish))
    assert again.kind == "exists"
    assert len(events(ledger)) == 1


def test_a_cancel_that_came_first_is_consumed_by_accept(ledger: Ledger) -> None:
    """HARDENING 7: the request is born ended, and nothing is left of the wish."""
    assert ledger.wish("a", {"by": "me", "door": "cli"}) == "kept"
    accept(ledger, "a")
    held = ledger.load("a")
    assert held is not None
    assert (held.record.phase, held.record.status, held.record.wish) == (Phase.SETTLED, "CANCELLED", "cancel")
    assert [event["type"] for event in events(ledger)] == ["bridge.job.accepted", "bridge.job.cancelled"]
    assert not ledger.client.keys("*wish*")


def test_wishes_are_capped(redis_url: str) -> None:
    """I16: the oldest goes."""
    ledger = Ledger(connect(redis_url), Names(), Rules(), wishes_max=3)
    for name in "abcde":
        ledger.wish(name, {})
    assert sorted(ledger.client.keys("bridge:_:wish:*")) == [f"bridge:_:wish:{name}" for name in "cde"]


def test_a_tenants_early_cancel_reaches_its_own_request_alone(ledger: Ledger) -> None:
    """Another's of the same id comes in as if nobody had asked; nobody's request is its too, and a wish of all is."""
    for tenant, whose, status in (
        ("acme", "acme", "CANCELLED"), ("acme", "other", "ACCEPTED"), ("acme", "", "ACCEPTED"),
        ("", "", "CANCELLED"), ("", "acme", "ACCEPTED"), (None, "acme", "CANCELLED"),
    ):  # fmt: skip
        name = f"{tenant}.{whose}"
        assert ledger.wish(name, {"by": "me", "door": "http"}, tenant) == "kept"
        accept(ledger, name, tenant=whose)
        held = ledger.load(name)
        assert held is not None
        assert held.record.status == status, name
        kept = f"wish:{name}" if tenant is None else f"wish:{tenant}/{name}"
        assert bool(ledger.client.exists(ledger.names.key(kept))) == (status == "ACCEPTED")


def test_to_a_tenants_early_cancel_another_tenants_request_is_one_that_nobody_has_sent(ledger: Ledger) -> None:
    """Live or only remembered: `kept` in both cases, and its own is told as what it is."""

    def told() -> list[str]:
        return [ledger.wish("a", {}, tenant) for tenant in ("acme", "other", "", None)]

    accept(ledger, "a", tenant="acme")
    assert told() == ["known", "kept", "kept", "known"]
    ledger.client.delete(ledger.names.row("a"))
    ledger.client.set(ledger.names.key("t:a"), '{"tn": "acme"}')
    assert told() == ["ended", "kept", "kept", "ended"]


def test_a_tenants_early_cancels_push_out_none_but_its_own(redis_url: str) -> None:
    """I16: each tenant has room of its own, and it ends with the last of its wishes."""
    ledger = Ledger(connect(redis_url), Names(), Rules(), wishes_max=20)
    ledger.wish("first", {})
    for number in range(30):
        ledger.wish(f"n{number}", {}, "acme")
    found = sorted(str(key).removeprefix("bridge:_:wish:") for key in ledger.client.keys("bridge:_:wish:*"))
    assert found == ["acme/n28", "acme/n29", "first"]
    assert ledger.client.ttl("bridge:_:wishes:acme/") > 0


def test_the_same_token_is_handed_the_same_records(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: a claim whose answer was lost gets the same batch again, and nothing belongs to nobody."""
    for name in "abcd":
        accept(ledger, name)
    monkeypatch.setattr("bridge.ledger.records.lease.secrets.token_hex", lambda _n: "same-token")
    first = ledger.claim(Step.SUBMIT, {"demo": 2}, lease_ms=30_000)
    second = ledger.claim(Step.SUBMIT, {"demo": 2}, lease_ms=30_000)
    assert [h.record.id for h in first.records] == [h.record.id for h in second.records] == ["a", "b"]


def test_two_claims_never_share_a_record(ledger: Ledger) -> None:
    """A lease excludes everybody else."""
    for name in "abcdef":
        accept(ledger, name)
    taken = [h.record.id for _ in range(4) for h in ledger.claim(Step.SUBMIT, {"demo": 2}, lease_ms=30_000).records]
    assert taken == list("abcdef")


def test_priority_then_age_orders_submits(ledger: Ledger) -> None:
    """9 goes first, and the older before the younger."""
    accept(ledger, "old", priority=4)
    accept(ledger, "low", priority=0)
    accept(ledger, "young", priority=4)
    accept(ledger, "urgent", priority=9)
    claimed = ledger.claim(Step.SUBMIT, {"demo": 9}, lease_ms=1_000)
    assert [h.record.id for h in claimed.records] == ["urgent", "old", "young", "low"]


def test_a_lease_that_ends_before_the_post_costs_nothing(ledger: Ledger) -> None:
    """HARDENING 1: an ACCEPTED record whose lease ends is simply due again, no duplicate is feared."""
    accept(ledger, "a")
    ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=1)
    held = eventually(lambda: ledger.timers()[0])[0]
    change = ledger.change(held, ledger.table.tick)
    assert (change.record.phase, change.record.due, change.record.possible_duplicate) == (Phase.ACCEPTED, "submit", 0)
    assert [h.record.id for h in ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=1_000).records] == ["a"]


def test_only_a_post_that_may_have_left_is_in_doubt(ledger: Ledger) -> None:
    """SUBMITTING whose lease ends is UNANSWERED until its grace ends."""
    accept(ledger, "a")
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=50)
    table = ledger.table
    ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="u")
    )
    held = eventually(lambda: ledger.timers()[0])[0]
    assert ledger.change(held, table.tick).record.phase is Phase.UNANSWERED


def test_a_stale_change_is_made_anew(ledger: Ledger) -> None:
    """Two writers of one record: the second sees what the first wrote, and nothing is lost."""
    held = submit(ledger, "a")
    table = ledger.table
    ledger.change(held, lambda h, now: table.wish(h, now, Wish.CANCEL))
    end = ledger.change(held, lambda h, now: table.observed(h, now, Observation("j1", "CANCELLED", 1), poll_ms=1))
    assert (end.record.status, end.record.reason) == ("CANCELLED", "cancelled")


def test_a_change_repeated_by_the_client_is_written_once(ledger: Ledger) -> None:
    """I15: the same commit twice, as after a lost answer, adds no event and answers the same."""
    held = submit(ledger, "a")
    change = ledger.table.observed(held, ledger.now(), Observation("j1", "COMPLETED", 1, output="1"), poll_ms=1)
    from bridge.ledger.scripts import run  # noqa: PLC0415

    args = ledger._arguments.commit(change, "one-token")
    first = run(ledger.client, "commit", ledger._keys(), args)
    second = run(ledger.client, "commit", ledger._keys(), args)
    assert first[0] == second[0] == 1
    assert first[2] == second[2]
    assert [event["type"] for event in events(ledger)].count("bridge.job.completed") == 1


def test_sequences_are_gapless_and_ids_deterministic(ledger: Ledger) -> None:
    """I3, I7: 1, 2, 3 ... per request."""
    held = submit(ledger, "a")
    for status in ("IN_PROGRESS", "COMPLETED"):
        held = ledger.change(held, partial(_observed, ledger, Observation("j1", status, 1))).after
    told = events(ledger)
    assert [event["id"] for event in told] == [f"a:{n}" for n in range(1, 6)]
    assert [event["sequence"] for event in told] == [f"{n:010d}" for n in range(1, 6)]


def test_a_closed_record_expires_and_its_tombstone_answers(ledger: Ledger) -> None:
    """I16, HARDENING 20: retention, then a tombstone; a repeat finds it."""
    held = submit(ledger, "a")
    table = ledger.table
    ended = ledger.change(
        held, lambda h, now: table.observed(h, now, Observation("j1", "COMPLETED", 1, output="1"), poll_ms=1)
    ).after
    assert ledger.client.ttl("bridge:_:r:a") == -1
    ledger.change(ended, lambda h, now: table.delivered(h, now, Sink.CELERY, round_=1))
    for key in ("r", "d", "o", "t"):
        assert int(ledger.client.ttl(f"bridge:_:{key}:a")) > 0, key
    ledger.client.delete("bridge:_:r:a")
    again = ledger.accept("a", lambda now, wish: table.accept(request("a"), now, wish))
    assert again.kind == "remembered"
    assert again.tombstone is not None
    assert again.tombstone["status"] == "COMPLETED"


def test_input_and_secrets_leave_with_the_first_job_id(ledger: Ledger) -> None:
    """I11, I16."""
    submit(ledger, "a")
    assert ledger.client.hget("bridge:_:d:a", "input") is None
    assert ledger.client.hget("bridge:_:d:a", "canvas") is not None


def test_a_row_stays_a_listpack(ledger: Ledger) -> None:
    """Memory: short fields, so that Redis keeps the row as one listpack."""
    submit(ledger, "0b2f1a7e-7d0f-4b39-9f43-8f1c2a3b4c5d", job_id="0b2f1a7e-7d0f-4b39-9f43-8f1c2a3b4c5d-u1")
    assert ledger.client.object("encoding", "bridge:_:r:0b2f1a7e-7d0f-4b39-9f43-8f1c2a3b4c5d") == "listpack"


def test_a_row_that_was_edited_into_nonsense_stops_nobody(ledger: Ledger) -> None:
    """HARDENING 14: the others are handed out; the broken one is named."""
    for name in "abc":
        accept(ledger, name)
    ledger.client.hset("bridge:_:r:b", "pr", "urgent")
    claimed = ledger.claim(Step.SUBMIT, {"demo": 3}, lease_ms=1_000)
    assert [h.record.id for h in claimed.records] == ["a", "c"]
    assert "priority" in ledger.client.hget("bridge:_:unreadable", "b")  # type: ignore[operator]


def test_a_record_of_the_wrong_form_stops_nobody(ledger: Ledger) -> None:
    """Rows and long values replaced by texts, counters that are no numbers: each is named, the others go on."""
    for name in "abcdef":
        accept(ledger, name)
    ledger.client.set("bridge:_:r:a", "garbage")
    ledger.client.set("bridge:_:d:b", "garbage")
    ledger.client.hset("bridge:_:r:c", "cl", "many")
    ledger.client.hset("bridge:_:r:d", "v", "newest")
    claimed = ledger.claim(Step.SUBMIT, {"demo": 6}, lease_ms=1_000)
    assert [h.record.id for h in claimed.records] == ["e", "f"]
    assert set(ledger.unreadable()) == set("abcd")
    ledger.client.zadd("bridge:_:timer", dict.fromkeys("abcd", 1))
    found, next_ms = ledger.timers()
    assert found == []
    assert 0 <= next_ms <= 3_600_000
    assert ledger.claim(Step.SUBMIT, {"demo": 6}, lease_ms=1_000).records == []  # nobody meets them again


def test_a_clock_that_cannot_be_acted_on_stands_before_nobody(ledger: Ledger) -> None:
    """It is set to an hour from now, so that the clocks of the others are still read."""
    accept(ledger, "a")
    ledger.client.zadd("bridge:_:timer", {"a": 1})
    ledger.isolate("a", "KeyError: jobs")
    assert ledger.timers()[0] == []
    assert ledger.unreadable() == {"a": "KeyError: jobs"}


def test_what_another_version_wrote_is_kept(ledger: Ledger) -> None:
    """Fields this version does not know survive its changes; fields it misses have their defaults."""
    accept(ledger, "a")
    ledger.client.hset("bridge:_:r:a", "zz", "from-tomorrow")
    ledger.client.hset("bridge:_:d:a", "later", "{}")
    ledger.client.hdel("bridge:_:r:a", "tl", "dl")
    held = ledger.load("a")
    assert held is not None
    changed = ledger.change(held, lambda h, now: ledger.table.wish(h, now, Wish.CANCEL))
    assert changed.record.status == "CANCELLED"
    assert ledger.client.hget("bridge:_:r:a", "zz") == "from-tomorrow"
    assert ledger.client.hget("bridge:_:d:a", "later") == "{}"


def test_a_record_claimed_time_and_again_is_worked_alone_then_parked(ledger: Ledger) -> None:
    """HARDENING 14: what kills engines does not take others with it for ever."""
    accept(ledger, "bad")
    accept(ledger, "good")
    for _ in range(3):
        ledger.client.hset("bridge:_:r:bad", "cl", 3)
        claimed = ledger.claim(Step.SUBMIT, {"demo": 2}, lease_ms=1_000)
        assert [h.record.id for h in claimed.records] == ["bad"]
        ledger.give_back(claimed, claimed.records)
    ledger.client.hset("bridge:_:r:bad", "cl", 10)
    assert [h.record.id for h in ledger.claim(Step.SUBMIT, {"demo": 2}, lease_ms=1_000).records] == ["good"]
    row = ledger.client.hgetall("bridge:_:r:bad")
    assert from_row("bad", row).parked == 1  # type: ignore[arg-type]
    ledger.client.hincrby("bridge:_:meta", "clock_offset", 25 * 3_600_000)  # a day later
    held = next(held for held in ledger.timers()[0] if held.record.id == "bad")
    again = ledger.change(held, ledger.table.tick).record
    assert (again.parked, again.due, again.claims) == (0, "submit", 0)


def test_claims_count_up_while_nothing_is_recorded(ledger: Ledger) -> None:
    """HARDENING 14: a lease that ends is no progress."""
    accept(ledger, "a")
    for _ in range(3):
        ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=1)
        held = eventually(lambda: ledger.timers()[0])[0]
        ledger.change(held, ledger.table.tick)
    loaded = ledger.load("a")
    assert loaded is not None
    assert loaded.record.claims == 3


def test_sync_requests_stand_in_a_due_set_of_their_own(ledger: Ledger) -> None:
    """/runsync calls last; plain submits never wait behind them."""
    accept(ledger, "slow", sync_wait_ms=1000)
    accept(ledger, "plain")
    assert [h.record.id for h in ledger.claim(Step.SUBMIT, {"demo": 5}, lease_ms=1_000).records] == ["plain"]
    assert [h.record.id for h in ledger.claim(Step.SUBMIT_SYNC, {"demo": 5}, lease_ms=1_000).records] == ["slow"]


def test_a_request_born_ended_keeps_neither_input_nor_secret(ledger: Ledger) -> None:
    """I11, I16: a cancel that came first leaves nothing of the request to keep."""
    ledger.wish("a", {"by": "me", "door": "cli"})
    held = request("a")
    held = Held(held.record, {**held.long, Long.S3CONFIG: "{}"})
    ledger.accept("a", lambda now, wish: ledger.table.accept(held, now, wish))
    kept: Any = ledger.client.hkeys("bridge:_:d:a")
    assert "input" not in kept
    assert "s3" not in kept


def test_a_step_of_the_servers_clock_fires_nothing(ledger: Ledger) -> None:
    """I17: the beat takes an hour's jump out of ledger time, in both directions."""
    ledger.engines.beat("e1")
    before = ledger.now()
    for jump in (3_600_000, -7_200_000):
        ledger.client.hincrby("bridge:_:meta", "clock_offset", jump)  # what a stepped TIME looks like to every script
        ledger.engines.beat("e1")
        assert abs(ledger.now() - before) < 2_000
        assert ledger.timers()[0] == []


def test_an_answer_that_was_long_on_its_way_moves_no_clock(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """I17: a process that is stopped for half a minute while its beat is answered takes nothing for a step."""
    stood = 0.0
    steady = ledger.clock._steady
    call = round_trips.call_many

    def stopped_meanwhile(client: Any, commands: Any) -> Any:
        nonlocal stood
        answer = call(client, commands)
        stood += 30.0
        return answer

    monkeypatch.setattr(ledger.clock, "_steady", lambda: steady() + stood)
    ledger.engines.beat("e1")
    before = ledger.client.hget("bridge:_:meta", "clock_offset")
    with monkeypatch.context() as patch:
        patch.setattr(round_trips, "call_many", stopped_meanwhile)
        ledger.engines.beat("e1")
    assert stood == 30.0
    assert ledger.client.hget("bridge:_:meta", "clock_offset") == before


def test_memory_over_the_limit_still_saves_what_was_paid_for(ledger: Ledger) -> None:
    """HARDENING 11: accept is refused by a full server, a job id and an end are not."""
    held = submit(ledger, "a")
    ledger.client.config_set("maxmemory", "1mb")
    try:
        table = ledger.table
        end = ledger.change(
            held, lambda h, now: table.observed(h, now, Observation("j1", "COMPLETED", 1, output="1"), poll_ms=1)
        )
        assert end.record.status == "COMPLETED"
        with pytest.raises(Exception, match="OutOfMemory"):
            accept(ledger, "b")
    finally:
        ledger.client.config_set("maxmemory", "0")


def test_run_times_are_shared_and_the_newest_push_the_oldest_out(ledger: Ledger) -> None:
    """What one process has seen, every other knows; an endpoint that changes is learnt anew (I16: bounded)."""
    ledger.runs.remember("demo", [(10, 1_000 + n) for n in range(200)])
    ledger.runs.remember("demo", [(20, 5)])
    other = Ledger(connect(f"redis://{ledger.client.connection_pool.connection_kwargs['host']}:"
                           f"{ledger.client.connection_pool.connection_kwargs['port']}/"
                           f"{ledger.client.connection_pool.connection_kwargs['db']}"), Names(), Rules())  # fmt: skip
    runs, in_flight = other.runs.read("demo")
    assert (runs[0], len(runs), in_flight) == ((20, 5), 128, 0)
    submit(ledger, "a")
    assert other.runs.read("demo")[1] == 1
    other.client.close()


def test_a_change_that_says_nothing_of_the_due_time_leaves_it(ledger: Ledger) -> None:
    """A page of a stream is no reason to read the status: the record keeps its place in the due set."""
    held = submit(ledger, "a")
    later = ledger.change(held, lambda h, now: ledger.table.missed(h, now, delay_ms=60_000)).after
    key = ledger.names.due("demo", Step.POLL.value)
    before = ledger.client.zscore(key, "a")
    ledger.change(later, ledger.table.stream_on)
    assert ledger.client.zscore(key, "a") == before
    assert ledger.due(Step.POLL)[0].ready == 0


def test_every_field_of_a_record_is_read_as_it_was_written(ledger: Ledger) -> None:
    """One that shared its short name with the scripts' own was lost, and with it the end of a stuck job."""
    held = accept(ledger, "r1")
    left = {"id", "phase", "version", "status", "sinks", "due", "timer", "lease", "endpoint", "tenant"}
    others: dict[str, Any] = {
        f.name: f"text-{n}" if isinstance(f.default, str) else 100 + n
        for n, f in enumerate(fields(Record))
        if f.name not in left
    }

    def put(found: Held, _now: int) -> Change:
        return Change("put", found, Held(replace(found.record, **others), found.long))

    assert ledger.change(held, put).verdict == "put"
    read = ledger.load("r1")
    assert read is not None
    assert {name: getattr(read.record, name) for name in others} == others
