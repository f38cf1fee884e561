"""What the client makes of answers and ids, without a network."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from bridge.errors import (
    ApiError,
    EndpointUnknown,
    Forbidden,
    JobUnknown,
    OutOfCredit,
    Refused,
    Throttled,
    Unanswered,
    Unauthorised,
)
from bridge.runpod.answer_errors import LONGEST_PAUSE_S
from bridge.runpod.answers import ABSENT
from bridge.runpod.client import RunPodClient
from bridge.runpod.http.exchange import Answer
from bridge.telemetry import subscribe

KEY = "rpa_0123456789"


class Told(RunPodClient):
    """The real client over an answer that is already there; keeps what it would have sent."""

    def __init__(self, body: bytes, code: int = 200, **headers: str) -> None:
        """`headers` in lower case, with _ for -."""
        super().__init__("https://api.runpod.ai/v2/", lambda: KEY)
        self.body, self.code = body, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.sent: list[tuple[str, bytes | None, dict[str, str], float]] = []

    def _send(
        self, _op: object, url: str, body: bytes | None, headers: dict[str, str], read_s: float, *, remove: bool = False
    ) -> Answer:
        assert not remove
        self.sent.append((url, body, headers, read_s))
        return Answer(self.code, self.headers, self.body)


@pytest.mark.parametrize("bad", ["", "a/b", "a.b", "a?x", "a%2f", "..", "a b", "é", "x" * 65, "ep\n"])
def test_an_endpoint_id_that_does_not_fit_a_url_is_refused_by_its_rule(bad: str) -> None:
    """Nothing is sent, and the message names the rule."""
    client = Told(b"{}")
    with pytest.raises(ValueError, match=r"endpoint id .* must match"):
        client.run(bad, b"{}")
    assert client.sent == []


@pytest.mark.parametrize("bad", ["", "a/b", "..", "a?x", "a#b", "j\n", "j 1"])
def test_a_job_id_that_does_not_fit_a_url_is_refused_by_its_rule(bad: str) -> None:
    """An empty one too: /status/ would be another resource."""
    client = Told(b"{}")
    for call in (client.status, client.cancel, client.retry, client.stream):
        with pytest.raises(ValueError, match=r"job id .* must match"):
            call("ep", bad)
    assert client.sent == []


def test_every_operation_has_its_documented_url_method_and_time() -> None:
    """Fact sheet 1.1 to 1.9; a held call may take its wait and a margin."""
    client = Told(b'{"id":"j","status":"IN_QUEUE"}')
    client.run("ep", b"B")
    client.runsync("ep", b"B", 30_000)
    client.status("ep", "j")
    client.status_sync("ep", "j", 5_000)
    client.stream("ep", "j")
    client.stream("ep", "j", 1_000)
    client.cancel("ep", "j")
    client.retry("ep", "j")
    client.purge_queue("ep")
    client.health("ep")
    base = "https://api.runpod.ai/v2/ep/"
    assert [(url.removeprefix(base), body, read) for url, body, _, read in client.sent] == [
        ("run", b"B", 20.0),
        ("runsync?wait=30000", b"B", 40.0),
        ("status/j", None, 20.0),
        ("status-sync/j?wait=5000", None, 20.0),
        ("stream/j", None, 20.0),
        ("stream/j?wait=1000", None, 20.0),
        ("cancel/j", b"{}", 20.0),
        ("retry/j", b"{}", 20.0),
        ("purge-queue", b"{}", 20.0),
        ("health", None, 20.0),
    ]
    assert {headers["Authorization"] for _, _, headers, _ in client.sent} == {f"Bearer {KEY}"}


def test_a_captured_end_is_read_whole() -> None:
    """Fact sheet 1.3, a live answer."""
    seen = Told(
        b'{"delayTime":101050,"error":"job timed out after 1 retries","executionTime":42078,"id":"b-u1",'
        b'"retries":1,"status":"FAILED","workerId":"z3jr"}'
    ).status("ep", "b-u1")
    assert (seen.job_id, seen.status, seen.delay_time, seen.execution_time) == ("b-u1", "FAILED", 101050, 42078)
    assert (seen.worker_id, seen.retries, seen.error) == ("z3jr", 1, "job timed out after 1 retries")
    assert seen.output is ABSENT


def test_no_output_is_not_a_null_output() -> None:
    """COMPLETED without output is told apart from `output: null`."""
    assert Told(b'{"id":"j","status":"COMPLETED","output":null}').status("ep", "j").output is None
    assert Told(b'{"id":"j","status":"COMPLETED"}').status("ep", "j").output is ABSENT


def test_an_unknown_status_word_is_kept() -> None:
    """RunPod may learn new words."""
    assert Told(b'{"id":"j","status":"PAUSED_BY_MOON"}').status("ep", "j").status == "PAUSED_BY_MOON"


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b'"12"', b"true", b"null", b"{}", b"1e400"])
def test_a_time_that_is_no_number_is_unknown_and_poisons_nothing(value: bytes) -> None:
    """One odd field must not make a job unreadable for ever."""
    seen = Told(b'{"id":"j","status":"COMPLETED","executionTime":' + value + b"}").status("ep", "j")
    assert seen.execution_time is None
    assert Told(b'{"jobs":{"completed":' + value + b'},"workers":7}').health("ep").jobs == {"completed": 0}
    assert Told(b'{"removed":' + value + b"}").purge_queue("ep").removed == 0


def test_an_error_that_is_no_text_is_kept_as_json() -> None:
    """RunPod passes on what a handler raised."""
    assert Told(b'{"id":"j","status":"FAILED","error":{"a":1}}').status("ep", "j").error == '{"a": 1}'


def test_a_page_keeps_every_chunk_whatever_its_form() -> None:
    """What a page holds is gone at RunPod; dropping an odd chunk would lose it."""
    page = Told(b'{"status":"IN_PROGRESS","stream":[{"output":1,"metrics":{"n":2}},{"output":null},"bare",{"x":1}]}')
    told = page.stream("ep", "j")
    assert told.status == "IN_PROGRESS"
    assert [chunk.output for chunk in told.chunks] == [1, None, "bare", {"x": 1}]
    assert told.chunks[0].metrics == {"n": 2}


def test_a_bare_array_is_a_page_too() -> None:
    """Today's docs show one, every SDK reads an object: neither may cost a chunk."""
    told = Told(b'[{"metrics":{},"output":"a"},{"output":"b"}]').stream("ep", "j")
    assert [chunk.output for chunk in told.chunks] == ["a", "b"]
    assert told.status == ""


@pytest.mark.parametrize("body", [b'{"status":null,"stream":5}', b'{"stream":null}', b"{}"])
def test_a_page_without_chunks_is_an_empty_page(body: bytes) -> None:
    """No TypeError from a malformed page."""
    told = Told(body).stream("ep", "j")
    assert (told.status, told.chunks, told.output) == ("", (), ABSENT)


def test_health_reads_jobs_and_workers() -> None:
    """Fact sheet 1.9."""
    told = Told(b'{"jobs":{"inQueue":3},"workers":{"idle":1,"running":2}}').health("ep")
    assert (told.jobs, told.workers) == ({"inQueue": 3}, {"idle": 1, "running": 2})


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, Refused), (401, Unauthorised), (402, OutOfCredit), (403, Forbidden), (405, Refused), (422, Refused),
     (408, Unanswered), (429, Throttled), (500, Unanswered), (502, Unanswered), (504, Unanswered)],
)  # fmt: skip
def test_each_code_has_one_meaning(code: int, kind: type[ApiError]) -> None:
    """Whatever the body looks like."""
    for body in (b"", b"plain", b"<html>x</html>", b'{"detail":"d"}', b"[" * 100_000):
        with pytest.raises(ApiError) as caught:
            Told(body, code).run("ep", b"{}")
        assert type(caught.value) is kind
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"status":404,"title":"Not Found","detail":"job not found"}', JobUnknown),
        (b'{"detail":"endpoint not found"}', EndpointUnknown),
        (b'{"error":"Endpoint not found"}', EndpointUnknown),
        (b"", JobUnknown),
    ],
)
def test_a_404_is_of_the_job_unless_it_names_the_endpoint(body: bytes, kind: type[ApiError]) -> None:
    """HARDENING 2: else a wrong key would turn everything in flight into LOST."""
    with pytest.raises(ApiError) as caught:
        Told(body, 404).status("ep", "j")
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [b"", b"404 page not found", b'{"detail":"not found"}'])
def test_a_404_where_no_job_was_named_is_of_the_endpoint(body: bytes) -> None:
    """/run knows no job yet: nothing was done, so the submit is not in doubt."""
    client = Told(body, 404)
    for call in (lambda: client.run("ep", b"{}"), lambda: client.health("ep"), lambda: client.purge_queue("ep")):
        with pytest.raises(EndpointUnknown):
            call()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"status":402,"title":"Insufficient Balance","detail":"insufficient balance"}', "insufficient balance"),
        (b'{"title":"T","error":"E"}', "T"),
        (b'{"error":"E","message":"M"}', "E"),
        (b'{"message":"M"}', "M"),
        (b"plain text", "plain text"),
        (b"<html>secret</html>", "the balance is used up"),
        (b"", "the balance is used up"),
    ],
)
def test_the_sentence_of_an_error_is_found_in_every_form(body: bytes, said: str) -> None:
    """Fact sheet 5: detail, title, error, message, raw text."""
    with pytest.raises(OutOfCredit) as caught:
        Told(body, 402).run("ep", b"{}")
    assert caught.value.message == said


@pytest.mark.parametrize(
    ("value", "delay"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("", None), ("soon", None), ("nan", None),
     ("inf", LONGEST_PAUSE_S), ("1e300", LONGEST_PAUSE_S), ("3600", 60.0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_and_bounded(value: str, delay: float | None) -> None:
    """A slip in a header neither fails the call nor stops an endpoint for days."""
    with pytest.raises(Throttled) as caught:
        Told(b"", 429, retry_after=value).run("ep", b"{}")
    assert caught.value.delay_s == delay


@pytest.mark.parametrize("value", ["3600", "inf", "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_no_retry_after_stops_reads_for_longer_than_a_result_is_kept(value: str) -> None:
    """A result of /runsync is kept for one minute."""
    told = Told(b"", 429, retry_after=value)
    for read in (told.status, told.stream):
        with pytest.raises(Throttled) as caught:
            read("ep", "job-1")
        assert caught.value.delay_s == 10.0


def test_retry_after_may_be_a_date() -> None:
    """As HTTP allows."""
    with pytest.raises(Throttled) as caught:
        Told(b"", 429, retry_after=formatdate(time.time() + 30, usegmt=True)).run("ep", b"{}")
    assert caught.value.delay_s == pytest.approx(30, abs=2)


def test_every_call_is_told_with_its_code_and_nothing_secret() -> None:
    """One event a call, also when it fails; no body, no key, no URL."""
    heard: list[dict[str, Any]] = []
    leave = subscribe(lambda name, fields: heard.append(dict(fields)) if name == "runpod.call" else None)
    try:
        Told(b'{"id":"j","status":"IN_QUEUE"}').run("ep", b'{"input":"private"}')
        with pytest.raises(Throttled):
            Told(b"", 429).status("ep", "j")
    finally:
        leave()
    assert [(call["endpoint"], call["op"], call["code"]) for call in heard] == [
        ("ep", "run", 200),
        ("ep", "status", 429),
    ]
    assert all(set(call) == {"endpoint", "op", "code", "seconds"} for call in heard)
