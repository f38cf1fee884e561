"""Requests of `lane: "batch"` on a real worker, through the emulator's Batch API."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from bridge.emulator import Emulator, EndpointConfig
from bridge.ledger.stores.batches import Batch
from bridge.runpod import batches
from bridge.runpod.client import RunPodClient
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RedisServer

#: Seconds that a draft waits for more: short, so that the tests are.
GATHER: dict[str, Any] = {"batch_gather_s": "0.3", "unanswered_grace_s": "1"}
#: An endpoint for each test that shares the worker.
ENDPOINTS = {
    "order": EndpointConfig(batch_order="id", batch_page=3, batch_page_most=3),
    "one": EndpointConfig(workers_max=1, jobs_per_worker=1),
    "none": EndpointConfig(batch=False),
    "idle": EndpointConfig(workers_max=0),
    "full": EndpointConfig(batches_active=0),
    **{name: EndpointConfig() for name in ("finalize", "append", "tainted", "single", "fails", "words")},
}


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all who do not kill it."""
    url = redis_server.start().fresh_url()
    with (
        Emulator(ENDPOINTS, api_keys=[API_KEY]) as emulator,
        House(tmp_path_factory.mktemp("lane"), broker=url, redis_url=url, emulator=emulator, **GATHER) as made,
    ):
        made.worker()
        yield made


@pytest.fixture
def own_house(tmp_path: Path, redis_url: str) -> Iterator[House]:
    """One whose worker the test starts, and ends."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **GATHER) as made:
        yield made


def send(house: House, name: str, endpoint: str = "demo", **given: Any) -> Any:
    """A request of the lane."""
    arguments = {name: given.pop(name) for name in ("timeout", "delivery", "retries", "sync") if name in given}
    return house.send({"name": name, **given}, lane="batch", endpoint=endpoint, task_id=name, **arguments)


def calls(house: House, op: str, endpoint: str = "demo") -> list[dict[str, Any]]:
    """Calls of one operation that the emulator has answered with success."""
    return [call for call in house.emulator.calls(endpoint) if call["op"] == op and call["code"] == 200]


def runs(house: House, endpoint: str = "demo") -> dict[str, int]:
    """How often each request's job was run, by its input's name."""
    found: dict[str, int] = {}
    for job in house.emulator.jobs(endpoint):
        found[job["input"]["name"]] = found.get(job["input"]["name"], 0) + job["runs"]
    return found


def test_requests_of_the_lane_are_submitted_in_one_batch_and_each_gets_its_own_result(house: House) -> None:
    """The order in which RunPod lists them is nobody's promise: here it is by random ids."""
    names = [f"one-{number}" for number in range(8)]
    sent = [send(house, name, "order", mock_return={"is": name}) for name in names]
    failing = send(house, "bad", "order", mock_error="no such picture")
    assert [each.get(timeout=60) for each in sent] == [{"is": name} for name in names]
    with pytest.raises(Exception, match="no such picture"):
        failing.get(timeout=30)
    assert house.submits() == 0
    assert len(calls(house, "batch-finalize", "order")) <= 2
    assert runs(house, "order") == dict.fromkeys([*names, "bad"], 1)
    assert house.names_of(names[0]) == ["accepted", "submitted", "queued", "started", "completed"]
    told = house.ask("status", id=names[0])
    assert (told["lane"], told["batch_id"][:6], told["job_id"][:4]) == ("batch", "batch_", "req_")
    assert told["executionTime"] >= 0
    eventually(lambda: house.ledger.batches.due(10) == ([], -1), timeout=30)


def test_a_lost_answer_to_finalize_is_looked_up_and_nothing_is_run_twice(house: House) -> None:
    """Neither where RunPod has done it, nor where it never heard it; also with at_most_once nothing is given up."""
    house.emulator.fault("502_after", op="batch-finalize", endpoint="finalize")
    done = send(house, "done", "finalize")
    assert done.get(timeout=60)["name"] == "done"
    house.emulator.fault("502", op="batch-finalize", endpoint="finalize")
    never = send(house, "never", "finalize", delivery="at_most_once")
    assert never.get(timeout=60)["name"] == "never"
    assert runs(house, "finalize") == {"done": 1, "never": 1}
    assert not house.ask("status", id="done")["possible_duplicate"]


def test_a_lost_answer_to_an_append_or_to_create_leaves_no_job_that_is_nobodys(house: House) -> None:
    """The draft is read, and tells whether the request is in it."""
    house.emulator.fault("502_after", op="batch-create", endpoint="append")
    house.emulator.fault("lost_reply", op="batch-add", endpoint="append")
    house.emulator.fault("502_after", op="batch-add", endpoint="append")
    sent = [send(house, f"a{number}", "append") for number in range(3)]
    assert [each.get(timeout=90)["name"] for each in sent] == ["a0", "a1", "a2"]
    assert runs(house, "append") == {"a0": 1, "a1": 1, "a2": 1}


@pytest.mark.slow
def test_a_draft_whose_last_request_cannot_be_told_apart_is_thrown_away_whole(house: House) -> None:
    """The list cannot be read after an append: what is in the draft is never run, and the next one has them all."""
    house.emulator.fault("500", op="batch-requests", endpoint="tainted", times=2)
    sent = [send(house, f"t{number}", "tainted") for number in range(3)]
    assert sorted(each.get(timeout=120)["name"] for each in sent) == ["t0", "t1", "t2"]
    assert runs(house, "tainted") == {"t0": 1, "t1": 1, "t2": 1}
    statuses = [batch["status"] for batch in house.emulator.batches("tainted")]
    eventually(lambda: "DRAFT" not in [one["status"] for one in house.emulator.batches("tainted")], timeout=30)
    assert len(statuses) >= 2


@pytest.mark.slow
def test_a_draft_that_was_ended_meanwhile_refuses_nobody(tmp_path: Path, redis_url: str) -> None:
    """By another process, while this one stood still (a suspended machine): all go into another draft."""
    more = {**GATHER, "batch_gather_s": "5"}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **more) as house:
        house.worker()
        sent = [send(house, "e0")]
        eventually(lambda: calls(house, "batch-add"), timeout=30)
        client = RunPodClient(house.emulator.base_url, lambda: API_KEY)
        batches.cancel(client, "demo", house.emulator.batches("demo")[0]["id"])
        client.close()
        sent.append(send(house, "e1"))
        assert [each.get(timeout=60)["name"] for each in sent] == ["e0", "e1"]
        assert runs(house) == {"e0": 1, "e1": 1}


def test_a_worker_killed_between_any_two_calls_leaves_each_request_run_once(own_house: House) -> None:
    """Killed as it marks, as finalize is answered late, and as results are read."""
    house = own_house
    worker = house.worker()
    house.emulator.fault("hang", op="batch-finalize", seconds=8)
    sent = [send(house, f"k{number}") for number in range(3)]
    eventually(lambda: [house.phase(f"k{n}") for n in range(3)] == ["SUBMITTING"] * 3, timeout=30)
    eventually(lambda: house.emulator.batches("demo")[0]["status"] == "FINALIZED", timeout=10)
    first = house.emulator.batches("demo")[0]["id"]
    worker.kill(signal.SIGKILL)
    _leases_end(house, [f"k{n}" for n in range(3)])
    house.worker()
    assert [each.get(timeout=60)["name"] for each in sent] == ["k0", "k1", "k2"]
    assert runs(house) == {"k0": 1, "k1": 1, "k2": 1}
    assert {house.ask("status", id=f"k{n}")["batch_id"] for n in range(3)} == {first}


def test_a_draft_of_a_worker_that_died_is_cancelled_and_its_requests_go_into_another(own_house: House) -> None:
    """Nothing of a draft has run."""
    house = own_house
    worker = house.worker()
    house.emulator.fault("hang", op="batch-requests", seconds=20)
    sent = send(house, "d")
    eventually(lambda: calls(house, "batch-add"), timeout=30)
    left = house.emulator.batches("demo")[0]["id"]
    worker.kill(signal.SIGKILL)
    house.emulator.clear_faults()
    _leases_end(house, ["d"])
    house.worker()
    assert sent.get(timeout=60)["name"] == "d"
    eventually(lambda: _status(house, left) == "CANCELLED", timeout=30)
    assert runs(house) == {"d": 1}


def test_a_cancel_takes_a_request_out_of_a_draft_before_it_can_run(own_house: House) -> None:
    """It is CANCELLED at once; the others of the draft go on without it."""
    house = own_house
    house.worker(BRIDGE_BATCH_GATHER_S="4")
    kept, dropped = send(house, "kept"), send(house, "dropped")
    eventually(lambda: len(calls(house, "batch-add")) == 2, timeout=30)
    house.ask("cancel", id="dropped")
    with pytest.raises(TaskRevokedError):
        dropped.get(timeout=30)
    assert kept.get(timeout=60)["name"] == "kept"
    assert runs(house) == {"kept": 1}
    assert len(calls(house, "batch-remove")) == 1


@pytest.mark.slow
def test_when_all_of_a_batch_are_cancelled_the_batch_is(house: House) -> None:
    """Who was queued never runs; RunPod's own word ends them."""
    sent = [send(house, f"c{number}", "one", mock_delay=6) for number in range(3)]
    eventually(lambda: [house.phase(f"c{n}") for n in range(3)] == ["TRACKED"] * 3, timeout=30)
    for number in range(3):
        house.ask("cancel", id=f"c{number}")
    eventually(lambda: all(house.phase(f"c{n}") in {"SETTLED", "CLOSED"} for n in range(3)), timeout=60)
    assert 1 <= len(calls(house, "batch-cancel", "one")) <= 3  # none of them does harm
    assert len(runs(house, "one")) == 3
    assert sum(runs(house, "one").values()) <= 1
    ended = [house.ask("status", id=f"c{n}") for n in range(3)]
    assert sum(one["status"] == "CANCELLED" and not one.get("may_run") for one in ended) >= 2
    for each in sent:
        each.forget()


@pytest.mark.slow
def test_a_cancel_of_one_ends_it_here_and_says_that_its_job_may_run(house: House) -> None:
    """RunPod cancels whole batches only; the others are not cancelled for it."""
    slow, other = send(house, "slow", "single", mock_delay=20), send(house, "other", "single", mock_delay=7)
    eventually(lambda: house.phase("slow") == house.phase("other") == "TRACKED", timeout=30)
    house.ask("cancel", id="slow")
    with pytest.raises(TaskRevokedError):
        slow.get(timeout=30)
    assert house.ask("status", id="slow")["may_run"] is True
    assert other.get(timeout=60)["name"] == "other"
    assert calls(house, "batch-cancel", "single") == []


def test_a_timeout_reaches_a_request_of_the_lane(house: House) -> None:
    """It ends TIMED_OUT; alone in its batch, the batch is cancelled."""
    sent = send(house, "late", "idle", timeout=4_000)
    with pytest.raises(Exception, match="timeout"):
        sent.get(timeout=30)
    assert house.ask("status", id="late")["status"] == "TIMED_OUT"
    eventually(lambda: len(calls(house, "batch-cancel", "idle")) >= 1, timeout=30)


def test_an_endpoint_without_the_batch_api_refuses_the_lane_in_words(house: House) -> None:
    """And takes what comes without it."""
    sent = send(house, "none", "none")
    with pytest.raises(Exception, match="has no Batch API"):
        sent.get(timeout=60)
    told = house.ask("status", id="none")
    assert (told["status"], told["field"]) == ("REJECTED", "lane")
    assert house.send({"x": 1}, endpoint="none").get(timeout=30) == {"x": 1}


def test_a_batch_that_fails_itself_ends_what_it_did_not_run(house: House) -> None:
    """What had completed stays completed."""
    quick, cut = send(house, "quick", "fails"), send(house, "cut", "fails", mock_delay=600)
    assert quick.get(timeout=60)["name"] == "quick"
    house.emulator.fault("batch_failed", batch_id=house.ask("status", id="cut")["batch_id"])
    with pytest.raises(Exception, match="not run to its end"):
        cut.get(timeout=60)


def test_full_endpoints_and_refusals_make_the_lane_wait(house: House) -> None:
    """More active batches than RunPod takes (others have them), then a 429: nothing is lost, nothing refused."""
    sent = send(house, "waits", "full")
    eventually(lambda: [c for c in house.emulator.calls("full") if c["op"] == "batch-create"], timeout=30)
    time.sleep(1)
    assert house.phase("waits") == "ACCEPTED"
    assert why(house, "waits").endswith("takes none now")
    batches = house.ledger.batches
    known = [Batch(f"batch_{n}", "full", "full", house.emulator.base_url) for n in range(10)]
    for batch in known:
        batches.watch(batch, in_ms=600_000)
    assert why(house, "waits").startswith("10 batches of full are under way")
    for batch in known:
        batches.looked(batch, again_ms=None)
    house.ask("cancel", id="waits")
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=30)


def test_the_lane_says_what_it_cannot_do(house: House) -> None:
    """No sync, no retries, no streams: RunPod's Batch API has none."""
    failed = send(house, "failed", "words", mock_error="no")
    with pytest.raises(Exception, match="no"):
        failed.get(timeout=30)
    with pytest.raises(Exception, match="has no retry"):
        house.ask("retry", id="failed")
    with pytest.raises(Exception, match="has no streams"):
        house.ask("stream", id="failed")
    for name, value in (("sync", True), ("retries", 1)):
        with pytest.raises(Exception, match=f"{name}: not with lane batch"):
            send(house, f"no-{name}", "words", **{name: value}).get(timeout=30)


def why(house: House, name: str) -> str:
    """What a request of the lane waits for, in words."""
    told = house.ask("status", id=name)
    assert told["waiting_for"] == "batch"
    return str(told["waiting_says"])


def _status(house: House, batch_id: str) -> str:
    return next(str(one["status"]) for one in house.emulator.batches("demo") if one["id"] == batch_id)


def _leases_end(house: House, names: list[str]) -> None:
    """Ten minutes later, for these: their leases have ended, and their batches are looked at."""
    ledger = house.ledger
    now = ledger.now()
    for name in names:
        ledger.client.hset(ledger.names.row(name), mapping={"le": now - 1, "tm": now - 1})
        ledger.client.zadd(ledger.names.key("timer"), {name: now - 1})
    members: Any = ledger.client.zrange(ledger.names.key("batches"), 0, -1)
    for member in members:
        ledger.client.zadd(ledger.names.key("batches"), {member: now - 1})
