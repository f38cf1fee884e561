"""Answers that clients and browsers depend on, beyond the operations' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bridge.emulator import Emulator
from bridge.emulator.api.openai import answer_of, utf8
from bridge.emulator.http.answers import document
from bridge.emulator.model.endpoint import pieces
from bridge.emulator.model.job import ABSENT, COMPLETED, FAILED, Job
from tests.emulator.conftest import Caller

WEEK_MS = 7 * 86_400_000


def test_an_unknown_operation_is_404_whoever_runs_the_jobs(call: Caller) -> None:
    """Also where real handlers run, which have routes of their own."""
    assert call.get("nonsense").status_code == 404
    with Emulator(["demo"], handlers={"demo": __file__}) as emulator, Caller(emulator) as handled:
        assert handled.get("nonsense").status_code == 404
        assert handled.post("nonsense/x", json={}).status_code == 404
        assert handled.get("job-take/x").status_code == 401


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_neither_comes_in_nor_goes_out(call: Caller, word: str) -> None:
    """Python writes and reads these; RunPod's server and every other client do not."""
    body = f'{{"input": {{"x": {word}}}}}'.encode()
    assert call.post("run", content=body).status_code == 400
    assert json.loads(document({"a": [float(word), 1.5]}).body) == {"a": [None, 1.5]}


def test_a_number_too_large_for_a_float_goes_out_as_json(call: Caller) -> None:
    """`1e999` is JSON, and an infinity once it is read."""
    answer = call.post("runsync", content=b'{"input": {"mock_return": [1e999]}}')
    assert "Infinity" not in answer.text
    assert answer.json()["output"] == [None]


def test_half_a_surrogate_pair_goes_out_as_it_came(call: Caller) -> None:
    """JSON can say it and UTF-8 cannot: the escape stays, in names too; a relayed text has U+FFFD."""
    text = r'{"x\ud800": "\udc00", "ö": "𝄞"}'
    body = f'{{"input": {text}, "webhook": "http://127.0.0.1:9/"}}'.encode()
    answer = call.post("runsync", content=body)
    assert answer.json()["output"] == json.loads(text)
    assert call.status(answer.json()["id"])["output"] == json.loads(text)
    assert utf8("a\ud800ö𝄞") == "a\ufffdö𝄞".encode(), "text of a stream, as a relay has it"


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_an_offer_of_another_protocol_is_passed_over_and_the_body_kept(call: Caller, offer: str) -> None:
    """Java's HTTP client makes one with each request over http://, `curl --http2` too."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAEAAEAAAAIAAAAB", "UPGRADE": offer}
    for body in ({"input": {"n": 1}}, {"input": {"n": "\r\n\r\nUpgrade: h2c\r\n" * 9000}}):
        answer = call.post("runsync", json=body, headers=headers)
        assert (answer.status_code, answer.json().get("output")) == (200, body["input"]), answer.text


@pytest.mark.parametrize("name", ["ttl", "executionTimeout"])
def test_a_policy_over_seven_days_is_refused(calling: Callable[..., Caller], name: str) -> None:
    """As documented; a setting lets it through, as the platform's code was reported to."""
    call = calling()
    assert call.post("run", json={"input": {"x": 1}, "policy": {name: WEEK_MS}}).is_success
    refused = call.post("run", json={"input": {"x": 1}, "policy": {name: WEEK_MS + 1}})
    assert refused.status_code == 400
    assert name in refused.json()["detail"]
    lenient = calling(above_maximum="accept")
    assert lenient.post("run", json={"input": {"x": 1}, "policy": {name: WEEK_MS + 1}}).is_success


def test_a_text_over_a_megabyte_is_streamed_in_several_chunks(call: Caller) -> None:
    """None over the limit in bytes, no letter cut, nothing lost."""
    text = "é" * 1_200_000
    job = call.run({"mock_stream": [text]})
    chunks = [one["output"] for one in call.stream(job)["stream"]]
    assert len(chunks) == 3
    assert max(len(one.encode()) for one in chunks) <= 1_000_000
    assert "".join(chunks) == text


def test_pieces_leave_what_is_small_or_no_text_whole() -> None:
    """An object cannot be cut."""
    assert pieces("abc", 2) == ["ab", "c"]
    assert pieces("", 2) == [""]
    assert pieces({"a": "x" * 100}, 2) == [{"a": "x" * 100}]


MISSING = {"message": "no such model", "type": "NotFoundError", "code": 404}


@pytest.mark.parametrize(
    ("output", "error", "code", "told"),
    [
        ({"error": MISSING}, None, 404, {"error": MISSING}),
        ([{"object": "error", **MISSING}], None, 404, {"object": "error", **MISSING}),
        (ABSENT, json.dumps(MISSING), 404, {"error": MISSING}),
        (ABSENT, json.dumps({"message": "odd", "code": "x"}), 500, {"error": {"message": "odd", "code": "x"}}),
        ({"object": "list", "data": []}, None, 200, {"object": "list", "data": []}),
    ],
)
def test_openai_errors_keep_their_shape_and_code(output: Any, error: str | None, code: int, told: Any) -> None:
    """OpenAI's clients raise by the code, and read `error.message`."""
    job = Job("x", {}, 0.0, sync=True)
    job.status, job.output, job.error = (COMPLETED if error is None else FAILED), output, error
    answer = answer_of(job)
    assert (answer.code, json.loads(answer.body)) == (code, told)


def test_a_page_on_loopback_may_call_the_api(call: Caller) -> None:
    """The preflight is answered without a key, and answers may be read."""
    page = {"Origin": "http://localhost:3000", "Access-Control-Request-Headers": "authorization,content-type"}
    asked = call.http.options("run", headers={**page, "Authorization": ""})
    assert asked.status_code == 204
    assert "authorization" in asked.headers["access-control-allow-headers"]
    answer = call.post("run", json={"input": {"x": 1}}, headers={"Origin": "http://localhost:3000"})
    assert answer.headers["access-control-allow-origin"] == "*"
    stranger = call.http.options("run", headers={"Origin": "http://evil.example"})
    assert stranger.status_code == 403
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": {}}])
@pytest.mark.parametrize("what", ["run", "runsync"])
def test_an_input_is_required(calling: Callable[..., Caller], what: str, body: dict[str, Any]) -> None:
    """400 by the documentation; a setting lets it in, as was seen live."""
    refused = calling().post(what, json=body)
    assert refused.status_code == 400
    assert "input" in refused.json()["detail"]
    assert calling(empty_input="accept").post("run", json=body).is_success


def test_a_sync_result_is_kept_for_the_wait_that_was_asked(calling: Callable[..., Caller]) -> None:
    """At least the minute, at most what the caller was ready to wait."""
    call = calling()
    short, long = call.runsync({"x": 1}, wait=1000)["id"], call.runsync({"x": 1}, wait=300_000)["id"]
    call.emulator.advance(100)
    assert call.get(f"status/{short}").status_code == 404
    assert call.status(long)["status"] == "COMPLETED"
    call.emulator.advance(201)
    assert call.get(f"status/{long}").status_code == 404
