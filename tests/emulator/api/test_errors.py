"""Bad input gets RunPod's own errors, never a stack trace."""

from __future__ import annotations

import json
from typing import Any

import pytest


def problem(code: int, title: str, detail: str) -> dict[str, Any]:
    """Return RunPod's problem-style document."""
    return {"status": code, "title": title, "detail": detail}


@pytest.mark.parametrize("what", ["status", "status-sync", "stream", "cancel", "retry"])
def test_an_unknown_job_is_not_found(call: Any, what: str) -> None:
    """404 with the live words."""
    answer = call.post(f"{what}/nothing-u1")
    assert answer.status_code == 404
    assert answer.json() == problem(404, "Not Found", "job not found")


@pytest.mark.parametrize("what", ["run", "status/x", "purge-queue", "health"])
def test_an_unknown_endpoint_is_not_found(call: Any, what: str) -> None:
    """404 with the live words, whatever the operation."""
    answer = call.http.post(f"{call.emulator.base_url}/nope/{what}", json={"input": {"x": 1}})
    assert answer.status_code == 404
    assert answer.json() == problem(404, "Not Found", "endpoint not found")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "JSON"),
        (b"not json", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b'{"input": [1]}', "input"),
        (b'{"input": "text"}', "input"),
        (b'{"input": 5}', "input"),
        (b'{"input": {"x": 1}, "webhook": 5}', "webhook"),
        (b'{"input": {"x": 1}, "policy": []}', "policy"),
        (b'{"input": {"x": 1}, "policy": {"ttl": "1"}}', "policy.ttl"),
        (b'{"input": {"x": 1}, "policy": {"executionTimeout": true}}', "policy.executionTimeout"),
        (b'{"input": {"x": 1}, "policy": {"lowPriority": 1}}', "policy.lowPriority"),
        (b'{"input": {"x": 1}, "s3Config": "x"}', "s3Config"),
    ],
)
@pytest.mark.parametrize("op", ["run", "runsync"])
def test_a_bad_body_is_400_and_names_the_field(call: Any, op: str, body: bytes, names: str) -> None:
    """The detail begins as RunPod's does and says which field is wrong."""
    answer = call.post(op, content=body)
    assert answer.status_code == 400
    assert answer.json()["title"] == "Bad Request"
    assert answer.json()["detail"].startswith("bad request: body: ")
    assert names in answer.json()["detail"]
    assert call.emulator.jobs("demo") == []


@pytest.mark.parametrize(("op", "mib"), [("run", 10), ("runsync", 20)])
def test_a_body_over_the_limit_is_400_in_the_live_words(call: Any, op: str, mib: int) -> None:
    """10 MiB for /run, 20 MiB for /runsync, 400 and not 413; a body of exactly the limit is accepted."""
    frame = len(json.dumps({"input": {"x": ""}}, separators=(",", ":")))
    fits = b'{"input":{"x":"%s"}}' % (b"x" * (mib * 1024 * 1024 - frame))
    assert len(fits) == mib * 1024 * 1024
    assert call.post(op, content=fits).status_code == 200
    answer = call.post(op, content=fits + b" ")
    assert answer.json() == problem(400, "Bad Request", f"bad request: body: exceeded max body size of {mib}MiB")


def test_a_query_that_is_no_number_is_400(call: Any) -> None:
    """`wait` and `ttl` are numbers of milliseconds."""
    job = call.run()
    assert call.get(f"status/{job}", params={"ttl": "soon"}).status_code == 400
    assert call.get(f"stream/{job}", params={"wait": "long"}).status_code == 400


def test_a_wrong_method_is_405(call: Any) -> None:
    """GET /run and POST /health are no operations."""
    assert call.get("run").status_code == 405
    assert call.post("health").status_code == 405


def test_an_unknown_operation_is_404(call: Any) -> None:
    """Below /v2 and elsewhere."""
    assert call.get("nothing").status_code == 404
    assert call.http.get(f"{call.emulator.origin}/elsewhere").status_code == 404


def test_a_policy_below_its_minimum_follows_the_setting(calling: Any) -> None:
    """What RunPod does is not told, so it is a setting: clamp or reject."""
    policy = {"ttl": 1, "executionTimeout": 1}
    assert calling(below_minimum="reject").post("run", json={"input": {"x": 1}, "policy": policy}).status_code == 400
    call = calling(below_minimum="clamp")
    job = call.run({"mock_delay": 600}, policy=policy)
    call.emulator.advance(7)
    assert call.status(job)["status"] == "IN_PROGRESS"
