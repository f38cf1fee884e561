"""The client library loads little, checks early, and says the same as the contract."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from bridge.client import (
    AsyncClient,
    Chunk,
    Client,
    JobError,
    JobFailed,
    JobLost,
    JobRejected,
    JobTimedOut,
    LedgerUnavailable,
)
from bridge.client.flows import Flows
from bridge.client.values import Event, outcome
from bridge.job.contract.models import JsonRequest

HEAVY = ("celery", "kombu", "requests", "urllib3", "uvicorn", "starlette", "structlog", "prometheus_client", "click",
         "pydantic_settings", "runpod", "bridge.engine", "bridge.ledger", "bridge.process")  # fmt: skip

PROGRAM = """
import sys
import bridge.client
print(*(name for name in sys.argv[1].split() if name in sys.modules))
"""


def test_it_loads_redis_and_pydantic_and_nothing_of_the_engine() -> None:
    """It costs a caller's start little beside these two."""
    asked = [sys.executable, "-c", PROGRAM, " ".join(HEAVY)]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() == []


def written(flow: Any) -> dict[str, Any]:
    """The document that a submit writes; under an id that is given, behind a look at what was told before."""
    do = next(flow)
    if do.args[0] == "XREVRANGE":
        do = flow.send([])
    assert do.args[:2] == ("XADD", "bridge:requests")
    return dict(json.loads(do.args[-1]))


def test_what_it_sends_is_the_contracts_request() -> None:
    """The published model takes it; the replies to another content of the same id go elsewhere."""
    flows = Flows("_", 1.0)
    told = written(flows.submit({"a": 1}, id="r-1", endpoint="demo", stream=True, metadata={"k": "v"}))
    mark = told["reply_to"].removeprefix("client.r-1.")
    assert len(mark) == 8
    assert mark not in written(flows.submit({"a": 2}, id="r-1", endpoint="demo"))["reply_to"]
    assert told == {
        "id": "r-1", "input": {"a": 1}, "endpoint": "demo", "stream": True, "metadata": {"k": "v"},
        "reply_to": f"client.r-1.{mark}", "reply_on": ["end"],
    }  # fmt: skip
    assert JsonRequest.model_validate(told).id == "r-1"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"timeout": 600}, "timeout"),
        ({"polcy": {}}, "polcy"),
        ({"id": "a b"}, "id"),
        ({"input": {}}, "input"),
        ({"input": "a fox"}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": ["a fox"]}, "input"),
        ({"input": [["a", 1]]}, "input"),
        ({"input": {"n": 2**70}}, "input"),
        ({"input": {"n": float("nan")}}, "input"),
        ({"input": {"text": "half \ud83e"}}, "input"),
        ({"input": {"when": object()}}, "input"),
        ({"input": {"a": 1, "b": {1: 0, "1": 0}}}, "input"),
        ({"metadata": {"n": 2**70}}, "metadata"),
        ({"metadata": {"text": "\udc00"}}, "metadata"),
        ({"correlation_id": "a\nb"}, "correlation_id"),
        ({"correlation_id": 7}, "correlation_id"),
    ],
)
def test_a_mistake_is_refused_before_it_is_sent(arguments: dict[str, Any], field: str) -> None:
    """By the bridge's own rules, with the field's name."""
    with Client("redis://127.0.0.1:1/0") as client, pytest.raises(JobRejected) as refused:
        client.submit(**{"input": {"a": 1}, **arguments})
    assert refused.value.document["field"] == field
    assert refused.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("given", [{1: 2}, {"a": {1: 2}}, {"a": [{(1, 2): 3}]}, {"a": {None: 1}}])
def test_a_name_that_is_no_text_is_refused_in_these_words(given: dict[Any, Any]) -> None:
    """JSON would make "1" of 1: the handler would read another input than was given."""
    with Client("redis://127.0.0.1:1/0") as client, pytest.raises(JobRejected, match="input: a name in it is no text"):
        client.submit(given)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"url": ""}, ValueError, "url: is empty"),
        ({"url": " "}, ValueError, "url: is empty"),
        ({"url": 5}, TypeError, "url: must be text"),
        ({"answer_timeout": "5"}, TypeError, "answer_timeout"),
        ({"answer_timeout": None}, TypeError, "answer_timeout"),
        ({"answer_timeout": float("nan")}, ValueError, "answer_timeout"),
        ({"answer_timeout": 0}, ValueError, "answer_timeout"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_is_not_made_of_a_wrong_argument(
    kind: Any, arguments: dict[str, Any], error: type[Exception], name: str
) -> None:
    """An empty address is a forgotten variable, and never means a Redis of this machine."""
    with pytest.raises(error, match=name):
        kind(**arguments)


def test_an_empty_variable_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an empty `url`."""
    monkeypatch.setenv("BRIDGE_REDIS_URL", "")
    with pytest.raises(ValueError, match="BRIDGE_REDIS_URL: is empty"):
        Client()


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda client: client.stream("r", start=-1), ValueError, "start"),
        (lambda client: client.stream("r", start="x"), TypeError, "start"),
        (lambda client: client.stream("r", start=10**30), ValueError, "start"),
        (lambda client: client.events("r", after=-1), ValueError, "after"),
        (lambda client: client.events("r", timeout="5"), TypeError, "timeout"),
        (lambda client: client.result("r", timeout="5"), TypeError, "timeout"),
        (lambda client: client.result("r", timeout=float("nan")), ValueError, "timeout"),
        (lambda client: client.status("r", timeout=-1), ValueError, "timeout"),
        (lambda client: client.command("health", timeout=True), TypeError, "timeout"),
    ],
)
def test_a_wrong_argument_is_told_at_the_call(call: Any, error: type[Exception], name: str) -> None:
    """By its name, before anything leaves: nobody answers at this address."""
    with Client("redis://127.0.0.1:1/0") as client, pytest.raises(error, match=f"^{name}: "):
        call(client)


def test_a_redis_that_says_nothing_is_waited_for_as_long_as_answer_timeout_says() -> None:
    """The connection stands, and no answer comes."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with (
            Client(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", answer_timeout=1.0) as client,
            pytest.raises(LedgerUnavailable),
        ):
            client.submit({"a": 1})
        assert time.monotonic() - began < 6  # it was 12 whatever the timeout


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"op": "cancle"}, "op"),
        ({"op": "cancel", "id": "a b"}, "id"),
        ({"op": "status", "id": "r", "refresh": "yes"}, "refresh"),
        ({"op": "pause", "endpoint": "e", "reason": "\ud83e"}, "reason"),
    ],
)
def test_a_wrong_command_is_refused_before_it_is_sent(arguments: dict[str, Any], field: str) -> None:
    """By the model of commands."""
    with Client("redis://127.0.0.1:1/0") as client, pytest.raises(JobRejected) as refused:
        client.command(**arguments)
    assert refused.value.document["field"] == field


def test_what_another_alphabet_says_is_sent_as_it_is() -> None:
    """Escapes would make three bytes of a character into six, and a request too large that is not."""
    do: Any = next(Flows("_", 1.0).submit({"text": "狐 and 🦊"}))
    assert "狐 and 🦊" in do.args[-1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("FAILED", JobFailed),
        ("TIMED_OUT", JobTimedOut),
        ("LOST", JobLost),
        ("REJECTED", JobRejected),
        ("CANCELLED", JobError),
    ],
)
def test_each_end_has_its_error(status: str, kind: type[JobError]) -> None:
    """The message names id, status and reason; the document comes with it."""
    document = {
        "id": "r",
        "status": status,
        "reason": "handler_error",
        "error": {"type": "ValueError", "message": "no"},
    }
    with pytest.raises(kind, match=f"r: {status} .handler_error.: ValueError: no") as raised:
        outcome(document)
    assert raised.value.document == document


def test_a_namespace_has_its_own_streams() -> None:
    """As the ledger names them."""
    do: Any = next(Flows("blue", 1.0).submit({"a": 1}))
    assert do.args[1] == "bridge:blue:requests"


def test_values_are_read_from_the_contract() -> None:
    """Events and chunks."""
    body = {"type": "bridge.job.completed", "subject": "r", "sequence": "0000000007", "time": "t", "data": {"x": 1}}
    event = Event.of(json.dumps(body))
    assert (event.name, event.request_id, event.sequence, event.ends) == ("completed", "r", 7, True)
    assert Chunk.of({"index": 3, "output": "x", "repaired": True}) == Chunk(3, "x", None, True)


@pytest.mark.parametrize("body", [None, "", "no json", "[]", "1", '{"data": 1, "sequence": "x"}', "[" * 100_000])
def test_what_strangers_write_into_a_stream_is_an_event_of_no_request(body: str | None) -> None:
    """Passed over by every reader: it ends nothing and belongs to nobody."""
    event = Event.of(body)
    assert (event.ends, event.request_id, event.sequence, dict(event.data)) == (False, "", 0, {})
