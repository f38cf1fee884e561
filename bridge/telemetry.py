"""Everything the bridge tells of itself: code says `tell("submit.unanswered", ...)`; logs and metrics subscribe.

An event's name is what one searches logs for; the catalogue says who should care (its level) and what it means.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

#: name -> (level: who must act, meaning)
CATALOGUE: Mapping[str, tuple[int, str]] = {
    "request.accepted": (INFO, "a request is held by the ledger"),
    "request.repeated": (DEBUG, "a request came again; nothing changed"),
    "request.conflict": (WARNING, "an id was used again for another request; the first goes on"),
    "request.rejected": (WARNING, "a request broke a rule and was refused"),
    "request.submitted": (INFO, "RunPod has taken the job"),
    "request.ended": (INFO, "a request has its end"),
    "submit.unanswered": (WARNING, "the answer to a submit was lost; a job may exist"),
    "submit.denied": (WARNING, "RunPod's side did not take a submit: others go first, and it is tried again"),
    "submit.again": (WARNING, "submitted again after a lost answer: possible duplicate"),
    "batch.finalized": (INFO, "RunPod has taken a batch of requests"),
    "batch.unanswered": (WARNING, "the answer to a batch's finalize was lost; the batch is asked how it stands"),
    "batch.denied": (WARNING, "RunPod's Batch API takes nothing now; the requests wait, and it is tried again"),
    "batch.missing": (ERROR, "the endpoint has no Batch API; requests of that lane were refused"),
    "batch.unread": (WARNING, "a batch could not be looked at; it is tried again"),
    "job.unreadable": (WARNING, "RunPod's answers about a job cannot be read; the document says since when"),
    "cancel.asked": (INFO, "somebody asked for a cancel"),
    "cancel.sent": (INFO, "/cancel was answered"),
    "stray.ended": (WARNING, "a job of an ended request has ended: its time was paid twice"),
    "finish.sent": (DEBUG, "an end is on its way to Celery"),
    "finish.delivered": (DEBUG, "Celery has stored the end"),
    "finish.ignored": (DEBUG, "a copy or a forgery of a finish did nothing"),
    "finish.failed": (ERROR, "an end could not be stored; another turn follows"),
    "finish.unread": (ERROR, "nobody reads bridge.finish fast enough; copies are held back"),
    "state.repaired": (WARNING, "a late progress had covered an end; the end was stored again"),
    "reply.returned": (WARNING, "no queue took a message; it is tried again, then it becomes a dead letter"),
    "callback.delivered": (DEBUG, "a receiver has taken a callback"),
    "callback.failed": (WARNING, "a receiver did not take a callback; it is tried again, then it is a dead letter"),
    "callback.given_up": (ERROR, "a callback was not taken for a day, or its receiver wants no more: a dead letter"),
    "callback.skipped": (WARNING, "events of a request found no room behind those that its receiver has not taken"),
    "callback.secret_unusable": (ERROR, "the secrets of callbacks cannot be read; those that were read last sign"),
    "events.dropped": (ERROR, "the event stream had no room left for what RabbitMQ has not confirmed"),
    "events.foreign": (WARNING, "an entry of the event stream is none of the bridge's; it was passed over"),
    "blob.unavailable": (ERROR, "the object store did not do what it was asked; the ledger keeps the output"),
    "blob.kept": (DEBUG, "a large output stands in the object store"),
    "blob.dropped": (DEBUG, "an output whose time is over was deleted from the object store"),
    "runpod.call": (DEBUG, "one call to RunPod"),
    "runpod.away": (WARNING, "RunPod does not answer; tries are spaced"),
    "runpod.back": (INFO, "RunPod answers again"),
    "budget.throttled": (WARNING, "RunPod said 429; the budget was lowered"),
    "gate.closed": (ERROR, "the endpoint or account cannot be used; requests wait"),
    "gate.opened": (INFO, "the endpoint can be used again"),
    "endpoint.paused": (INFO, "an operator paused an endpoint"),
    "endpoint.resumed": (INFO, "an operator resumed an endpoint"),
    "endpoint.purged": (INFO, "an operator purged an endpoint's queue"),
    "ledger.unavailable": (ERROR, "the ledger's Redis does not answer; work is held"),
    "ledger.rolled_back": (ERROR, "the ledger came back without its latest writes"),
    "broker.unavailable": (ERROR, "the broker does not answer; messages wait"),
    "broker.refused": (ERROR, "the broker no longer lets a running worker in; it waits, and tries again"),
    "results.unavailable": (ERROR, "the result backend does not answer as the worker starts"),
    "worker.crashed": (ERROR, "a fault that nobody foresaw ends the worker; the traceback follows"),
    "broker.not_tracked": (WARNING, "the broker's Redis cannot track keys; who dies while it takes a message loses it"),
    "message.unreadable": (ERROR, "a message on a queue is none of Celery's; kept in a list beside the queues"),
    "remote.failed": (ERROR, "a remote-control command could not reach the ledger"),
    "door.held": (WARNING, "a message is held while the ledger is away"),
    "door.closed": (WARNING, "a high-water mark was passed: nothing more is taken off the queue"),
    "door.opened": (INFO, "below the low-water mark again: requests are taken"),
    "command.answered": (INFO, "a service's command was carried out"),
    "command.refused": (WARNING, "a service's command could not be carried out; its sender was told why"),
    "dead_letter.kept": (WARNING, "something could not be taken or told; see `bridge dead list`"),
    "record.failed": (ERROR, "one record cannot be worked on; the others go on"),
    "key.set_aside": (ERROR, "a public key was of another type, or took no more entries; it is kept for a week"),
    "stream.set_back": (ERROR, "the group of a stream had passed over entries that nobody has; it reads them now"),
    "call.failed": (ERROR, "a call ended in a way nobody foresaw; its record comes due again"),
    "loop.failed": (ERROR, "a loop met an error and tries again"),
    "worker.started": (INFO, "a bridge worker is set up"),
    "settings.unusable": (ERROR, "the process cannot start with these settings, or with this ledger"),
    "settings.taken": (INFO, "BRIDGE_CONFIG_FILE has changed and holds now"),
    "settings.not_taken": (ERROR, "BRIDGE_CONFIG_FILE cannot be used as it is now; the one read last stays in force"),
    "settings.doubtful": (WARNING, "a setting lets nothing good come: mend it, or say that it is meant so"),
    "engine.started": (INFO, "the engine works"),
    "engine.stopped": (INFO, "the engine has stopped"),
    "engine.beat": (DEBUG, "the engine lives"),
    "topology.found": (DEBUG, "a queue exists and is used as it is"),
    "topology.missing": (INFO, "a queue does not exist and is declared"),
    "topology.gone": (WARNING, "somebody has deleted a queue or an exchange that is in use; it is declared again"),
    "followup.unrouted": (INFO, "what follows a request goes to BRIDGE_DEFAULT_QUEUE; told once for each task"),
    "followup.unread": (ERROR, "nobody reads a queue into which what follows requests was sent"),
    "followup.read": (INFO, "a queue of what follows requests is read again, or empty"),
    "http.started": (INFO, "health and metrics are served"),
    "http.crowded": (WARNING, "too many connections to the HTTP door; the one idle for longest was closed"),
    "files.exhausted": (ERROR, "no file or socket can be opened; what is held waits until one can"),
    "console.denied": (WARNING, "somebody was not let into the console, or sent a form that is none of its own"),
    "console.failed": (ERROR, "the console met an error that nobody foresaw; that page alone has failed"),
    "console.password_unreadable": (ERROR, "the file of the console's password cannot be read; the last one is taken"),
    "dead_letter.replayed": (INFO, "a dead letter was sent again, or a parked request is worked now"),
    "dead_letter.dropped": (INFO, "a dead letter was forgotten"),
    "api.answered": (DEBUG, "the HTTP door has answered a request"),
    "api.denied": (WARNING, "a token is not known, or may not do what was asked with it"),
    "api.failed": (ERROR, "the HTTP door met an error that nobody foresaw; that request alone has failed"),
    "api.cut_off": (INFO, "an answer that was given bit by bit has ended early"),
    "api.followers": (DEBUG, "somebody follows a request over HTTP, or has stopped"),
    "api.events_unreadable": (ERROR, "the event stream cannot be read; who follows over HTTP hears it later"),
    "api.tokens": (INFO, "the tokens of the HTTP door were read"),
    "api.tokens_unreadable": (ERROR, "the file of tokens cannot be read; those that were read last are taken"),
    "http.taken": (WARNING, "the HTTP port is taken by another process; this one serves none"),
    "webhook.received": (DEBUG, "RunPod called back"),
    "otel.unavailable": (WARNING, "the OpenTelemetry collector took nothing; what is there is sent again"),
    "telemetry.failed": (ERROR, "a subscriber to these events failed; what was told went on"),
    "webhook.refused": (WARNING, "a callback was unknown, forged or malformed; it changed nothing"),
}

_SECRET = re.compile(r"(api_?key|token|secret|s3config|authorization|password)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r'("(?:api_?key|[a-z_]*token|[a-z]*secret|s3config|authorization|password)"\s*:\s*)("[^"]*"?|\{[^}]*\}?)',
    re.IGNORECASE,
)
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
#: Up to the last @: a password may hold a / that nobody encoded. What stands behind an HTTP address' host is no secret.
_CREDENTIALS = re.compile(
    r"((?!https?:)\b[a-z][a-z0-9+.-]*://)[^\s\"'<>]*@|(https?://)[^/@\s:]*:[^/@\s]+@", re.IGNORECASE
)
_BEARER = re.compile(r"(bearer\s+)[^\s\"',;]+", re.IGNORECASE)

Subscriber = Callable[[str, Mapping[str, Any]], None]

#: W3C's traceparent: version, trace, parent, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
#: Requests whose endpoint and trace this process knows for its lines.
KNOWN_MAX = 10_000

_logger = structlog.get_logger("bridge")
_known: OrderedDict[str, tuple[str, str | None]] = OrderedDict()
_traces_all = False
_threshold = logging.WARNING
_subscribers: list[Subscriber] = []


def tell(name: str, **fields: Any) -> None:
    """Tell an event. Raises KeyError for a name that is not in the catalogue, and nothing else."""
    level = CATALOGUE[name][0]
    for subscriber in _subscribers:
        try:
            subscriber(name, fields)
        except Exception as error:  # noqa: BLE001  (no metric is worth the record that is being worked on)
            _logger.log(ERROR, "telemetry.failed", told=name, error=f"{type(error).__name__}: {redact('', str(error))}")
    if level >= _threshold:
        if isinstance(request_id := fields.get("request_id"), str):
            fields = {**fields, **known(request_id, fields.get("endpoint"))}
        _logger.log(level, name, **{key: redact(key, value) for key, value in fields.items() if value is not None})


def trace_id_of(traceparent: str | None, request_id: str) -> str:
    """The caller's trace in hex; for a request that came without one, a trace of its own."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else hashlib.sha256(f"bridge:{request_id}".encode()).hexdigest()[:32]


def know(request_id: str, endpoint: str, traceparent: str | None) -> None:
    """What each line about this request says beside its own: the endpoint, and the trace that it belongs to."""
    if request_id in _known:
        return
    _known[request_id] = endpoint, trace_id_of(traceparent, request_id) if traceparent or _traces_all else None
    if len(_known) > KNOWN_MAX:
        _known.popitem(last=False)


def known(request_id: str, endpoint: Any = None) -> dict[str, Any]:
    """`endpoint` and `trace_id`, as far as this process knows them; None for what it does not."""
    found = _known.get(request_id, (None, None))
    return {"endpoint": endpoint or found[0], "trace_id": found[1]}


def trace_all() -> None:
    """From now on lines name the traces of requests that came without one: they are exported."""
    global _traces_all  # noqa: PLW0603  (one setting of the process)
    _traces_all = True


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Hear every event; the answer is the way out."""
    _subscribers.append(subscriber)
    return lambda: _subscribers.remove(subscriber)


def redact(key: str, value: object) -> object:
    """The value as a log may show it (I11), at any depth: no secrets, no credentials or query strings of URLs."""
    if _SECRET.search(key):
        return "***"
    if isinstance(value, str):
        if "://" in value:
            value = _CREDENTIALS.sub(r"\1\2***@", _QUERY.sub(r"\1?***", value))
        return _BEARER.sub(r"\1***", value)
    if isinstance(value, Mapping):
        return {name: redact(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact("", item) for item in value]
    return value


def blotted(value: object, names: Iterable[str] = (), key: str = "") -> object:
    """As `redact`, for what people are shown of others' messages: names of the settings' own are secret too.

    In text that is no JSON, what follows such a name is blotted out.
    """
    wanted = frozenset(name.lower() for name in names)
    if _SECRET.search(key) or key.lower() in wanted:
        return "***"
    if isinstance(value, Mapping):
        return {name: blotted(item, wanted, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [blotted(item, wanted) for item in value]
    if isinstance(value, str):
        for name in wanted:
            value = re.sub(
                rf'("?{re.escape(name)}"?\s*[:=]\s*)("[^"]*"?|[^\s,;&}}]+)', r"\1***", value, flags=re.IGNORECASE
            )
        value = _SECRET_TEXT.sub(r"\1***", value)
    return redact("", value)


def configure_logging(level: str = "info", *, as_json: bool = False) -> None:
    """One line an event on stderr: for people, or JSON for machines."""
    global _threshold  # noqa: PLW0603  (one setting of the process)
    _threshold = getattr(logging, level.upper())
    # Colours are for a terminal: in a file they are noise that no search finds its way through.
    colors = sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colors)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line
        cache_logger_on_first_use=True,
    )


# Metrics. Names and labels are a contract (DESIGN, section 5).

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
