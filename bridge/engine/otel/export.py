"""The exporters that the variables of OpenTelemetry ask for (`OTEL_*`), and the loops that feed them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource

from bridge import __version__
from bridge.engine.otel.metrics import Metrics
from bridge.engine.otel.traces import Traces
from bridge.runtime.loop import Loop

if TYPE_CHECKING:
    from bridge.ledger import Ledger


def resource() -> Resource:
    """Who sends: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what is said here."""
    own = {"service.version": __version__, "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
    named = Resource.create(own)
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        named = named.merge(Resource({"service.name": "runpod-bridge"}))
    return named


def exporting(ledger: Ledger) -> list[tuple[Loop, Callable[[], None]]]:
    """Each loop with what is done after its last turn; none where `OTEL_*_EXPORTER=none` or OTEL_SDK_DISABLED."""
    found: list[tuple[Loop, Callable[[], None]]] = []
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return found
    who = resource()
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none":
        traces = Traces(ledger, OTLPSpanExporter(), who)
        found.append((Loop("traces", traces.once), traces.close))
    if os.environ.get("OTEL_METRICS_EXPORTER", "otlp") != "none":
        every_s = int(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "60000")) / 1000
        metrics = Metrics(OTLPMetricExporter(), who, every_s)
        found.append((Loop("otel_metrics", metrics.once), metrics.close))
    return found
