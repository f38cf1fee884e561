"""Outage or fault: what one key, one record or one value does wrong ends with it, and the next one goes on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest
import redis
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import DataError, OutOfMemoryError, ReadOnlyError, ResponseError

from bridge.errors import LedgerFault, LedgerUnavailable
from bridge.job.change import Change
from bridge.job.document import Held, document
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record, altered
from bridge.ledger import Ledger
from bridge.ledger.streams.inbox import GROUP, Inbox, send
from bridge.redis.outage import is_outage, mapped
from bridge.runpod.limits import scripts
from bridge.telemetry import subscribe
from tests.support.helpers import eventually


def tracked(ledger: Ledger, request_id: str, *, stream: int = 0, reply: str = "", sinks: str = "") -> Held:
    """A request whose job is with RunPod; its reply goes to a stream."""
    long = {Long.INPUT: '{"a":1}'}
    if reply:
        long[Long.REPLY] = json.dumps({"to": reply, "on": ["end"], "via": "redis", "correlation_id": None})
    record = Record(
        id=request_id, endpoint="demo", endpoint_id="demo", door="stream", nonce="n", fingerprint="f", stream=stream,
        sinks=sinks,
    )  # fmt: skip
    accepted = ledger.accept(request_id, lambda now, wish: ledger.table.accept(Held(record, long), now, wish))
    assert accepted.kind == "created"
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    table = ledger.table
    sent = ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x")
    )
    return ledger.change(sent.after, lambda h, now: table.submitted(h, now, "j", "IN_PROGRESS", poll_ms=0)).after


def read_page(ledger: Ledger, held: Held, *outputs: Any, over: bool = False) -> Held:
    """One page of the job's stream, recorded."""
    read = partial(
        ledger.table.stream_read, reader=held.record.reading, chunks=[(output, None) for output in outputs],
        again_ms=None if over else 0, lost=False,
    )  # fmt: skip
    return ledger.change(held, read).after


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (RedisGone("away"), True),
        (redis.exceptions.TimeoutError("slow"), True),
        (redis.exceptions.BusyLoadingError("LOADING"), True),
        (ReadOnlyError("You can't write against a read only replica."), True),
        (OutOfMemoryError("command not allowed"), True),
        (ResponseError("BUSY Redis is busy running a script."), True),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (ResponseError("Command # 1 (SET a WRONGTYPE) of pipeline caused error: NOREPLICAS Not enough"), True),
        (ResponseError("Command # 1 (SET a BUSY ) of pipeline caused error: WRONGTYPE Operation"), False),
        (ResponseError("ERR The user executing the script can't run this command or subcommand"), True),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), True),
        (redis.exceptions.TryAgainError("later"), True),
        (redis.exceptions.NoPermissionError("this user has no permissions"), True),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (ResponseError("ERR value is not an integer or out of range"), False),
        (ResponseError("BUSYGROUP Consumer Group name already exists"), False),
        (DataError("Invalid input of type: 'dict'."), False),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), False),
    ],
)
def test_an_outage_is_an_outage_and_a_fault_is_a_fault(error: Exception, outage: bool) -> None:
    """One place decides, for the ledger and for the shared budget."""
    assert is_outage(error) is outage
    with pytest.raises(LedgerUnavailable if outage else LedgerFault), mapped():
        raise error


def test_a_full_server_is_an_outage_and_a_wrong_type_is_a_fault(ledger: Ledger) -> None:
    """As a real server says them."""
    ledger.client.set("bridge:_:rate", "text")
    with pytest.raises(LedgerFault):
        scripts.read(ledger.client, "bridge:_:rate")
    with pytest.raises(LedgerFault):
        scripts.write(ledger.client, "bridge:_:x", {"a": {}})  # type: ignore[dict-item]
    with pytest.raises(LedgerFault):
        ledger.outbox.tell('"\ud800"', "job.x")
    ledger.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(LedgerUnavailable):
            ledger.replies.write([("mine", "{}")])
    finally:
        ledger.client.config_set("maxmemory", "0")


def test_one_record_that_cannot_be_written_does_not_fail_its_batch(ledger: Ledger) -> None:
    """It is set aside and named; the others' changes stand, each once."""
    good, bad, last = (tracked(ledger, name) for name in ("good", "bad", "last"))
    ledger.client.delete(ledger.names.long("bad"))
    ledger.client.rpush(ledger.names.long("bad"), "mine")
    progress = partial(_progress, ledger)
    changes = ledger.change_many([(held, progress) for held in (good, bad, last)])
    assert [change.verdict == "fault" for change in changes] == [False, True, False]
    for name in ("good", "last"):
        found = ledger.load(name)
        assert found is not None
        assert found.json(Long.PROGRESS) == {"seen": True}
    assert "bad" in ledger.unreadable()


def _progress(_ledger: Ledger, held: Held, _now: int) -> Change:
    after = Held(altered(held.record, worker_id="w"), {**held.long, Long.PROGRESS: '{"seen": true}'})
    return Change("seen", held, after, {Long.PROGRESS: '{"seen": true}'})


def test_a_script_that_failed_half_way_is_not_believed_when_it_is_repeated(ledger: Ledger) -> None:
    """Row and token stand only when all the rest does."""
    held = tracked(ledger, "half")
    ledger.client.rename(ledger.names.count("demo"), "kept")
    ledger.client.rpush(ledger.names.count("demo"), "mine")
    end = partial(_ended, ledger)
    assert ledger.change(held, end).verdict == "fault"
    assert ledger.change(held, end).verdict == "fault"
    assert ledger.load("half").record == held.record  # type: ignore[union-attr]
    ledger.client.rename("kept", ledger.names.count("demo"))
    assert ledger.change(held, end).after.record.phase.ended


def _ended(ledger: Ledger, held: Held, now: int) -> Change:
    heard = Observation(job_id=held.record.job_id, status="COMPLETED", attempt=held.record.attempt, output='"x"')
    return ledger.table.observed(held, now, heard, poll_ms=0)


@pytest.mark.parametrize("public", ["events", "reply:mine", "chunks:odd", "dead", "requests", "commands", "results"])
def test_a_public_key_of_the_wrong_type_is_set_aside_and_everything_goes_on(ledger: Ledger, public: str) -> None:
    """What stood there is kept and told; what was to be written there is written."""
    key = f"bridge:{public}"
    ledger.client.delete(key)
    ledger.client.rpush(key, "a stranger's")
    held = tracked(ledger, "odd", stream=1, reply="mine")
    held = read_page(ledger, held, {"n": 0})
    ledger.change(held, partial(_ended, ledger))
    ledger.replies.write([("mine", "{}")])
    ledger.dead.keep("malformed", door="x", body="x")
    ledger.outbox.tell("{}", "job.x")
    send(ledger.client, ledger.names, ledger.names.requests, b"{}", {})
    bytes_client = redis.Redis.from_url(_url(ledger))
    assert Inbox(bytes_client, ledger.names.requests, "me").read(1, 1_000_000, 10) or True
    assert ledger.chunks("odd") == [{"index": 0, "output": {"n": 0}}]
    if public not in {"commands", "results"}:
        assert ledger.client.type(key) == "stream"
        assert ledger.client.lrange(f"bridge:_:aside:{key}", 0, -1) == ["a stranger's"]
        assert key in ledger.asides()
        assert ledger.asides() == {}
    bytes_client.close()


HIGHEST = "18446744073709551615-18446744073709551615"


@pytest.mark.parametrize("public", ["events", "reply:mine", "dead", "requests", "results"])
def test_a_stream_whose_ids_are_used_up_is_set_aside_and_everything_goes_on(ledger: Ledger, public: str) -> None:
    """Redis takes no entry after the highest id; told once, and what stood there is kept."""
    key, client = f"bridge:{public}", cast("Any", ledger.client)
    client.delete(key)
    client.xadd(key, {"x": "a stranger's"}, id=HIGHEST)
    if public == "requests":  # what is still to be read is read first
        with pytest.raises(LedgerFault, match="exhausted"):
            send(client, ledger.names, key, b"{}", {})
        client.xdel(key, HIGHEST)
        send(client, ledger.names, key, b"{}", {})
    held = tracked(ledger, "odd", reply="mine", sinks="results")
    ledger.change(held, partial(_ended, ledger))
    ledger.replies.write([("mine", "{}")])
    ledger.dead.keep("malformed", door="x", body="x")
    ledger.outbox.tell("{}", "job.x")
    assert client.xinfo_stream(key)["last-generated-id"] != HIGHEST
    assert client.xinfo_stream(f"bridge:_:aside:{key}")["last-generated-id"] == HIGHEST
    assert list(ledger.asides()) == [key]


def test_an_inbox_whose_ids_are_used_up_takes_entries_again_once_it_was_read(ledger: Ledger) -> None:
    """The stranger's last entry is read like any other; then producers can write again, which they do unheard."""
    client, key = redis.Redis.from_url(_url(ledger)), ledger.names.commands
    inbox = Inbox(client, key, "me")
    inbox.read(10, 1_000_000, 1)
    client.xadd(key, {"data": "{}"}, id=HIGHEST)
    last = eventually(lambda: inbox.read(10, 1_000_000, 1))
    with pytest.raises(redis.ResponseError, match="exhausted"):
        client.xadd(key, {"data": "{}"})
    inbox.done([entry_id for entry_id, _ in last])

    def read_again() -> bool:
        inbox.read(10, 1_000_000, 1)
        return bool(client.xinfo_stream(key)["last-generated-id"] == b"0-0")

    eventually(read_again)
    client.xadd(key, {"data": "next"})
    assert eventually(lambda: inbox.read(10, 1_000_000, 1))[0][1] == {b"data": b"next"}
    assert list(ledger.asides()) == [key]
    client.close()


def test_dead_letters_are_told_on_after_their_stream_was_made_anew(ledger: Ledger) -> None:
    """Whoever tells them on AMQP had read to the highest id there is."""
    ledger.outbox.take("me", lease_ms=10_000)
    ledger.outbox.done("me", HIGHEST, 0, lease_ms=10_000, dead=True)
    cast("Any", ledger.client).xadd(ledger.names.dead, {"x": "a stranger's"}, id=HIGHEST)
    ledger.dead.keep("malformed", door="x", body="x")
    turn = ledger.outbox.take("me", lease_ms=10_000)
    assert turn is not None
    assert len(ledger.dead.after(turn.dead_cursor, 10)) == 1


def test_a_letter_is_told_once_it_is_kept(ledger: Ledger) -> None:
    """Not before: the log would name a letter that nobody finds."""
    told: list[str] = []
    out = subscribe(lambda name, _fields: told.append(name))
    ledger.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(LedgerUnavailable):
            ledger.dead.keep("malformed", door="x", body="x")
        assert "dead_letter.kept" not in told
        ledger.client.config_set("maxmemory", "0")
        ledger.dead.keep("malformed", door="x", body="x")
        assert told.count("dead_letter.kept") == 1
    finally:
        out()
        ledger.client.config_set("maxmemory", "0")


@pytest.mark.parametrize("slip", ["far_ahead", "to_the_end", "acked", "consumer_deleted"])
def test_entries_that_a_strangers_slip_has_passed_over_are_read(ledger: Ledger, slip: str) -> None:
    """Of those that are under way none is handed out again, where it can be helped."""
    client, key = cast("Any", redis.Redis.from_url(_url(ledger))), ledger.names.requests
    inbox, dead = Inbox(client, key, "me"), Inbox(client, key, "dead")
    inbox.read(1, 1_000, 1)
    told: list[str] = []
    out = subscribe(lambda name, _fields: told.append(name))
    client.xadd(key, {"data": "under way"})
    eventually(lambda: inbox.read(10, 1_000, 1))
    match slip:
        case "far_ahead":
            client.xgroup_setid(key, GROUP, "9999999999999-0")
            client.xadd(key, {"data": "new"})
        case "to_the_end":
            client.xadd(key, {"data": "new"})
            client.xgroup_setid(key, GROUP, "$")
        case "acked":
            client.xack(key, GROUP, client.xadd(key, {"data": "new"}))
            client.xgroup_setid(key, GROUP, "$")
        case _:
            client.xadd(key, {"data": "new"})
            eventually(lambda: dead.read(10, 1_000, 1))
            client.xgroup_delconsumer(key, GROUP, "dead")
    found = eventually(lambda: inbox.read(10, 1_000, 1))
    assert [entry[b"data"] for _, entry in found] == [b"new"]
    assert told.count("stream.set_back") == 1
    inbox.done([entry_id for entry_id, _ in found])
    client.xgroup_setid(key, GROUP, "9999999999999-0")
    eventually(lambda: inbox.read(10, 1_000, 1) or told.count("stream.set_back") == 2)
    client.xadd(key, {"data": "at once"})
    assert inbox.read(10, 1_000, 1)
    out()
    client.close()


@pytest.mark.parametrize("how", ["maxlen", "xtrim", "xdel", "taken"])
def test_entries_that_a_stranger_took_away_unread_are_told_by_number_once(ledger: Ledger, how: str) -> None:
    """I12: a service that bounds the stream by habit loses its requests; nobody can bring them back, but it is told."""
    client, key = cast("Any", redis.Redis.from_url(_url(ledger))), ledger.names.requests
    inbox = Inbox(client, key, "me")
    told: list[Any] = []
    out = subscribe(lambda name, fields: told.append((name, fields)) if name.startswith("stream.") else None)
    inbox.read(1, 1_000, 1)
    client.xadd(key, {"data": "done"})
    inbox.done([entry_id for entry_id, _ in eventually(lambda: inbox.read(10, 1_000, 1))])
    client.xadd(key, {"data": "under way"})
    eventually(lambda: inbox.read(10, 1_000, 1))
    limit = {"maxlen": 1, "approximate": False} if how == "maxlen" else {}
    added = [client.xadd(key, {"data": "new"}, **limit) for _ in range(4)]
    match how:
        case "xtrim":
            client.xtrim(key, minid=added[-1], approximate=False)
        case "xdel":
            client.xdel(key, *added[:3])
        case "taken":
            Inbox(client, key, "dead").read(3, 1_000_000, 1)
            client.xdel(key, *added[:3])
            inbox.adopt(0, 10, 1_000_000)
    found = eventually(lambda: inbox.read(10, 1_000, 1))
    assert [fields[b"data"] for _, fields in found] == [b"new"]
    eventually(lambda: inbox.read(10, 1_000, 1) or told)
    inbox.done([entry_id for entry_id, _ in found])
    client.xadd(key, {"data": "later"})
    assert eventually(lambda: inbox.read(10, 1_000, 1))
    client.xgroup_setid(key, GROUP, "9999999999999-0")  # a look later than all this finds nothing else to tell
    eventually(lambda: inbox.read(10, 1_000, 1) or told[-1][0] == "stream.set_back")
    assert told[:-1] == [("stream.entries_gone", {"stream": key, "entries": 3})]
    out()
    client.close()


def test_a_stream_that_a_stranger_lets_expire_or_deletes_is_kept_or_its_loss_told(ledger: Ledger) -> None:
    """I12: an expiry is taken off; of a deletion nobody can say what it cost, but it is told, and the next is read."""
    client, key = cast("Any", redis.Redis.from_url(_url(ledger))), ledger.names.requests
    inbox = Inbox(client, key, "me")
    told: list[str] = []
    out = subscribe(lambda name, _fields: told.append(name) if name.startswith("stream.") else None)
    inbox.read(1, 1_000, 1)
    assert not told
    client.expire(key, 3_600)
    eventually(lambda: inbox.read(1, 1_000, 1) or told)
    assert (client.ttl(key), told) == (-1, ["stream.expiry_taken_off"])
    for deleted in ("stream", "group"):
        told.clear()
        if deleted == "stream":
            client.delete(key)
        else:
            client.xgroup_destroy(key, GROUP)
        client.xadd(key, {"data": "next"})
        found = eventually(lambda: inbox.read(10, 1_000, 1))
        assert [fields[b"data"] for _, fields in found] == [b"next"]
        assert told == ["stream.made_anew"]
        inbox.done([entry_id for entry_id, _ in found])
    out()
    client.close()


def test_a_full_memory_keeps_nothing_from_being_read(ledger: Ledger) -> None:
    """Commands come in then too: a cancel makes room."""
    client, key = cast("Any", redis.Redis.from_url(_url(ledger))), ledger.names.commands
    inbox = Inbox(client, key, "me")
    inbox.read(1, 1_000, 1)
    client.xadd(key, {"data": "{}"})
    ledger.client.config_set("maxmemory", "1mb")
    try:
        assert len(inbox.read(1, 1_000, 1)) == 1
        assert inbox.read(1, 1_000, 1) == []  # it looks whether all is well
    finally:
        ledger.client.config_set("maxmemory", "0")
    client.close()


def test_a_key_that_becomes_no_stream_under_a_waiting_reader_fails_no_read(ledger: Ledger) -> None:
    """It is set aside, and what is sent next is read."""
    client, key = cast("Any", redis.Redis.from_url(_url(ledger))), ledger.names.requests
    inbox = Inbox(client, key, "me")
    inbox.read(1, 1_000, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inbox.read, 1, 1_000, 4_000)
        eventually(lambda: client.info("clients")["blocked_clients"])
        with client.pipeline(transaction=True) as pipe:
            pipe.delete(key)
            pipe.set(key, "a stranger's")
            pipe.execute()
        assert waiting.result(60) == []
    assert key in ledger.asides()
    send(ledger.client, ledger.names, key, b"{}", {})
    assert [fields[b"data"] for _, fields in eventually(lambda: inbox.read(10, 1_000, 1))] == [b"{}"]
    client.close()


def _url(ledger: Ledger) -> str:
    kwargs = ledger.client.connection_pool.connection_kwargs
    return f"redis://{kwargs['host']}:{kwargs['port']}/{kwargs['db']}"


def test_a_reader_that_dies_between_two_parts_of_a_page_leaves_the_stream_marked(ledger: Ledger) -> None:
    """I13: what is written stays, nobody reads beside it while its lease runs, and the aggregate has the rest."""
    tracked(ledger, "parts", stream=1)
    first = ledger.streams({"demo": 1}, lease_ms=30_000)
    part = partial(
        ledger.table.stream_read, chunks=[(0, None), (1, None)], reader=first.token, again_ms=600_000, lost=False,
        part=f"{first.token}/0", more=True,
    )  # fmt: skip
    ledger.change(first.records[0], part)
    ledger.change(first.records[0], part)  # its answer was lost
    assert [chunk["output"] for chunk in ledger.chunks("parts")] == [0, 1]
    assert not ledger.streams({"demo": 1}, lease_ms=30_000).records
    client: Any = ledger.client
    client.zadd(ledger.names.due("demo", Step.STREAM.value), {"parts": 1})  # the reader has died; its lease has run out
    second = ledger.streams({"demo": 1}, lease_ms=30_000)
    assert second.records[0].record.stream_incomplete
    held = ledger.change(
        second.records[0],
        partial(ledger.table.stream_read, chunks=[(4, None)], reader=second.token, again_ms=None, lost=False),
    ).after
    news = Observation("j", "COMPLETED", 1, output="[0,1,2,3,4]", chunks=(0, 1, 4))
    end = ledger.change(held, lambda fresh, now: ledger.table.observed(fresh, now, news, poll_ms=0)).after
    told = document(end)
    assert (told["stream_incomplete"], told["stream_repaired"]) == ("possible", 3)
    assert [chunk["output"] for chunk in ledger.chunks("parts")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["xtrim", "xdel", "delete", "far_ahead", "used_up"])
def test_a_consumer_may_trim_the_chunks_that_it_has_read(ledger: Ledger, how: str) -> None:
    """Chunk n stays entry n+1, and the end is written; nothing is refused, nothing is told twice."""
    held = tracked(ledger, "trim", stream=1)
    held = read_page(ledger, held, 0, 1, 2)
    stream = ledger.names.chunks("trim")
    client: Any = ledger.client
    match how:
        case "xtrim":
            client.xtrim(stream, maxlen=0)
        case "xdel":
            client.xdel(stream, *[entry for entry, _ in client.xrange(stream)])
        case "delete":
            client.delete(stream)
        case "far_ahead":
            client.xadd(stream, {"x": "not ours"}, id="5000-0")
        case _:
            client.xadd(stream, {"x": "not ours"}, id="18446744073709551615-18446744073709551615")
    held = read_page(ledger, held, 3, 4)
    found = [
        (entry_id, json.loads(entry["data"])["index"]) for entry_id, entry in client.xrange(stream) if "data" in entry
    ]
    assert [index for _, index in found][-2:] == [3, 4]
    if how in {"xtrim", "xdel", "delete"}:
        assert [entry_id for entry_id, _ in found] == ["4-0", "5-0"]
        client.xtrim(stream, maxlen=0)
    held = ledger.change(held, partial(_ended, ledger)).after  # RunPod has said so; what its stream holds is read first
    held = read_page(ledger, held, over=True)
    held = ledger.change(held, partial(_ended, ledger)).after
    assert held.record.phase.ended
    assert json.loads(client.xrevrange(stream, count=1)[0][1]["data"])["end"]  # the last entry tells the end
    assert bool(ledger.asides()) is (how == "used_up")


def test_a_group_that_a_stranger_destroys_is_made_anew(ledger: Ledger) -> None:
    """Entries are read from the beginning; those that were under way come again, and are the same requests."""
    client = redis.Redis.from_url(_url(ledger))
    inbox = Inbox(client, ledger.names.requests, "me")
    inbox.read(1, 1_000, 1)
    send(ledger.client, ledger.names, ledger.names.requests, b"{}", {})
    first = eventually(lambda: inbox.read(10, 1_000, 1))
    client.xgroup_destroy(ledger.names.requests, GROUP)
    inbox.done([first[0][0]])
    send(ledger.client, ledger.names, ledger.names.requests, b"[]", {})
    assert [fields[b"data"] for _, fields in eventually(lambda: inbox.read(10, 1_000, 1))] == [b"[]"]
    client.delete(ledger.names.requests)
    send(ledger.client, ledger.names, ledger.names.requests, b"1", {})
    assert [fields[b"data"] for _, fields in eventually(lambda: inbox.read(10, 1_000, 1))] == [b"1"]
    client.close()


def test_what_strangers_write_into_the_public_streams_hides_nothing(ledger: Ledger) -> None:
    """No field `data`, no JSON, no UTF-8: it is passed over by whoever reads there."""
    raw = redis.Redis.from_url(_url(ledger))
    for stream in (ledger.names.events, ledger.names.dead, ledger.names.chunks("seen")):
        raw.xadd(stream, {"x": "y"}, id="0-1")
        raw.xadd(stream, {"data": b"\xff\xfe"}, id="0-2")
        raw.xadd(stream, {"data": "[]"}, id="0-3")
    tracked(ledger, "seen")
    ledger.dead.keep("malformed", door="x", body="x")
    assert next(event["type"] for _, event in ledger.outbox.read("-", count=10)) == "bridge.job.accepted"
    assert [letter["reason"] for letter in ledger.dead.newest()] == ["malformed"]
    assert ledger.dead.get("0-1") is None
    assert [bool(body) for _, body in ledger.dead.after("0-0", 10)] == [False, False, False, True]
    assert ledger.chunks("seen") == []
    raw.close()


def test_an_event_stream_that_was_deleted_or_made_anew_is_told_from_its_beginning(ledger: Ledger) -> None:
    """A cursor that stands behind everything belongs to another stream."""
    relay = Ledger(ledger.client, ledger.names, ledger.rules, relayed=True)
    ledger.client.xadd(ledger.names.events, {"x": "y"}, id="99999999999999-0")
    turn = relay.outbox.take("me", lease_ms=10_000)
    assert turn is not None
    assert relay.outbox.done("me", "99999999999999-0", 1, lease_ms=10_000)
    ledger.client.delete(ledger.names.events)
    tracked(ledger, "anew")
    turn = relay.outbox.take("me", lease_ms=10_000)
    assert turn is not None
    assert turn.cursor == "0-0"
    assert len(relay.outbox.entries(turn.cursor, 10)) == ledger.client.xlen(ledger.names.events)
    assert relay.outbox.lag().entries == len(relay.outbox.entries(turn.cursor, 10))
