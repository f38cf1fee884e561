"""Sends what /metrics shows by OTLP too: names, labels and meanings are the same."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

import prometheus_client
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from bridge import __version__
from bridge.telemetry import tell
from bridge.telemetry.metrics import REGISTRY

_SCOPE = InstrumentationScope("bridge", __version__)
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class Metrics:
    """One `once()` sends all there is."""

    def __init__(self, exporter: MetricExporter, resource: Resource, every_s: float) -> None:
        """The exporter is shut down by `close`."""
        self._exporter, self._resource, self._every_s = exporter, resource, every_s
        self._since = time.time_ns()
        self._heard = True

    def once(self) -> float:
        """Returns seconds until the next turn."""
        metrics = list(converted(REGISTRY.collect(), self._since, time.time_ns()))
        scope = ScopeMetrics(_SCOPE, metrics, "")
        sent = self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        self._heard = sent is MetricExportResult.SUCCESS
        if not self._heard:
            tell("otel.unavailable", what="metrics", waiting=0)
        return self._every_s

    def close(self) -> None:
        """The last figures, then no more."""
        if self._heard:  # else the process' end would wait for a collector that is away
            self.once()
        self._exporter.shutdown()


def converted(families: Iterable[prometheus_client.Metric], since_ns: int, now_ns: int) -> Iterator[Metric]:
    """Prometheus' families as OpenTelemetry's metrics; those without a sample are left out."""
    for family in families:
        if family.type == "histogram":
            histograms = list(_histograms(family, since_ns, now_ns))
            if histograms:
                yield Metric(family.name, family.documentation, "s", Histogram(histograms, _CUMULATIVE))
            continue
        counts = family.type == "counter"
        points = [
            NumberDataPoint(dict(sample.labels), since_ns if counts else now_ns, now_ns, float(sample.value))
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        if points:
            name = f"{family.name}_total" if counts else family.name
            data = Sum(points, _CUMULATIVE, is_monotonic=True) if counts else Gauge(points)
            yield Metric(name, family.documentation, "1" if counts else "", data)


def _histograms(family: prometheus_client.Metric, since_ns: int, now_ns: int) -> Iterator[HistogramDataPoint]:
    """One a set of labels; Prometheus' buckets hold all that is below, OpenTelemetry's only what is new in them."""
    found: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for sample in family.samples:
        labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
        kind = sample.name.removeprefix(family.name)
        found[labels][sample.labels["le"] if kind == "_bucket" else kind] = sample.value
    for labels, values in found.items():
        bounds = sorted(float(bound) for bound in values if not bound.startswith("_"))
        upto = {float(bound): value for bound, value in values.items() if not bound.startswith("_")}
        below = [0, *(int(upto[bound]) for bound in bounds)]
        yield HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=since_ns,
            time_unix_nano=now_ns,
            count=int(values["_count"]),
            sum=values["_sum"],
            bucket_counts=[after - before for before, after in pairwise(below)],
            explicit_bounds=bounds[:-1],
            min=0.0,
            max=0.0,
        )
