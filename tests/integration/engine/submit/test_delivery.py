"""When RunPod's answer to a submit is lost: what `delivery` decides, said in the record; and replies on Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.errors import JobLost, JobTimedOut
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker with a short grace, for each test its own: faults are counted."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("delivery"), broker=url, redis_url=url, unanswered_grace_s="1") as made:
        made.worker()
        yield made


@pytest.mark.parametrize("fault", ["lost_reply", "502_after"])
def test_at_least_once_submits_again_and_says_so(house: House, fault: str) -> None:
    """Accepted, but nobody heard: after the grace a second job, marked; the result comes once."""
    house.emulator.fault(fault, op="run", times=1)
    told = house.send({"mock_delay": 0.2}, result="document").get(timeout=30)
    assert told["possible_duplicate"] is True
    assert len(house.emulator.jobs("demo")) == 2
    assert house.names_of(told["id"]).count("completed") == 1


def test_at_most_once_never_submits_again(house: House) -> None:
    """Without a webhook no evidence can come: LOST at once, and the document says that a job may run."""
    house.emulator.fault("lost_reply", op="run", times=1)
    sent = house.send({"mock_delay": 0.2}, delivery="at_most_once")
    with pytest.raises(JobLost) as caught:
        sent.get(timeout=20)
    assert caught.value.document["reason"] == "unanswered"
    assert caught.value.document["may_run"] is True
    assert len(house.emulator.jobs("demo")) == 1


@pytest.mark.parametrize("fault", ["502", "500", "429", "html", "reset"])
def test_a_refusal_before_acceptance_costs_no_request(house: House, fault: str) -> None:
    """Whatever RunPod's edge says, the request ends well; 429 uses no submit, the others one of the two."""
    house.emulator.fault(fault, op="run", times=3 if fault == "429" else 1)
    told = house.send({"a": 1}, result="document").get(timeout=40)
    assert told["output"] == {"a": 1}
    assert len(house.emulator.jobs("demo")) == 1
    if fault == "429":
        assert told["possible_duplicate"] is False


def test_account_trouble_rejects_nobody(house: House) -> None:
    """402 closes the endpoint's gate; requests wait, and go when the balance is back."""
    house.send({"warm": 1}).get(timeout=15)  # an endpoint that has answered before
    house.emulator.fault("out_of_credit", times=None)
    sent = [house.send({"n": n}) for n in range(50)]
    first = sent[0]
    eventually(
        lambda: isinstance(first.info, dict) and house.ask("status", id=first.id)["waiting_for"] == "out_of_credit"
    )
    house.emulator.clear_faults()
    assert [one.get(timeout=40)["n"] for one in sent] == list(range(50))


def test_a_typing_error_in_an_endpoint_is_told_at_once(house: House) -> None:
    """An endpoint that has never answered with success refuses; nobody waits for it."""
    sent = house.send({"a": 1}, endpoint="dmeo")
    with pytest.raises(Exception, match="dmeo"):
        sent.get(timeout=20)


def test_a_queue_timeout_counts_until_the_job_starts(house: House) -> None:
    """RunPod workers take nothing: the queue's clock ends the request, and the job is cancelled."""
    house.emulator.fault("paused", times=None)
    sent = house.send({"a": 1}, queue_timeout=1500)
    with pytest.raises(JobTimedOut) as caught:
        sent.get(timeout=30)
    assert caught.value.document["reason"] == "queue_timeout"


def test_a_reply_on_redis_is_written_with_the_end(house: House) -> None:
    """`reply_to: name` is the stream bridge:reply:name; the body is the event."""
    sent = house.send({"a": 1}, reply_to="billing", reply_on=["accepted", "end"])
    sent.get(timeout=20)
    entries: Any = house.client.xrange("bridge:reply:billing")
    told = [json.loads(entry["data"]) for _, entry in entries]
    assert [event["type"] for event in told] == ["bridge.job.accepted", "bridge.job.completed"]
    assert told[1]["data"]["output"] == {"a": 1}
    assert int(house.client.ttl("bridge:reply:billing")) > 0


def test_a_large_output_travels_as_a_reference_where_nobody_asked_for_it(house: House) -> None:
    """Whole in the Celery result, a reference with size and SHA-256 in the event."""
    blob = "x" * 300_000
    sent = house.send({"mock_return": {"blob": blob}})
    assert sent.get(timeout=20) == {"blob": blob}
    end = house.events(sent.id)[-1]["data"]
    assert "output" not in end
    assert end["output_ref"]["size"] > 300_000
