"""Faults on demand: what the client sees, and whether the job exists afterwards."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.support.helpers import eventually


def submit(call: Any) -> httpx.Response:
    """POST /run, unchecked."""
    answer: httpx.Response = call.post("run", json={"input": {"x": 1}})
    return answer


@pytest.mark.parametrize(
    ("kind", "code", "body"),
    [
        ("429", 429, ""),
        ("500", 500, "worker may have crashed"),
        ("502", 502, "<html>"),
        ("html", 200, "<html>"),
        ("out_of_credit", 402, '{"status":402,"title":"Insufficient Balance","detail":"insufficient balance"}'),
        ("unauthorised", 401, ""),
        ("forbidden", 403, "forbidden"),
        ("endpoint_gone", 404, '{"status":404,"title":"Not Found","detail":"endpoint not found"}'),
    ],
)
def test_a_fault_before_accepting_makes_no_job_and_passes(call: Any, kind: str, code: int, body: str) -> None:
    """One call is hit, the next one is not."""
    call.emulator.fault(kind, op="run")
    answer = submit(call)
    assert answer.status_code == code
    assert body in answer.text
    assert call.emulator.jobs("demo") == []
    assert submit(call).json()["status"] == "IN_QUEUE"
    assert len(call.emulator.jobs("demo")) == 1


def test_a_429_may_carry_retry_after(call: Any) -> None:
    """With and without, as asked."""
    call.emulator.fault("429", retry_after=3)
    assert submit(call).headers["retry-after"] == "3"
    call.emulator.fault("429")
    assert "retry-after" not in submit(call).headers


@pytest.mark.parametrize("kind", ["502_after", "lost_reply"])
def test_a_fault_after_accepting_leaves_one_job(call: Any, kind: str) -> None:
    """The caller does not know, but the job exists and runs."""
    call.emulator.fault(kind, op="run")
    if kind == "502_after":
        assert submit(call).status_code == 502
    else:
        with pytest.raises(httpx.TransportError):
            submit(call)
    jobs = eventually(lambda: call.emulator.jobs("demo"))
    assert len(jobs) == 1
    code = 502 if kind == "502_after" else 0
    made = [c for c in call.emulator.calls("demo") if c["op"] == "run"]
    assert [(c["code"], c["job_id"]) for c in made] == [(code, jobs[0]["id"])]


def test_a_reset_makes_no_job(call: Any) -> None:
    """The connection is gone, and nothing was accepted."""
    call.emulator.fault("reset", op="run")
    with pytest.raises(httpx.TransportError):
        submit(call)
    assert call.emulator.jobs("demo") == []
    assert submit(call).status_code == 200


def test_hang_holds_the_answer_of_an_accepted_call(call: Any) -> None:
    """A client that gives up meanwhile leaves a job behind."""
    call.emulator.fault("hang", op="run", seconds=30)
    with pytest.raises(httpx.ReadTimeout):
        call.post("run", json={"input": {"x": 1}}, timeout=0.3)
    eventually(lambda: len(call.emulator.jobs("demo")) == 1)
    call.emulator.fault("hang", op="run", seconds=0.3)
    began = time.monotonic()
    assert submit(call).json()["status"] == "IN_QUEUE"
    assert time.monotonic() - began >= 0.3


def test_hang_before_holds_a_call_that_is_not_yet_carried_out(call: Any) -> None:
    """`before` tells the difference."""
    call.emulator.fault("hang", op="run", seconds=30, before=True)
    with pytest.raises(httpx.ReadTimeout):
        call.post("run", json={"input": {"x": 1}}, timeout=0.3)
    assert call.emulator.jobs("demo") == []


def test_slow_dribbles_the_whole_answer(call: Any) -> None:
    """Late, and complete."""
    call.emulator.fault("slow", op="health", seconds=0.5, pieces=5)
    began = time.monotonic()
    assert set(call.health()) == {"jobs", "workers"}
    assert time.monotonic() - began > 0.4


def test_vanish_forgets_a_running_job(call: Any) -> None:
    """11 minutes of IN_PROGRESS, then "job not found": by name at once, or on the next call about one."""
    job, other = call.run({"mock_delay": 600}), call.run({"mock_delay": 600})
    call.emulator.fault("vanish", job_id=job)
    assert call.get(f"status/{job}").status_code == 404
    call.emulator.fault("vanish", op="status")
    assert call.get(f"status/{other}").status_code == 404
    assert call.health()["jobs"]["inProgress"] == 0


def test_a_fault_is_for_its_operation_endpoint_and_number_of_calls(call: Any) -> None:
    """Nothing else is hit."""
    call.emulator.fault("500", op="status", times=2)
    assert submit(call).status_code == 200
    assert [call.get("status/x").status_code for _ in range(3)] == [500, 500, 404]
    call.emulator.fault("500", endpoint="demo", times=None)
    assert {call.get("health").status_code for _ in range(5)} == {500}
    call.emulator.clear_faults()
    assert call.get("health").status_code == 200


def test_a_probability_hits_about_so_many_calls_until_cleared(calling: Any) -> None:
    """300 calls at one half: between 100 and 200 are hit."""
    call = calling(enforced=False)
    call.emulator.fault("500", op="health", probability=0.5)
    codes = [call.get("health").status_code for _ in range(300)]
    assert 100 < codes.count(500) < 200
    call.emulator.clear_faults()
    assert call.get("health").status_code == 200


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"kind": "nonsense"}, "nonsense"),
        ({"kind": ["500"]}, "500"),
        ({"kind": "500", "times": 0}, "times"),
        ({"kind": "500", "times": 1.5}, "times must be a whole number"),
        ({"kind": "500", "times": "2"}, "times must be a whole number"),
        ({"kind": "500", "probability": "1"}, "probability must lie"),
        ({"kind": "500", "probability": 2}, "probability"),
        ({"kind": "500", "endpoint": "nope"}, "nope"),
        ({"kind": "500", "seconds": 3}, "seconds"),
        ({"kind": "hang", "seconds": -1}, "seconds"),
        ({"kind": "500", "op": "nope"}, "nope"),
        ({"kind": "webhook_lost", "op": "run"}, "webhooks"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_by_name(call: Any, given: dict[str, Any], names: str) -> None:
    """In process a ValueError, over HTTP a 400."""
    with pytest.raises(ValueError, match=names):
        call.emulator.fault(**given)
    with pytest.raises(ValueError, match="retry_after"):
        call.emulator.fault("429", retry_after=float("inf"))
    answer = httpx.post(f"{call.emulator.origin}/_emulator/fault", json=given)
    assert answer.status_code == 400
    assert names in answer.json()["detail"]


def test_the_admin_api_over_http_does_what_the_methods_do(call: Any) -> None:
    """Faults, clock, jobs, calls, counts."""
    admin = f"{call.emulator.origin}/_emulator"
    job = call.run({"mock_delay": 100})
    httpx.post(f"{admin}/fault", json={"kind": "500", "op": "health"}).raise_for_status()
    assert [fault["kind"] for fault in httpx.get(f"{admin}/faults").json()] == ["500"]
    assert call.get("health").status_code == 500
    assert httpx.delete(f"{admin}/faults").json() == []
    before = httpx.get(f"{admin}/clock").json()["now"]
    assert httpx.post(f"{admin}/advance", json={"seconds": 101}).json()["now"] >= before + 101
    assert call.status(job)["status"] == "COMPLETED"
    assert httpx.get(f"{admin}/jobs", params={"endpoint": "demo"}).json() == call.emulator.jobs("demo")
    assert httpx.get(f"{admin}/calls").json() == call.emulator.calls()
    assert httpx.get(f"{admin}/counts").json() == call.emulator.counts()
    for bad in ({"seconds": "x"}, {"seconds": -1}, {"seconds": 1e18}, {}):
        assert httpx.post(f"{admin}/advance", json=bad).status_code == 400
    assert httpx.post(f"{admin}/fault", json={}).json()["detail"] == "bad request: missing a required argument: 'kind'"
    assert httpx.get(f"{admin}/jobs").status_code == 400
    assert httpx.get(f"{admin}/nothing").status_code == 404
