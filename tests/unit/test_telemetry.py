"""Telling events: a closed catalogue, no secrets, and next to no cost."""

from __future__ import annotations

import ast
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest

import bridge
from bridge import telemetry
from bridge.telemetry import configure_logging, logs, redact, subscribe, tell
from bridge.telemetry.catalogue import CATALOGUE
from bridge.telemetry.metrics import REGISTRY, Snapshot

ROOM = Path(bridge.__file__).parent


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging is one setting of the process: put it back."""
    monkeypatch.setattr(logs, "_threshold", logs._threshold)
    monkeypatch.setattr(logs, "_logger", structlog.get_logger("bridge"))
    yield
    structlog.reset_defaults()


def tells_in_source() -> list[tuple[str, ast.Call]]:
    """Every `tell("name", ...)` of the package, with where it stands."""
    found: list[tuple[str, ast.Call]] = []
    for path in sorted(ROOM.rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        tells = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "tell")
        found.extend((f"{path.relative_to(ROOM)}:{node.lineno}", node) for node in tells)
    return found


def test_every_event_that_the_code_tells_is_in_the_catalogue() -> None:
    """A name outside it would be a KeyError in the middle of somebody's work."""
    calls = tells_in_source()
    assert len(calls) > 20
    names = {where: node.args[0].value for where, node in calls if isinstance(node.args[0], ast.Constant)}
    assert {where: name for where, name in names.items() if name not in CATALOGUE} == {}


def test_no_event_has_a_field_that_the_logger_would_choke_on() -> None:
    """`event`, `level` and `timestamp` are the log line's own."""
    taken = {"event", "level", "timestamp", "name"}
    bad = {where for where, node in tells_in_source() if taken & {word.arg for word in node.keywords}}
    assert bad == set()


def test_an_unknown_name_is_refused() -> None:
    """The catalogue is closed."""
    with pytest.raises(KeyError, match=r"no\.such"):
        tell("no.such")


def test_levels_are_by_who_must_act() -> None:
    """Trouble that needs a person is an error; what happens per job is not."""
    assert CATALOGUE["gate.closed"][0] == logging.ERROR
    assert CATALOGUE["submit.unanswered"][0] == logging.WARNING
    assert CATALOGUE["runpod.call"][0] == logging.DEBUG
    assert all(meaning and not meaning.endswith(".") for _, meaning in CATALOGUE.values())


SECRETS = {
    "api_key": "rpa_hidden",
    "Authorization": "Bearer rpa_hidden",
    "s3Config": {"accessSecret": "rpa_hidden"},
    "hook_token": "rpa_hidden",
    "url": "https://h.example/hook?sig=rpa_hidden&x=1",
    "error": "GET https://h.example/a?sig=rpa_hidden failed; redis://:rpa_hidden@db:6379/0 too",
    "document": {"policy": {"apiKey": "rpa_hidden"}, "jobs": [{"webhook": "https://h.example/?rpa_hidden"}]},
    "said": "refused with Authorization: Bearer rpa_hidden",
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_reaches_the_log(name: str, *, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """I11: by the field's name at any depth, in URLs, in credentials of URLs, in a header told in a sentence."""
    configure_logging("debug", as_json=as_json)
    tell("record.failed", request_id="r-1", **{name: SECRETS[name]})
    line = capsys.readouterr().err
    assert "record.failed" in line
    assert "r-1" in line
    assert "hidden" not in line


def test_what_is_no_secret_is_told_whole() -> None:
    """Redaction leaves ordinary fields alone."""
    for value in ("IN_QUEUE", 7, None, "https://h.example/path", ["a", 1], {"b": "c"}):
        assert redact("status", value) == value


def test_a_log_that_is_no_terminal_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    """A file is searched."""
    configure_logging("info")
    tell("request.accepted", request_id="a", endpoint="demo", door="celery")
    assert "\x1b" not in capsys.readouterr().err


def test_a_json_line_holds_name_level_time_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, one event."""
    configure_logging("info", as_json=True)
    tell("request.submitted", request_id="r-1", endpoint="images", nothing=None)
    tell("runpod.call", endpoint="e", op="run", code=200, seconds=0.1)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "request.submitted", "level": "info", "request_id": "r-1", "endpoint": "images"}


def test_a_subscriber_hears_every_event_until_it_leaves() -> None:
    """Logs and metrics are only two of them."""
    heard: list[tuple[str, dict[str, object]]] = []
    leave = subscribe(lambda name, fields: heard.append((name, dict(fields))))
    tell("engine.beat", engine="a")
    leave()
    tell("engine.beat", engine="b")
    assert heard == [("engine.beat", {"engine": "a"})]


def test_a_subscriber_that_fails_harms_nobody() -> None:
    """Telling must never be the reason that a job's record is not written."""

    def fail(_name: str, _fields: object) -> None:
        raise RuntimeError

    heard: list[str] = []
    leaves: list[Callable[[], None]] = [subscribe(fail), subscribe(lambda name, _: heard.append(name))]
    try:
        tell("engine.beat")
    finally:
        for leave in leaves:
            leave()
    assert heard == ["engine.beat"]


def sample(name: str, **labels: str) -> float:
    """A metric's value now, 0.0 before its first."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_calls_are_counted_by_endpoint_operation_and_code() -> None:
    """Names and labels of DESIGN, section 5."""
    labels = {"endpoint": "m-1", "op": "status", "code": "200"}
    before = sample("bridge_runpod_calls_total", **labels)
    timed = sample("bridge_runpod_call_seconds_count", op="status")
    tell("runpod.call", endpoint="m-1", op="status", code=200, seconds=0.1)
    assert sample("bridge_runpod_calls_total", **labels) == before + 1
    assert sample("bridge_runpod_call_seconds_count", op="status") == timed + 1


def test_what_somebody_took_from_a_stream_is_counted_by_stream() -> None:
    """An alert needs a figure: a log line of lost requests is read by nobody at night."""
    stream = "bridge:requests"
    entries, streams = (
        sample("bridge_stream_losses_total", stream=stream, what=what) for what in ("entries", "stream")
    )
    tell("stream.entries_gone", stream=stream, entries=3)
    tell("stream.made_anew", stream=stream, group="bridge")
    assert sample("bridge_stream_losses_total", stream=stream, what="entries") == entries + 3
    assert sample("bridge_stream_losses_total", stream=stream, what="stream") == streams + 1


def test_ends_feed_counter_and_histograms_in_seconds() -> None:
    """RunPod's milliseconds become seconds; an unknown time is not observed."""
    tell("request.ended", endpoint="m-2", status="COMPLETED", reason=None, delay_ms=1500, execution_ms=2500)
    tell("request.ended", endpoint="m-2", status="CANCELLED", reason="cancelled", delay_ms=-1, execution_ms=-1)
    assert sample("bridge_ended_total", endpoint="m-2", status="COMPLETED", reason="") == 1
    assert sample("bridge_job_delay_seconds_sum", endpoint="m-2") == 1.5
    assert sample("bridge_job_execution_seconds_sum", endpoint="m-2") == 2.5
    assert sample("bridge_job_execution_seconds_count", endpoint="m-2") == 1


def test_gauges_are_read_only_when_somebody_scrapes() -> None:
    """Between scrapes they cost nothing, and one family may have many labels."""
    reads = []

    def read() -> list[tuple[str, str, dict[str, str], float]]:
        reads.append(1)
        return [("bridge_x", "X.", {"endpoint": "a"}, 1.0), ("bridge_x", "X.", {"endpoint": "b"}, 2.0)]

    snapshot = Snapshot(read)
    (family,) = snapshot.collect()
    assert [value.value for value in family.samples] == [1.0, 2.0]
    assert len(reads) == 1
    assert generate_latest(REGISTRY)


def test_one_outage_is_one_line_in_ten_seconds_and_the_next_says_how_many_were_not_written() -> None:
    """Every loop meets it again and again; tries and what waits differ, the trouble is one. Another is told at once."""
    repeats, fault = logs.Repeats(), {"loop": "track", "error": "ConnectionError: refused"}
    said = [repeats.unsaid("loop.failed", {**fault, "fails": n}, now=n / 2) for n in range(41)]
    assert [(n, unsaid) for n, unsaid in enumerate(said) if unsaid is not None] == [(0, 0), (20, 19), (40, 19)]
    assert repeats.unsaid("loop.failed", {**fault, "loop": "submit", "fails": 1}, now=20.0) == 0
    assert repeats.unsaid("loop.failed", {**fault, "error": "TimeoutError", "fails": 1}, now=20.0) == 0


def test_what_is_said_of_requests_is_never_left_out() -> None:
    """Two requests that failed alike are two things to look at."""
    repeats = logs.Repeats()
    fields = {"request_id": "r", "error": "ValueError"}
    assert [repeats.unsaid("record.failed", fields, now=1.0) for _ in range(3)] == [0, 0, 0]


def test_troubles_without_end_do_not_fill_the_memory() -> None:
    """An address in each error's text makes each a new one."""
    repeats = logs.Repeats()
    for n in range(3 * logs.TROUBLES_MAX):
        assert repeats.unsaid("loop.failed", {"error": f"fault {n}"}, now=1.0) == 0
    assert len(repeats._said) == logs.TROUBLES_MAX


@pytest.mark.bench
def test_an_event_nobody_logs_costs_microseconds() -> None:
    """About six a job, of 4 ms of CPU in all."""
    logs._threshold = logging.WARNING
    began = time.process_time()
    for _ in range(20_000):
        tell("finish.sent", request_id="r")
    assert (time.process_time() - began) / 20_000 < 5e-6


def test_what_is_shown_of_a_strangers_message_holds_no_secrets() -> None:
    """At any depth, by names of the settings too, and in text that was cut off in the middle."""
    cut = '{"input": {"pin": "hush"}, "s3Config": {"accessSecret": "hush", "buck'
    shown = telemetry.blotted({"a": [{"PIN": 1, "api_key": "hush"}], "cut": cut, "u": "https://x/y?s=hush"}, ["pin"])
    assert "hush" not in str(shown)
    assert isinstance(shown, dict)
    assert shown["a"] == [{"PIN": "***", "api_key": "***"}]
    assert shown["cut"].startswith('{"input"')
