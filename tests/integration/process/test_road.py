"""The road of one request, end to end: off the broker, to RunPod, and back; a real worker process on Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from bridge.emulator import Emulator
from bridge.errors import JobFailed, JobRejected, JobTimedOut
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all tests here; each uses its own request ids."""
    url = redis_server.start().fresh_url()
    with (
        Emulator(endpoints=["demo", "other"], api_keys=[API_KEY]) as emulator,
        House(
            tmp_path_factory.mktemp("road"),
            broker=url,
            redis_url=url,
            emulator=emulator,
            endpoints="demo,other,wide=other",
        ) as made,
    ):
        made.worker()
        yield made


def test_a_request_goes_the_whole_road(house: House) -> None:
    """Sent by name, run once, and its output is the result."""
    sent = house.send({"prompt": "hi", "mock_delay": 0.3}, metadata={"campaign": 42})
    assert sent.get(timeout=15) == {"prompt": "hi", "mock_delay": 0.3}
    assert house.names_of(sent.id)[:3] == ["accepted", "submitted", "queued"]
    assert house.names_of(sent.id)[-1] == "completed"
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    end = house.events(sent.id)[-1]
    assert end["id"] == f"{sent.id}:{int(end['sequence'])}"
    assert end["data"]["output"] == {"prompt": "hi", "mock_delay": 0.3}
    assert end["data"]["metadata"] == {"campaign": 42}


def test_the_document_has_what_the_contract_lists(house: House) -> None:
    """bridge.status answers every field of DESIGN section 5."""
    sent = house.send({"a": 1})
    sent.get(timeout=15)
    told = house.ask("status", id=sent.id)
    listed = {
        *("id", "correlation_id", "endpoint", "endpoint_id", "job_id", "attempt", "jobs", "phase", "status", "reason"),
        *("started", "completed", "succeeded", "delayTime", "executionTime", "workerId", "retries", "progress"),
        *("output", "error", "possible_duplicate", "metadata"),
        *("accepted_at", "submitted_at", "ended_at", "observed_at"),
    }
    assert listed <= set(told)
    assert told["status"] == "COMPLETED"
    assert told["succeeded"] is True
    assert told["jobs"] == [{"job_id": told["job_id"], "endpoint_id": "demo", "attempt": 1}]


def test_states_go_forward_only(house: House) -> None:
    """ACCEPTED, IN_QUEUE, IN_PROGRESS, SUCCESS; never STARTED, never back."""
    sent = house.send({"mock_delay": 1.5})
    seen: list[str] = []

    def ended() -> bool:
        state = sent.state
        if not seen or seen[-1] != state:
            seen.append(state)
        return bool(state == "SUCCESS")

    eventually(ended, timeout=20, every=0.005)
    order = ["PENDING", "ACCEPTED", "IN_QUEUE", "IN_PROGRESS", "SUCCESS"]
    assert seen == [state for state in order if state in seen]
    assert "IN_PROGRESS" in seen


def test_a_failing_handler_raises_job_failed_with_its_document(house: House) -> None:
    """The class, the message and the document reach the caller."""
    sent = house.send({"mock_error": "boom"})
    with pytest.raises(JobFailed) as caught:
        sent.get(timeout=15)
    assert "boom" in str(caught.value)
    assert caught.value.document["reason"] == "handler_error"
    assert caught.value.document["id"] == sent.id


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "input"),
        ({"input": {}}, "input"),
        ({"input": {"a": 1}, "colour": "red"}, "colour"),
        ({"input": {"a": 1}, "timeout": -5}, "timeout"),
        ({"input": {"a": 1}, "timeout": 600}, "timeout"),
        ({"input": {"a": 1}, "timeout": "60000"}, "timeout"),
        ({"input": {"a": 1}, "policy": {"ttl": 5}}, "policy.ttl"),
        ({"input": {"a": 1}, "policy": {"executionTimeout": 4999}}, "policy.executionTimeout"),
        ({"input": {"a": 1}, "endpoint": "not/allowed"}, "endpoint"),
        ({"input": {"a": 1}, "endpoint": "stranger"}, "endpoint"),
        ({"input": {"a": 1}, "priority": 10}, "priority"),
        ({"input": {"a": 1}, "reply_to": "bridge.run"}, "reply_to"),
        ({"input": {"a": 1}, "fallback": "http://x"}, "fallback"),
        ({"input": {"a": 1}, "callback": {"url": "https://shop.example.com/"}}, "callback"),
        ({"input": [1]}, "input"),
        ({"input": {"a": 1}, "metadata": {"a": {"b": 1}}}, "metadata"),
        ({"input": {"a": 1}, "s3Config": "unknown"}, "s3Config"),
    ],
)
def test_bad_input_is_rejected_and_nothing_is_sent(house: House, arguments: dict[str, Any], field: str) -> None:
    """JobRejected names the field and the rule; the event says rejected; RunPod hears nothing."""
    before = house.submits()
    sent = house.app.send_task("bridge.run", kwargs=arguments, queue="bridge.run")
    with pytest.raises(JobRejected) as caught:
        sent.get(timeout=15)
    assert field in str(caught.value)
    assert caught.value.document["field"].startswith(field)
    eventually(lambda: house.names_of(sent.id) == ["rejected"])
    assert house.submits() == before


def test_an_oversized_body_never_leaves(house: House) -> None:
    """RunPod takes 10 MiB; more is refused at the door, as it comes in."""
    before = house.submits()
    sent = house.send({"blob": "x" * (10 * 1024 * 1024)})
    with pytest.raises(JobRejected, match="10485760") as caught:
        sent.get(timeout=30)
    assert caught.value.document["reason"] == "rejected"
    assert house.names_of(sent.id) == ["rejected"]  # never accepted
    assert house.events(sent.id)[0]["data"]["field"] == "input"
    assert house.submits() == before


def test_what_is_sent_beside_an_input_counts_for_its_size(house: House) -> None:
    """An input that would fit alone, with a policy that makes it too large."""
    sent = house.send({"blob": "x" * (10 * 1024 * 1024 - 40)}, policy={"executionTimeout": 60_000, "ttl": 120_000})
    with pytest.raises(JobRejected, match="10485760"):
        sent.get(timeout=30)
    assert house.names_of(sent.id) == ["rejected"]


def test_a_job_that_ran_between_two_looks_has_started(house: House) -> None:
    """FAILED at once: `started` is told before the end, in the order of sequence, and the document says so."""
    sent = house.send({"mock_error": "at once"})
    with pytest.raises(JobFailed) as caught:
        sent.get(timeout=20)
    assert caught.value.document["started"] is True
    assert caught.value.document["submitted_at"] <= caught.value.document["started_at"]
    assert house.names_of(sent.id) == ["accepted", "submitted", "queued", "started", "failed"]
    assert [int(event["sequence"]) for event in house.events(sent.id)] == [1, 2, 3, 4, 5]


def test_a_timeout_cancels_the_job_at_runpod(house: House) -> None:
    """The caller's own limit: TIMED_OUT with its reason, and the GPU is free."""
    sent = house.send({"mock_delay": 60}, timeout=1500)
    with pytest.raises(JobTimedOut) as caught:
        sent.get(timeout=20)
    assert caught.value.document["reason"] == "timeout"
    assert caught.value.document["status"] == "TIMED_OUT"
    job_id = caught.value.document["job_id"]
    assert any(call["op"] == "cancel" and call["job_id"] == job_id for call in house.emulator.calls())


def test_an_execution_timeout_is_told_as_runpod_tells_it(house: House) -> None:
    """FAILED, reason execution_timeout (fact: `executionTimeout exceeded`)."""
    sent = house.send({"mock_delay": 60}, policy={"executionTimeout": 5000})
    with pytest.raises(JobFailed) as caught:
        sent.get(timeout=40)
    assert caught.value.document["reason"] == "execution_timeout"


def test_a_cancel_reaches_the_gpu(house: House) -> None:
    """Task in, /cancel out, REVOKED in Celery."""
    sent = house.send({"mock_delay": 60})
    eventually(lambda: "started" in house.names_of(sent.id))
    answer = house.ask("cancel", id=sent.id, by="ann")
    assert answer["outcome"] == "requested"
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=15)
    end = house.events(sent.id)[-1]
    assert end["type"] == "bridge.job.cancelled"
    assert (end["data"]["by"], end["data"]["door"]) == ("ann", "celery")
    assert house.ask("cancel", id=sent.id)["outcome"] == "already_ended"


def test_a_cancel_before_its_request_wins(house: House) -> None:
    """`unknown` is answered, and the request is born ended: nothing is submitted."""
    before = house.submits()
    assert house.ask("cancel", id="early-bird")["outcome"] == "unknown"
    sent = house.send({"a": 1}, task_id="early-bird")
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=15)
    assert house.submits() == before


def test_the_same_id_twice_runs_once(house: House) -> None:
    """The task id is the idempotency key; another request under it changes nothing."""
    first = house.send({"n": 1}, task_id="once-only")
    assert first.get(timeout=15) == {"n": 1}
    before = house.submits()
    house.send({"n": 1}, task_id="once-only")
    house.send({"n": 2}, task_id="once-only")
    eventually(lambda: house.client.xlen("bridge:dead") >= 1)
    assert house.submits() == before
    assert house.app.AsyncResult("once-only").get(timeout=5) == {"n": 1}


def test_sync_brings_a_short_job_in_one_call(house: House) -> None:
    """`sync=True` is RunPod's /runsync, and its answer is the result."""
    sent = house.send({"quick": True}, sync=True, endpoint="other")
    assert sent.get(timeout=15) == {"quick": True}
    calls = [call for call in house.emulator.calls("other") if call["op"] == "runsync"]
    assert calls


def test_a_name_is_spoken_where_an_id_is_called(house: House) -> None:
    """BRIDGE_ENDPOINTS maps names to ids; events and documents speak the name."""
    sent = house.send({"a": 1}, endpoint="wide", result="document")
    told = sent.get(timeout=15)
    assert (told["endpoint"], told["endpoint_id"]) == ("wide", "other")
    assert told["output"] == {"a": 1}


def test_retries_use_runpods_retry(house: House) -> None:
    """FAILED with retries left is no end: the same job again, attempt + 1, one end."""
    sent = house.send({"mock_error": "again"}, retries=1)
    with pytest.raises(JobFailed) as caught:
        sent.get(timeout=30)
    assert caught.value.document["attempt"] == 2
    names = house.names_of(sent.id)
    assert names.count("retried") == 1
    assert names.count("failed") == 1
    assert any(call["op"] == "retry" for call in house.emulator.calls())


def test_the_policy_reaches_runpod(house: House) -> None:
    """executionTimeout, ttl and lowPriority are sent in RunPod's own names."""
    policy = {"executionTimeout": 60_000, "ttl": 120_000, "lowPriority": True}
    sent = house.send({"a": 1}, policy=policy, result="document")
    assert sent.get(timeout=15)["policy"] == policy


def test_secrets_are_shown_nowhere(house: House) -> None:
    """I11: no key and no s3Config in log, event, result or record."""
    s3 = {
        "accessId": "AKIASECRET1",
        "accessSecret": "SECRET-VALUE-2",
        "bucketName": "b",
        "endpointUrl": "http://x/?sig=SECRET3",
    }
    sent = house.send({"a": 1}, s3Config=s3)
    sent.get(timeout=15)
    dump = repr([house.client.hgetall(key) for key in house.client.keys("bridge:_:[rd]:*")])
    dump += repr(house.events()) + repr(house.ask("status", id=sent.id))
    dump += "".join(path.read_text(errors="replace") for path in Path(house.directory).glob("*.log"))
    for secret in ("AKIASECRET1", "SECRET-VALUE-2", "SECRET3", API_KEY):
        assert secret not in dump, secret
