"""Services that speak plain JSON, on both doors: what comes in, what is answered, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from bridge.emulator import Emulator
from bridge.job.contract.models import schemas
from bridge.job.record import Record
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import AmqpService, StreamService

DOORS = ("amqp", "stream")
Kind = str


@pytest.fixture(scope="module")
def house(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """One worker on RabbitMQ with both doors."""
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    folder = tmp_path_factory.mktemp("doors")
    with (
        Emulator(endpoints=["demo", *DOORS], api_keys=[API_KEY]) as emulator,
        House(folder, broker=amqp, redis_url=redis_url, emulator=emulator, stream_idle_s="1") as made,
    ):
        made.worker()
        yield made


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    """Each door."""
    return str(request.param)


@pytest.fixture
def service(house: House, door: str) -> Iterator[Any]:
    """A client on it."""
    url = house.environment["BRIDGE_REDIS_URL"]
    made = AmqpService(house.broker) if door == "amqp" else StreamService(url)
    yield made
    made.close()


def source(door: str, kind: str = "requests") -> str:
    """The queue's or stream's name."""
    return f"bridge.{kind}" if door == "amqp" else f"bridge:{kind}"


def types(events: list[dict[str, Any]]) -> list[str]:
    """By name."""
    return [event["type"].rpartition(".")[2] for event in events]


def record(house: House, request_id: str) -> Record:
    """The row of one request."""
    held = house.ledger.load(request_id)
    assert held is not None
    return held.record


def letters(house: House, request_id: str) -> list[dict[str, Any]]:
    """Dead letters of one request."""
    return [letter for letter in house.ledger.dead.newest() if letter["request_id"] == request_id]


def test_a_request_ends_at_its_reply_to_with_its_own_words(house: House, door: str, service: Any) -> None:
    """Id, correlation id and metadata come back; the message is gone; the record names its door."""
    name = f"billing-{door}"
    service.own(name)
    asked = {"input": {"a": 1}, "id": f"{door}-1", "correlation_id": "c-1", "reply_to": name, "metadata": {"k": "v"}}
    service.send({**asked, "endpoint": "demo"})
    (end,) = service.replies(name, 1)
    assert (end["type"], end["subject"], end["specversion"]) == ("bridge.job.completed", f"{door}-1", "1.0")
    data = end["data"]
    assert (data["output"], data["correlation_id"], data["metadata"]) == ({"a": 1}, "c-1", {"k": "v"})
    assert record(house, f"{door}-1").door == door
    eventually(lambda: service.left(source(door)) == 0)
    if door == "amqp":
        assert service.properties[-1].correlation_id == "c-1"
        assert service.properties[-1].content_type == "application/cloudevents+json"


def test_what_was_asked_for_is_told_in_order_and_nothing_else(house: House, door: str, service: Any) -> None:
    """`reply_on`; a stream's chunks by default; sequences grow."""
    name = f"watch-{door}"
    service.own(name)
    service.send(
        {"input": {"a": 1}, "id": f"{door}-on", "reply_to": name, "reply_on": ["accepted", "submitted", "end"]}
    )
    told = service.replies(name, 3)
    assert types(told) == ["accepted", "submitted", "completed"]
    assert [event["sequence"] for event in told] == sorted(event["sequence"] for event in told)
    name = f"chunks-{door}"
    service.own(name)
    service.send({"input": {"mock_stream": ["x", "y"]}, "id": f"{door}-s", "reply_to": name, "stream": True})
    told = service.replies(name, 3)
    assert types(told) == ["chunk", "chunk", "completed"]
    assert [event["data"]["output"] for event in told[:2]] == ["x", "y"]


def test_an_id_is_made_where_none_is_named_and_comes_back(house: House, door: str, service: Any) -> None:
    """In every reply; two messages of the same words are two requests."""
    name = f"made-{door}"
    service.own(name)
    for _ in range(2):
        service.send({"input": {"a": 1}, "reply_to": name, "reply_on": ["accepted"]})
    told = service.replies(name, 2)
    ids = {event["subject"] for event in told}
    assert len(ids) == 2
    # Nobody asked for the end, so nobody is waited for: the records close.
    eventually(lambda: {house.phase(made) for made in ids} == {"CLOSED"})
    eventually(lambda: not list(house.client.scan_iter("bridge:_:made:*", count=1000)))


def test_the_same_again_is_answered_with_the_same_outcome_elsewhere_too(house: House, door: str, service: Any) -> None:
    """While it runs and after its end; one submit; the same event id and sequence."""
    first, second, third = (f"again-{n}-{door}" for n in range(3))
    for name in (first, second, third):
        service.own(name)
    before = house.submits()
    asked = {"input": {"mock_delay": 1}, "id": f"{door}-again", "correlation_id": "one"}
    service.send({**asked, "reply_to": first})
    eventually(lambda: house.phase(f"{door}-again") == "TRACKED")
    service.send({**asked, "reply_to": second, "correlation_id": "two", "reply_on": ["accepted", "end"]})
    ends = [service.replies(first, 1)[0], service.replies(second, 2)[-1]]
    service.send({**asked, "reply_to": third, "correlation_id": "three"})
    ends += service.replies(third, 1)
    assert {(end["id"], end["sequence"], end["type"]) for end in ends} == {
        (ends[0]["id"], ends[0]["sequence"], "bridge.job.completed")
    }
    assert ends[2]["data"]["correlation_id"] == "three"
    assert house.submits() == before + 1
    assert types(service.replies(second, 2)) == ["accepted", "completed"]


def test_the_same_id_for_another_request_is_refused_and_the_first_goes_on(
    house: House, door: str, service: Any
) -> None:
    """`id_conflict`: a dead letter, and an answer of sequence 0 whose id ends in the message's hash."""
    name = f"conflict-{door}"
    service.own(name)
    service.send({"input": {"a": 1}, "id": f"{door}-c", "reply_to": name})
    service.replies(name, 1)
    body = json.dumps({"input": {"a": 2}, "id": f"{door}-c", "reply_to": name, "correlation_id": "x"}).encode()
    service.send(body)
    refused = service.replies(name, 2)[1]
    digest = hashlib.sha256(body).hexdigest()
    assert (refused["type"], refused["sequence"]) == ("bridge.job.rejected", "0000000000")
    assert refused["id"] == f"{door}-c:0:{digest[:8]}"
    assert (refused["data"]["reason"], refused["data"]["correlation_id"]) == ("id_conflict", "x")
    (letter,) = letters(house, f"{door}-c")
    assert (letter["reason"], letter["original"], letter["sha256"]) == ("id_conflict", body.decode(), digest)
    assert record(house, f"{door}-c").status == "COMPLETED"


def test_a_refusal_names_field_and_rule_and_leaves_the_id_free(house: House, door: str, service: Any) -> None:
    """No record: a mended document may use the same id. The event is told on `bridge:events` too."""
    name = f"mend-{door}"
    service.own(name)
    service.send({"input": {}, "id": f"{door}-m", "reply_to": name})
    refused = service.replies(name, 1)[0]
    assert (refused["data"]["field"], refused["data"]["status"]) == ("input", "REJECTED")
    assert "empty" in refused["data"]["error"]
    assert house.ledger.load(f"{door}-m") is None
    assert refused["id"] in {event["id"] for event in house.events(f"{door}-m")}
    letter = letters(house, f"{door}-m")[0]
    assert (letter["reason"], letter["door"], letter["source"]) == ("rejected", door, source(door))
    assert refused["data"]["dead_letter"] == letter["id"]
    service.send({"input": {"a": 1}, "id": f"{door}-m", "reply_to": name})
    assert service.replies(name, 2)[1]["type"] == "bridge.job.completed"


@pytest.mark.parametrize("reply_to", ["bridge.run", "bridge:requests", "celery", "amq.rabbitmq.reply-to", "a b", "é"])
def test_no_reply_goes_where_it_would_be_an_injection(house: House, door: str, service: Any, reply_to: str) -> None:
    """Such a request is refused, and the refusal is not sent there either."""
    request_id = f"{door}-{hashlib.sha256(reply_to.encode()).hexdigest()[:6]}"
    service.send({"input": {"a": 1}, "id": request_id, "reply_to": reply_to})
    letter = eventually(lambda: letters(house, request_id))[0]
    assert (letter["reason"], "reply_to" in letter["detail"]) == ("rejected", True)
    assert house.ledger.load(request_id) is None
    assert not house.client.exists(f"bridge:reply:{reply_to}")


@pytest.mark.parametrize("reply_to", ["", "bridge.run", "no such name"])
def test_a_sender_whom_the_message_names_is_told_whatever_its_document_names(
    house: House, door: str, service: Any, reply_to: str
) -> None:
    """A wrong `reply_to` in a request, which is refused for it, and in a command, which is carried out."""
    name = f"beside-{door}-{len(reply_to)}"
    service.own(name)
    service.send({"id": name, "input": {"a": 1}, "reply_to": reply_to}, reply_to=name, correlation_id="c-1")
    (told,) = service.replies(name, 1)
    assert (told["type"], told["data"]["field"]) == ("bridge.job.rejected", "reply_to")
    service.send({"op": "status", "id": name, "reply_to": reply_to}, "commands", reply_to=name, correlation_id="c-2")
    told = service.replies(name, 2)[1]
    assert (told["type"].startswith("bridge.command."), told["data"]["correlation_id"]) == (True, "c-2")


def test_a_queue_that_rabbitmq_has_named_is_the_services_own(house: House) -> None:
    """amq.gen-...: exclusive to its connection, and as good a reply_to as any."""
    service = AmqpService(house.broker)
    queue = service.channel.queue_declare("", exclusive=True).method.queue
    service.send({"input": {"a": 1}, "reply_to": queue})
    assert service.replies(queue, 1)[0]["type"] == "bridge.job.completed"
    service.close()


def test_ends_that_nobody_was_named_for_go_to_the_results(house: House, door: str, service: Any) -> None:
    """On the broker the request came from."""
    service.send({"input": {"a": 7}, "id": f"{door}-r"})
    eventually(lambda: house.phase(f"{door}-r") == "CLOSED", timeout=20)
    if door == "amqp":
        assert service.replies("bridge.results", 1)[-1]["subject"] == f"{door}-r"
    else:
        entries = service.client.xrange("bridge:results")
        assert json.loads(entries[-1][1]["data"])["subject"] == f"{door}-r"


@pytest.mark.parametrize("fault", ["NaN", "twice", "deep", "half"])
def test_who_sends_what_cannot_be_read_is_told_so(house: House, door: str, service: Any, fault: str) -> None:
    """Named by the message's properties or in the document: a typed refusal, with the correlation id."""
    broken = {"NaN": "NaN", "twice": '{"b": 1, "b": 2}', "deep": "[" * 200 + "]" * 200, "half": '"\\ud800"'}[fault]
    name, request_id = f"unread-{fault}-{door}", f"{door}-unread-{fault}"
    service.own(name)
    given = '"input": {"a": ' + broken + "}}"
    properties = {"reply_to": name, "correlation_id": "c-1", "message_id": request_id}
    service.send(("{" + given).encode(), **properties)
    named = json.dumps({"id": f"{request_id}-2", "reply_to": name, "correlation_id": "c-2"})
    service.send((named[:-1] + ", " + given).encode())
    for n, told in enumerate(service.replies(name, 2), start=1):
        data = told["data"]
        assert (told["type"], told["subject"]) == (
            "bridge.job.rejected",
            f"{request_id}-2" if n == 2 else request_id,
        )
        assert (data["reason"], data["field"], data["correlation_id"]) == ("rejected", "body", f"c-{n}")
        assert (data["phase"], data["status"], data["completed"]) == ("CLOSED", "REJECTED", True)
        assert data["error"].startswith("body: ")
        assert data["dead_letter"] == letters(house, told["subject"])[0]["id"]
        assert Draft202012Validator(schemas()["document"]).is_valid(data)
        assert Draft202012Validator(schemas()["transition"]).is_valid(data)
    service.send(b'{"op": "status", "id": "x", "where": {"a": ' + broken.encode() + b"}}", "commands", **properties)
    told = service.replies(name, 3)[2]
    assert (told["type"], told["data"]["correlation_id"]) == ("bridge.command.refused", "c-1")


def test_a_refusal_without_an_id_is_a_whole_document_too(house: House, door: str, service: Any) -> None:
    """Its subject and id are `unknown`."""
    name = f"nameless-{door}"
    service.own(name)
    service.send(b"[1, 2]", reply_to=name)
    (told,) = service.replies(name, 1)
    assert (told["subject"], told["data"]["id"], told["data"]["endpoint"]) == ("unknown", "unknown", "_invalid")
    assert Draft202012Validator(schemas()["document"]).is_valid(told["data"])


def test_a_message_at_the_wrong_door_is_told_the_right_one(house: House, door: str, service: Any) -> None:
    """A command among requests, and the other way round; nothing is told of the request that the command names."""
    name = f"astray-{door}"
    service.own(name)
    service.send({"op": "cancel", "id": f"{door}-astray", "reply_to": name})
    told = service.replies(name, 1)[0]
    assert (told["type"], told["data"]["op"]) == ("bridge.command.refused", "cancel")
    assert source(door, "commands") in told["data"]["error"]
    assert not house.events(f"{door}-astray")
    service.send({"input": {"a": 1}, "id": f"{door}-astray", "reply_to": name}, "commands")
    told = service.replies(name, 2)[1]
    assert (told["type"], told["data"]["field"]) == ("bridge.job.rejected", "input")
    assert source(door) in told["data"]["error"]


def test_a_request_that_runpod_would_not_take_is_refused_at_the_door(house: House, door: str, service: Any) -> None:
    """For its size: no record, no submit, and a refusal that names field and rule."""
    name, request_id = f"large-{door}", f"{door}-large"
    service.own(name)
    service.send({"input": {"a": "a" * 10 * 1024 * 1024}, "id": request_id, "reply_to": name})
    data = service.replies(name, 1)[0]["data"]
    assert (data["status"], data["field"]) == ("REJECTED", "input")
    assert data["error"].endswith("RunPod takes at most 10485760")
    assert house.ledger.load(request_id) is None
    assert letters(house, request_id)[0]["reason"] == "rejected"


# Commands


def test_a_command_about_an_endpoint_that_nobody_uses_is_refused(house: House, door: str, service: Any) -> None:
    """Also one that a request has misspelt: it has never answered."""
    name = f"misspelt-{door}"
    service.own(name)
    service.send({"input": {"a": 1}, "endpoint": f"demmo-{door}", "reply_to": name})
    assert service.replies(name, 1)[0]["type"] == "bridge.job.rejected"
    asked = [(op, word) for op in ("pause", "resume", "health") for word in ("nowhere", f"demmo-{door}")]
    for n, (op, word) in enumerate(asked, start=2):
        service.send({"op": op, "endpoint": word, "reply_to": name}, "commands")
        data = service.replies(name, n)[-1]["data"]
        assert (data["op"], data["reason"], data["field"]) == (op, "rejected", "endpoint")
        assert f"'{word}' is not known" in data["error"]
        assert "demo" in data["error"]
    service.send({"op": "health", "reply_to": name}, "commands")
    told = service.replies(name, len(asked) + 2)[-1]["data"]["result"]
    assert {one["endpoint"] for one in told} <= {"demo", *DOORS}


def test_a_command_that_comes_too_often_is_told_that_it_is_busy(house: House, door: str, service: Any) -> None:
    """RunPod allows two purges in 10 s: the third breaks no rule, and may be sent again."""
    name = f"purges-{door}"
    service.own(name)
    service.send({"input": {"a": 1}, "endpoint": door, "reply_to": name})
    service.replies(name, 1)
    for _ in range(3):
        service.send({"op": "purge", "endpoint": door, "reply_to": name}, "commands")
    told = [event["data"] for event in service.replies(name, 4)[1:]]
    refused = [data for data in told if "result" not in data]
    assert [(data["reason"], data["field"]) for data in refused] == [("busy", "endpoint")]
    assert "try again in" in refused[0]["error"]


def test_commands_are_answered_where_they_say(house: House, door: str, service: Any) -> None:
    """cancel, status, pause, resume, health; who asked stands in the event."""
    name = f"office-{door}"
    service.own(name)
    request_id = f"{door}-long"
    service.send({"input": {"mock_delay": 60}, "id": request_id})
    eventually(lambda: house.phase(request_id) == "TRACKED", timeout=20)
    service.send({"op": "status", "id": request_id, "reply_to": name, "correlation_id": "s"}, "commands")
    told = service.replies(name, 1)[-1]
    assert (told["type"], told["subject"]) == ("bridge.command.answered", request_id)
    assert (told["data"]["op"], told["data"]["correlation_id"]) == ("status", "s")
    assert told["data"]["result"]["phase"] == "TRACKED"
    service.send({"op": "cancel", "id": request_id, "reply_to": name, "by": "anna"}, "commands")
    assert service.replies(name, 2)[-1]["data"]["result"]["outcome"] == "requested"
    end = eventually(lambda: [e for e in house.events(request_id) if e["type"].endswith("cancelled")], timeout=20)[0]
    assert (end["data"]["wish"]["by"], end["data"]["wish"]["door"]) == ("anna", door)
    service.send({"op": "health", "endpoint": "demo", "reply_to": name}, "commands")
    assert service.replies(name, 3)[-1]["data"]["result"]["endpoint"] == "demo"
    service.send({"op": "pause", "endpoint": "demo", "reason": "test", "reply_to": name}, "commands")
    assert service.replies(name, 4)[-1]["data"]["result"]["paused"] is True
    service.send({"op": "resume", "endpoint": "demo", "reply_to": name}, "commands")
    assert service.replies(name, 5)[-1]["data"]["result"]["paused"] is False
    eventually(lambda: service.left(source(door, "commands")) == 0)


def test_an_answer_that_may_not_go_where_its_command_says_is_kept(house: House, door: str, service: Any) -> None:
    """The command is carried out; nobody waits in vain without a trace of why."""
    request_id = f"{door}-nowhere"
    service.send({"op": "cancel", "id": request_id, "reply_to": "amq.rabbitmq.reply-to"}, "commands")
    letter = eventually(lambda: [one for one in house.ledger.dead.newest() if request_id in str(one["original"])])[0]
    assert (letter["reason"], letter["door"]) == ("undeliverable", door)
    assert "amq.rabbitmq.reply-to" in letter["detail"]
    assert json.loads(letter["original"])["data"]["result"]["outcome"] == "unknown"
    eventually(lambda: service.left(source(door, "commands")) == 0)


def test_a_command_that_cannot_be_is_told_why(house: House, door: str, service: Any) -> None:
    """Unknown ops and arguments are dead letters too; an unknown request is only an answer."""
    name = f"wrong-{door}"
    service.own(name)
    service.send({"op": "explode", "reply_to": name}, "commands")
    told = service.replies(name, 1)[-1]
    assert (told["type"], told["data"]["field"]) == ("bridge.command.refused", "op")
    assert any(letter["id"] == told["data"]["dead_letter"] for letter in house.ledger.dead.newest())
    service.send({"op": "status", "id": "nobody", "reply_to": name}, "commands")
    told = service.replies(name, 2)[-1]
    assert (told["type"], told["data"]["field"]) == ("bridge.command.refused", "id")
    service.send({"op": "cancel", "id": f"{door}-early", "reply_to": name}, "commands")
    assert service.replies(name, 3)[-1]["data"]["result"]["outcome"] == "unknown"
    service.own(f"early-{door}")
    service.send({"input": {"a": 1}, "id": f"{door}-early", "reply_to": f"early-{door}"})
    assert types(service.replies(f"early-{door}", 1)) == ["cancelled"]


def test_a_cancel_never_waits_behind_a_health_that_hangs(house: House, door: str, service: Any) -> None:
    """However many of them; those that find no caller are told busy."""
    name = f"busy-{door}"
    service.own(name)
    request_id = f"{door}-slow"
    service.send({"input": {"mock_delay": 60}, "id": request_id, "endpoint": door})
    eventually(lambda: house.phase(request_id) == "TRACKED", timeout=20)
    service.own(f"now-{door}")
    house.emulator.fault("hang", op="health", times=None, seconds=60)
    try:
        for _ in range(40):
            service.send({"op": "health", "endpoint": door, "reply_to": name}, "commands")
        service.send({"op": "cancel", "id": request_id, "reply_to": f"now-{door}"}, "commands")
        cancelled = service.replies(f"now-{door}", 1)[0]
        assert cancelled["data"]["result"]["outcome"] == "requested"
        assert {event["data"].get("reason") for event in service.replies(name, 8)} >= {"busy"}
    finally:
        house.emulator.clear_faults()
    answered = service.replies(name, 40)
    assert len(answered) == 40  # every one is answered
    assert all(cancelled["time"] < event["time"] for event in answered if event["data"].get("reason") != "busy")


FRAMES: dict[str, Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]] = {
    "bare": lambda asked: (asked, {}),
    "structured": lambda asked: (
        {"specversion": "1.0", "id": "e", "source": "/shop", "type": "job", "data": asked},
        {"content_type": "application/cloudevents+json; charset=utf-8"},
    ),
    "structured, unsaid": lambda asked: (
        {"specversion": "1.0", "id": "e", "source": "/shop", "type": "job", "data": asked},
        {},
    ),
}


def test_the_id_of_a_stream_s_entry_may_stand_beside_its_data(house: House) -> None:
    """As `id` or as AMQP's `message_id`; the document's own counts before both."""
    service = StreamService(house.environment["BRIDGE_REDIS_URL"])
    fields = ({"id": "beside-1"}, {"message_id": "beside-2"}, {"id": "beside-no", "message_id": "beside-3"})
    for beside in fields:
        service.send({"input": {"a": 1}}, reply_to="beside", **beside)
    service.send({"id": "beside-4", "input": {"a": 1}}, reply_to="beside", id="beside-no")
    told = service.replies("beside", 4)
    assert {event["subject"] for event in told} == {f"beside-{n}" for n in range(1, 5)}
    service.close()


@pytest.mark.parametrize("frame", FRAMES)
def test_cloud_events_and_bare_json_mean_the_same(house: House, door: str, service: Any, frame: str) -> None:
    """Whatever they are wrapped in."""
    name = f"frame-{door}-{frame.replace(', ', '-')}"
    service.own(name)
    document, properties = FRAMES[frame]({"input": {"f": frame}, "id": name, "reply_to": name})
    service.send(document, **properties)
    assert service.replies(name, 1)[0]["data"]["output"] == {"f": frame}


def test_binary_cloud_events_carry_their_attributes_in_headers(house: House, door: str, service: Any) -> None:
    """`ce-` on streams as fields, on AMQP as headers; the trace goes on."""
    name = f"binary-{door}"
    service.own(name)
    trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    attributes = {"ce-specversion": "1.0", "ce-id": name, "ce-source": "/shop", "ce-type": "job", "traceparent": trace}
    body = {"input": {"a": 1}, "reply_to": name}
    service.send(body, **({"headers": attributes} if door == "amqp" else attributes))
    (end,) = service.replies(name, 1)
    assert (end["subject"], end["traceparent"]) == (name, trace)
