"""Dead letters: kept whole and bounded, shown without secrets, and sent again through the door they came by."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pika
import pytest

from bridge.cli.exit_codes import ExitCode
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.queries.parked_requests import parked, unpark
from bridge.ledger.streams.dead_letters import original_of
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker with the stream doors."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("dead"), broker=url, redis_url=url, redact="pin") as made:
        made.worker()
        yield made


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger by itself."""
    client = connect(redis_url)
    yield Ledger(client, Names(), Rules(), dead_max=100)
    client.close()


def test_a_letters_time_is_the_ledgers_whatever_the_machines_clock_says(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I17: it stands beside events, and is told as so long ago."""
    ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=1)  # it has heard what time it is
    monkeypatch.setattr(time, "time", lambda: 1.0)
    ledger.dead.keep("malformed", door="x", body="x")
    (letter,) = ledger.dead.newest()
    told_ms = datetime.fromisoformat(letter["time"]).timestamp() * 1000
    assert abs(told_ms - int(letter["id"].partition("-")[0])) < 60_000


def dead(house: House, *words: str) -> tuple[int, Any]:
    """`bridge dead WORDS --json`: the code and what it said."""
    done = house.bridge("dead", *words, "--json")
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def letters(house: House, reason: str) -> list[dict[str, Any]]:
    """Those with this reason."""
    return [one for one in house.ledger.dead.newest() if one["reason"] == reason]


def put(house: House, document: object, **fields: str) -> None:
    """What a service writes."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    entry: dict[Any, Any] = {"data": raw, **fields}
    house.client.xadd(house.ledger.names.requests, entry)


def test_a_letter_is_listed_shown_without_secrets_and_dropped(house: House) -> None:
    """The original is kept as it came; what is printed holds no key, no query string, no name of BRIDGE_REDACT."""
    secret = {"accessId": "AK", "accessSecret": "hush", "bucketName": "b", "endpointUrl": "https://s3"}
    put(house, {"input": {"u": "https://x/y?sig=hush", "pin": "hush"}, "s3Config": secret, "timeout": 5}, trace="t1")
    letter = eventually(lambda: letters(house, "rejected"))[0]
    code, told = dead(house, "list", "--reason", "rejected")
    assert code == ExitCode.OK
    assert [one["id"] for one in told] == [letter["id"]]
    assert "original" not in told[0]
    code, shown = dead(house, "show", letter["id"])
    assert "hush" not in json.dumps(shown)
    assert json.loads(shown["original"])["timeout"] == 5
    assert b"hush" in (original_of(letter) or b"")
    assert (shown["door"], shown["source"], shown["headers"]["trace"]) == ("stream", "bridge:requests", "t1")
    assert dead(house, "drop", letter["id"]) == (ExitCode.OK, {"dropped": 1, "not_letters": []})
    assert house.ledger.dead.get(letter["id"]) is None


def test_bytes_that_are_no_text_come_back_as_they_were(house: House) -> None:
    """In base64, with size and SHA-256; the door refuses them again when they are sent again."""
    raw = b"\xff\xfe\x00" * 100
    put(house, raw)
    letter = eventually(lambda: letters(house, "malformed"))[0]
    assert (letter["encoding"], letter["size"], letter["sha256"]) == ("base64", 300, hashlib.sha256(raw).hexdigest())
    assert original_of(letter) == raw
    assert dead(house, "replay", letter["id"])[0] == ExitCode.OK
    again = eventually(lambda: [one for one in letters(house, "malformed") if one["id"] != letter["id"]])[0]
    assert original_of(again) == raw
    assert letters(house, "malformed") == [again], "the first letter is gone"


def test_a_conflict_is_sent_again_under_another_id_and_runs(house: House) -> None:
    """By the stream it came by, with its reply_to."""
    put(house, {"id": "c1", "input": {"a": 1}})
    put(house, {"id": "c1", "input": {"a": 2}}, reply_to="mine")
    letter = eventually(lambda: letters(house, "id_conflict"))[0]
    code, told = dead(house, "replay", letter["id"], "--id", "c2")
    assert (code, told[0]["to"]) == (ExitCode.OK, "bridge:requests")
    eventually(lambda: house.names_of("c2")[-1] == "completed", timeout=20)
    replies: Any = house.client.xrange(house.ledger.names.reply("mine"))
    assert json.loads(replies[-1][1]["data"])["data"]["output"] == {"a": 2}
    assert letters(house, "id_conflict") == []


def test_a_task_that_conflicted_is_sent_again_as_a_task(house: House) -> None:
    """One that carried a secret says why not."""
    for value in (1, 2):
        house.send({"a": value}, task_id="t1")
    letter = eventually(lambda: letters(house, "id_conflict"))[0]
    assert dead(house, "replay", letter["id"], "--id", "t2")[0] == ExitCode.OK
    assert house.app.AsyncResult("t2").get(timeout=20) in ({"a": 1}, {"a": 2})
    s3 = {"accessId": "a", "accessSecret": "hush", "bucketName": "b", "endpointUrl": "https://s3"}
    house.send({"a": 3}, task_id="t1", s3Config=s3)
    letter = eventually(lambda: letters(house, "id_conflict"))[0]
    assert "hush" not in letter["original"]
    code, told = dead(house, "replay", letter["id"], "--id", "t3")
    assert (code, told[0]["replayed"]) == (ExitCode.REJECTED, False)
    assert "s3Config" in told[0]["why"]


def test_amqp_letters_go_back_with_their_headers_and_properties(
    amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Requests through the exchange and key they came by; replies to the queue that was gone."""
    with House(tmp_path_factory.mktemp("amqp"), broker=amqp_url, redis_url=redis_url, reply_patience_s="0.1") as house:
        house.worker()
        connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        channel = connection.channel()
        eventually(lambda: channel.exchange_declare("bridge.jobs", "topic", durable=True))
        properties = pika.BasicProperties(message_id="m1", reply_to="late", correlation_id="c-1", headers={"h": "x"})
        for value in (1, 2):
            body = json.dumps({"input": {"a": value}})
            channel.basic_publish("bridge.jobs", "job.submit.demo", body, properties)
        conflict = eventually(lambda: letters(house, "id_conflict"), timeout=20)[0]
        assert (conflict["source"], conflict["headers"]["h"]) == ("bridge.requests", "x")
        lost = eventually(lambda: letters(house, "undeliverable"), timeout=20)
        code, told = dead(house, "replay", lost[0]["id"])
        assert (code, told[0]["replayed"]) == (ExitCode.REJECTED, False), "the queue is still not there"
        channel.queue_declare("late", durable=True)
        assert dead(house, "replay", *[one["id"] for one in letters(house, "undeliverable")])[0] == ExitCode.OK
        method, said, body = eventually(lambda: (got := channel.basic_get("late", auto_ack=True))[0] and got)
        assert method is not None
        assert (said.correlation_id, said.content_type) == ("c-1", "application/cloudevents+json")
        assert json.loads(body)["subject"] == "m1"
        code, told = dead(house, "replay", conflict["id"], "--id", "m2")
        assert (code, told[0]["to"]) == (ExitCode.OK, "job.submit.demo")
        eventually(lambda: house.names_of("m2")[-1] == "completed", timeout=20)
        connection.close()


# The parts


def test_letters_are_bounded_by_count_bytes_and_age(ledger: Ledger) -> None:
    """And an original is kept to 64 KiB, with the size and SHA-256 of all of it."""
    big = b"\xc3\xbc" * 50_000
    letter = ledger.dead.get(ledger.dead.keep("too_large", door="amqp", body=big))
    assert letter is not None
    assert (letter["size"], letter["truncated"], letter["encoding"]) == (100_000, True, "utf-8")
    assert 65_530 < len(letter["original"].encode()) <= 65_536
    assert original_of(letter) is None
    for n in range(500):
        ledger.dead.keep("malformed", door="amqp", body=f"{n}")
    assert len(ledger.dead.newest()) < 300
    ledger.dead.trim(bytes_max=10_000, retention_ms=10**9)
    assert 0 < len(ledger.dead.newest()) < 100
    left = len(ledger.dead.newest())
    ledger.dead.keep("malformed", door="amqp", body="x" * 5_000)
    ledger.dead.trim(bytes_max=10**9, retention_ms=0)
    assert len(ledger.dead.newest()) < left


def test_originals_may_be_left_out(redis_url: str) -> None:
    """BRIDGE_DEAD_ORIGINALS=off: reason, size and SHA-256 alone."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules(), dead_originals=False)
    letter = ledger.dead.get(ledger.dead.keep("malformed", door="amqp", body=b"hush", headers={"h": "hush"}))
    assert letter is not None
    assert "hush" not in json.dumps(letter)
    assert letter["sha256"] == hashlib.sha256(b"hush").hexdigest()
    client.close()


def test_parked_requests_are_listed_with_their_last_error_and_can_go_on(ledger: Ledger) -> None:
    """A record that engines fail on rests a day, and is never silent (HARDENING 14)."""
    table = ledger.table
    held = Held(Record(id="sick", endpoint="demo", door="cli", fingerprint="f"), {Long.INPUT: "{}"})
    ledger.accept("sick", lambda now, wish: table.accept(held, now, wish))
    ledger.client.hset(ledger.names.row("sick"), "cl", "10")
    ledger.fault_noted("sick", "RecursionError: too deep")
    assert ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=1_000).records == []
    (told,) = parked(ledger)
    assert (told["id"], told["reason"], told["detail"]) == ("sick", "parked", "RecursionError: too deep")
    assert unpark(ledger, "sick")
    assert not unpark(ledger, "sick")
    assert parked(ledger) == []
    ledger.client.hset(ledger.names.row("sick"), "ta", "yesterday")
    ledger.fault_noted("sick", "field accepted_at holds 'yesterday'")
    assert [one["reason"] for one in parked(ledger)] == ["unreadable"]
