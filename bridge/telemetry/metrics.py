"""What Prometheus is told. Names and labels are a contract (DESIGN, section 5)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from bridge.telemetry.events import subscribe

REGISTRY = CollectorRegistry()
_LONG = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
_SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class _Counted:
    """What this process counts."""

    def __init__(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=None)

        def histogram(name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, [label], buckets=buckets, registry=None)

        self.accepted = counter("bridge_accepted_total", "Requests accepted.", "door", "endpoint")
        self.ended = counter("bridge_ended_total", "Requests ended.", "endpoint", "status", "reason")
        self.calls = counter("bridge_runpod_calls_total", "Calls to RunPod.", "endpoint", "op", "code")
        self.unanswered = counter("bridge_unanswered_total", "Submits whose answer was lost.")
        self.duplicates = counter("bridge_possible_duplicates_total", "Submits repeated after a lost answer.")
        self.dead = counter("bridge_dead_letters_total", "Dead letters kept.", "reason")
        self.losses = counter(
            "bridge_stream_losses_total",
            "What somebody took from a stream before it was read: entries, or the whole stream.", "stream", "what",
        )  # fmt: skip
        self.finish_failed = counter("bridge_finish_failures_total", "Tries to tell an end that failed.", "endpoint")
        self.webhooks = counter("bridge_webhooks_total", "Callbacks, by what they came to.", "result")
        self.http = counter("bridge_http_requests_total", "Answers of /v1.", "route", "method", "code")
        self.http_seconds = histogram("bridge_http_request_seconds", "Until an answer of /v1 begins.", "route", _SHORT)
        self.followers = Gauge(
            "bridge_http_followers", "Who follows requests.", registry=None, multiprocess_mode="livesum"
        )
        self.callbacks = counter("bridge_callbacks_total", "Callbacks to callers, by what they came to.", "result")
        self.callback_seconds = histogram("bridge_callback_seconds", "Time of one try of a callback.", "result", _SHORT)
        self.delay = histogram("bridge_job_delay_seconds", "RunPod's delayTime.", "endpoint", _LONG)
        self.execution = histogram("bridge_job_execution_seconds", "executionTime.", "endpoint", _LONG)
        self.end_seen = histogram("bridge_end_seen_seconds", "RunPod's end to ours.", "endpoint", _SHORT)
        self.call_seconds = histogram("bridge_runpod_call_seconds", "Time of one call.", "op", _SHORT)

    def collect(self) -> Iterator[Metric]:
        """Prometheus' call."""
        for metric in vars(self).values():
            yield from metric.collect()


_counted = _Counted()
REGISTRY.register(_counted)


def count_in_files(folder: str, process: str, *, adds_up: bool = False) -> None:
    """Count from now on in files of the folder, which `process` alone writes; what was counted before is left behind.

    `adds_up`: this process tells the counts of all that write there. prometheus-client decides in what a metric counts
    as the metric is made, so they are made anew: also for a child, whose locks might have been held as it was forked.
    """
    global _counted  # noqa: PLW0603  (one of the process)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
    if adds_up:
        REGISTRY.unregister(_counted)
        MultiProcessCollector(REGISTRY, folder)  # type: ignore[no-untyped-call]
    _counted = _Counted()


def end_seen(endpoint: str, seconds: float) -> None:
    """How long RunPod's end of a job was not known here."""
    _counted.end_seen.labels(endpoint).observe(seconds)


def _count(name: str, fields: Mapping[str, Any]) -> None:
    match name:
        case "runpod.call":
            _counted.calls.labels(fields["endpoint"], fields["op"], str(fields["code"])).inc()
            _counted.call_seconds.labels(fields["op"]).observe(fields["seconds"])
        case "request.accepted":
            _counted.accepted.labels(fields["door"], fields["endpoint"]).inc()
        case "request.ended":
            _counted.ended.labels(fields["endpoint"], fields["status"], fields["reason"] or "").inc()
            if fields.get("delay_ms", -1) >= 0:
                _counted.delay.labels(fields["endpoint"]).observe(fields["delay_ms"] / 1000)
            if fields.get("execution_ms", -1) >= 0:
                _counted.execution.labels(fields["endpoint"]).observe(fields["execution_ms"] / 1000)
        case "submit.unanswered":
            _counted.unanswered.inc()
        case "submit.again":
            _counted.duplicates.inc()
        case "webhook.received" | "webhook.refused":
            _counted.webhooks.labels(fields.get("result") or fields["why"]).inc()
        case "dead_letter.kept":
            _counted.dead.labels(fields["reason"]).inc()


def _count_losses(name: str, fields: Mapping[str, Any]) -> None:
    if name == "stream.entries_gone":
        _counted.losses.labels(fields["stream"], "entries").inc(fields["entries"])
    elif name == "stream.made_anew":
        _counted.losses.labels(fields["stream"], "stream").inc()


def _count_http(name: str, fields: Mapping[str, Any]) -> None:
    if name == "api.answered":
        _counted.http.labels(fields["route"], fields["method"], str(fields["code"])).inc()
        _counted.http_seconds.labels(fields["route"]).observe(fields["seconds"])
    elif name == "api.followers":
        _counted.followers.set(fields["count"])


def _count_tellings(name: str, fields: Mapping[str, Any]) -> None:
    match name:
        case "finish.failed":
            _counted.finish_failed.labels(fields["endpoint"]).inc()
        case "callback.delivered" | "callback.failed":
            _counted.callbacks.labels(fields["result"]).inc()
            _counted.callback_seconds.labels(fields["result"]).observe(fields["seconds"])
        case "callback.given_up" | "callback.skipped":
            _counted.callbacks.labels(name.rpartition(".")[2]).inc(fields["events"])


subscribe(_count)
subscribe(_count_losses)
subscribe(_count_http)
subscribe(_count_tellings)


class Snapshot(Collector):
    """Ledger-wide gauges, read from the ledger only when somebody scrapes: the same in every process (`max by`)."""

    def __init__(self, read: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]) -> None:
        """`read` gives (name, help, labels, value)."""
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Prometheus' call."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._read():
            family = families.setdefault(name, GaugeMetricFamily(name, text, labels=tuple(labels)))
            family.add_metric(tuple(labels.values()), value)
        return families.values()


def register_snapshot(read: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]) -> None:
    """Have the ledger-wide gauges scraped with the rest."""
    REGISTRY.register(Snapshot(read))
