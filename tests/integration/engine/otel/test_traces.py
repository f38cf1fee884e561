"""One trace from the producer's message to the stored result, and metrics, at a collector on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.cli.check.check import _traces
from bridge.engine.otel.traces import Traces
from bridge.errors import JobFailed, SettingsError
from bridge.process import process
from bridge.settings import load
from bridge.telemetry.logs import trace_id_of
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import House
from tests.support.otlp import Collector, attributes
from tests.support.servers import RedisServer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARTS = ["finish", "runpod queue", "runpod run", "submit", "wait"]


@pytest.fixture(scope="module")
def traced(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, Collector, Any]]:
    """A bridge that exports; its worker is the third."""
    folder, url = tmp_path_factory.mktemp("otel"), redis_server.start().fresh_url()
    with Collector() as collector, House(folder, broker=url, redis_url=url, otel="on", log_json="on") as house:
        house.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        yield house, collector, house.worker("-Q", "bridge.run,bridge.finish,bridge.control", ready=True)


def test_a_job_is_one_trace_of_its_callers_with_runpods_own_times(traced: tuple[House, Collector, Any]) -> None:
    """Each part under one span, in order, in the trace that the producer's message named."""
    house, collector, _ = traced
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    sent = house.send({"mock_delay": 1.0}, headers=headers, result="document")
    told = sent.get(timeout=60)
    eventually(lambda: "finish" in collector.trace(TRACE))
    spans = collector.trace(TRACE)
    assert collector.services == {"runpod-bridge"}
    root = spans.pop("bridge.run demo")
    assert root.parent_span_id.hex() == PARENT
    assert sorted(spans) == PARTS
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    said = attributes(root)
    assert said["bridge.request.id"] == sent.id
    assert (said["bridge.status"], said["bridge.door"]) == ("COMPLETED", "celery")
    assert said["runpod.job.id"] == told["job_id"]
    run = spans["runpod run"]
    assert run.end_time_unix_nano - run.start_time_unix_nano == told["executionTime"] * 1_000_000
    queue = spans["runpod queue"]
    assert queue.end_time_unix_nano - queue.start_time_unix_nano == told["delayTime"] * 1_000_000
    order = [spans[name] for name in ("wait", "submit", "runpod queue", "runpod run", "finish")]
    starts = [span.start_time_unix_nano for span in order]
    assert starts == sorted(starts)
    assert root.end_time_unix_nano == spans["finish"].end_time_unix_nano


@pytest.mark.slow
def test_every_attempt_of_a_retried_job_is_in_its_trace(traced: tuple[House, Collector, Any]) -> None:
    """The failed one before the last, with its error; a round by command is a trace of its own attempt alone."""
    house, collector, _ = traced
    trace_id = "6" * 32
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
    sent = house.send({"mock_error": 1, "mock_delay": 0.5}, retries=1, headers=headers)
    sent.get(timeout=60)
    eventually(lambda: roots(collector, trace_id))

    def attempts(name: str) -> dict[int, Any]:
        found = [span for span in collector.spans if span.trace_id.hex() == trace_id and span.name == name]
        return {attributes(span)["bridge.attempt"]: span for span in found}

    runs, queues, (root,) = attempts("runpod run"), attempts("runpod queue"), roots(collector, trace_id)
    assert (sorted(runs), sorted(queues)) == ([1, 2], [1, 2])
    assert {span.parent_span_id for span in (*runs.values(), *queues.values())} == {root.span_id}
    assert (runs[1].status.code, runs[2].status.code) == (2, 1)  # error, ok
    assert runs[1].end_time_unix_nano <= queues[2].start_time_unix_nano
    assert attributes(root)["bridge.attempt"] == 2


def test_what_follows_a_job_is_in_its_callers_trace(traced: tuple[House, Collector, Any]) -> None:
    """A link is sent with the traceparent that the request came with; one of its own goes before."""
    house, collector, _ = traced
    trace_id, other = "4" * 32, "5" * 32
    link = house.app.signature("bridge.run", kwargs={"input": {"b": 1}}, immutable=True, queue="bridge.run")
    named = link.clone().set(headers={"traceparent": f"00-{other}-{PARENT}-01"})
    house.send({"a": 1}, headers={"traceparent": f"00-{trace_id}-{PARENT}-01"}, link=[link, named]).get(timeout=60)
    eventually(lambda: len(roots(collector, trace_id)) == 2)
    assert {span.parent_span_id.hex() for span in roots(collector, trace_id)} == {PARENT}
    eventually(lambda: len(roots(collector, other)) == 1)


def roots(collector: Collector, trace_id: str) -> list[Any]:
    """The outermost span of each request of a trace."""
    return [s for s in collector.spans if s.trace_id.hex() == trace_id and s.name == "bridge.run demo"]


def test_a_failed_job_is_an_error_in_a_trace_of_its_own(traced: tuple[House, Collector, Any]) -> None:
    """Without a traceparent the trace is made of the request's id, so that everybody can find it."""
    house, collector, _ = traced
    sent = house.send({"mock_error": "no such model"})
    with pytest.raises(JobFailed):
        sent.get(timeout=60)
    trace_id = trace_id_of(None, sent.id)
    eventually(lambda: collector.trace(trace_id))
    root = collector.trace(trace_id)["bridge.run demo"]
    assert root.parent_span_id == b""
    assert root.status.code == 2
    assert root.status.message == "FAILED: handler_error"


def test_a_trace_that_its_caller_does_not_sample_is_not_sent(traced: tuple[House, Collector, Any]) -> None:
    """The flag of the traceparent says so."""
    house, collector, _ = traced
    quiet = "1" * 32
    house.send({"a": 1}, headers={"traceparent": f"00-{quiet}-{PARENT}-00"}).get(timeout=60)
    after = house.send({"a": 2})
    after.get(timeout=60)
    eventually(lambda: collector.trace(trace_id_of(None, after.id)))
    assert not collector.trace(quiet)


def test_metrics_are_those_of_the_metrics_page(traced: tuple[House, Collector, Any]) -> None:
    """Counters, gauges and histograms with their labels."""
    house, collector, _ = traced
    house.send({"a": 1}).get(timeout=60)
    eventually(lambda: "bridge_ended_total" in collector.metrics)
    (point, *_) = collector.metrics["bridge_accepted_total"].sum.data_points
    assert attributes(point) == {"door": "celery", "endpoint": "demo"}
    assert collector.metrics["bridge_accepted_total"].sum.is_monotonic
    assert collector.metrics["bridge_engines"].gauge.data_points[0].as_double == 1.0
    (histogram,) = eventually(lambda: collector.metrics["bridge_job_execution_seconds"].histogram.data_points)
    assert sum(histogram.bucket_counts) == histogram.count >= 1
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1


def test_each_line_about_a_request_names_request_endpoint_and_trace(traced: tuple[House, Collector, Any]) -> None:
    """With BRIDGE_LOG_JSON: by its trace somebody finds the lines, and by a line the trace."""
    house, _, worker = traced
    trace_id = "2" * 32
    sent = house.send({"a": 1}, headers={"traceparent": f"00-{trace_id}-{PARENT}-01"})
    sent.get(timeout=60)
    lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("request_id") == sent.id]
    assert {line["event"] for line in about} >= {"request.accepted", "request.submitted", "request.ended"}
    assert {(line["endpoint"], line["trace_id"]) for line in about if line.get("logger") is None} == {
        ("demo", trace_id)
    }
    celery = [line for line in about if str(line.get("logger")).startswith("celery")]
    assert celery, "Celery's own lines about the message name the request too"


def test_a_collector_that_is_away_gets_it_all_when_it_is_back(traced: tuple[House, Collector, Any]) -> None:
    """Jobs go on meanwhile; the cursor stays."""
    house, collector, worker = traced
    collector.away = True
    try:
        sent = house.send({"a": 1})
        sent.get(timeout=60)
        eventually(lambda: "otel.unavailable" in worker.said())
    finally:
        collector.away = False
    eventually(lambda: collector.trace(trace_id_of(None, sent.id)), timeout=30)


def test_what_is_sent_twice_has_the_same_ids(redis_url: str, tmp_path: Path) -> None:
    """An exporter that dies, or is refused, has moved no cursor: the next one sends the same spans."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.worker()
        house.send({"a": 1}).get(timeout=60)
        first, second = InMemorySpanExporter(), InMemorySpanExporter()
        refused = Traces(house.ledger, Refusing(first), Resource({}))
        eventually(lambda: refused.once() and first.get_finished_spans())
        refused.close()
        taken = Traces(house.ledger, second, Resource({}))
        eventually(lambda: taken.once() and second.get_finished_spans())
        ids = [ids_of(exporter) for exporter in (first, second)]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == len(ids[0]) == len(PARTS) + 1
        taken.once()
        assert len(second.get_finished_spans()) == len(ids[1]), "the cursor has moved"
        taken.close()


def ids_of(exporter: InMemorySpanExporter) -> list[tuple[str, int, int]]:
    """Name, trace and span of each."""
    return [(s.name, s.context.trace_id, s.context.span_id) for s in exporter.get_finished_spans() if s.context]


class Refusing(InMemorySpanExporter):
    """Keeps what it is given, and says that it did not."""

    def __init__(self, keeps: InMemorySpanExporter) -> None:
        """`keeps` is looked at by the test."""
        super().__init__()
        self._keeps = keeps

    def export(self, spans: Any) -> SpanExportResult:
        """Once; later tries are the same."""
        self._keeps.clear()
        self._keeps.export(spans)
        return SpanExportResult.FAILURE


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """And not a traceback of an import; `bridge check` says it too."""

    def missing(_: str) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(process, "find_spec", missing)
    settings = {"BRIDGE_OTEL": "on", "BRIDGE_REDIS_URL": redis_url, "CELERY_BROKER_URL": redis_url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"BRIDGE_OTEL: .*runpod-bridge\[otel\]"):
        process.check_export(load())
    has: Any = SimpleNamespace(settings=load())
    assert [(level, about) for level, about, _ in _traces(has)] == [("FAULT", "traces")]


def test_nothing_of_it_is_loaded_while_it_is_off() -> None:
    """No process needs the extra; redis-py loads OpenTelemetry's SDK where that is installed, whatever we do."""
    program = (
        "import sys, bridge.process.process, bridge.app\n"
        "assert not [name for name in sys.modules if name.startswith(('bridge.engine.otel', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=COMMAND_S)
