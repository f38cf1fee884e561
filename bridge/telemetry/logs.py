"""One line an event on stderr: for people, or JSON for machines."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO
from weakref import WeakSet

import structlog

from bridge.telemetry.redact import redact

#: W3C's traceparent: version, trace, parent, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
#: Requests whose endpoint and trace this process knows for its lines.
KNOWN_MAX = 10_000
#: Seconds. Of lines about one trouble (an outage meets every loop again and again) one is written in this time.
REPEAT_S = 10.0
#: Troubles that are remembered for that.
TROUBLES_MAX = 200

_logger = structlog.get_logger("bridge")
_known: OrderedDict[str, tuple[str, str | None]] = OrderedDict()
_traces_all = False
_threshold = logging.WARNING


class Repeats:
    """Which lines say again what one has just said; the next that is written tells how many were not."""

    def __init__(self) -> None:
        """Nothing was said."""
        self._said: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def unsaid(self, name: str, fields: Mapping[str, Any], now: float) -> int | None:
        """How many like this one were not written since the last; None: nor is this one.

        Alike are lines with all words the same; numbers (tries, what waits) may differ. What is said of one request
        is no outage, and always written.
        """
        if "error" not in fields or "request_id" in fields:
            return 0
        alike = name, *(item for item in fields.items() if isinstance(item[1], str))
        at, unsaid = self._said.pop(alike, (now - REPEAT_S, 0))
        again = now - at < REPEAT_S
        self._said[alike] = (at, unsaid + 1) if again else (now, 0)
        if len(self._said) > TROUBLES_MAX:
            self._said.popitem(last=False)
        return None if again else unsaid


_repeats = Repeats()


class _Lines(structlog.WriteLogger):
    """One write a line."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self.anew()

    def anew(self) -> None:
        """With a lock that nobody holds."""
        self._lock = threading.Lock()


_lines: WeakSet[_Lines] = WeakSet()


def _forked() -> None:
    """Where a thread was writing a line as this child was forked, the lock would be held here for ever."""
    for lines in _lines:
        lines.anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def write(name: str, level: int, fields: Mapping[str, Any]) -> None:
    """A line of this event, unless its level is below what is wanted, or a line like it was just written."""
    if level < _threshold:
        return
    unsaid = _repeats.unsaid(name, fields, time.monotonic())
    if unsaid is None:
        return
    line = {**fields, "repeated": unsaid} if unsaid else dict(fields)
    if isinstance(request_id := fields.get("request_id"), str):
        line.update(known(request_id, fields.get("endpoint")))
    told = {key: redact(key, value) for key, value in line.items() if value is not None}
    with suppress(OSError, ValueError):  # nobody reads stderr any more, or its disk is full: no thread may end of that
        _logger.log(level, name, **told)


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


def configure_logging(level: str = "info", *, as_json: bool = False) -> None:
    """What is written, and how: for people, or JSON for machines."""
    global _threshold  # noqa: PLW0603  (one setting of the process)
    _threshold = getattr(logging, level.upper())
    # Colours are for a terminal: in a file they are noise that no search finds its way through.
    colors = sys.stderr.isatty()
    lines = _Lines(sys.stderr)
    _lines.add(lines)
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colors)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_threshold),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
