"""What Celery, kombu, uvicorn and others log in our processes: in our form, and without what messages hold (I11).

Libraries log what they work on: bodies, headers, arguments, results. Of each of their lines only plain words and
numbers come through. `BRIDGE_LOG_JSON` makes every line one JSON object: theirs, warnings, tracebacks, and what ends a
thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog

from bridge.errors import JobError
from bridge.telemetry import redact
from bridge.telemetry.logs import known

#: Characters of a text that may be a name or a sentence, and is no payload yet.
_TEXT_MAX = 200
_VEIL = "(...)"
#: Beginnings of lines whose texts are representations of messages, however short.
_PRINTED = ("TaskPool: Apply", "pidbox received", "Cannot process event", "Could not restore", "Got unexpected")
#: Of the context of a task's line.
_CONTENT = frozenset({"args", "kwargs", "return_value", "eta"})
#: Tasks whose ids are those of requests.
_REQUESTS = frozenset({"bridge.run", "bridge.finish"})
#: How a job ended: its text is the handler's, which may quote the input. The request's own events tell it.
_JOB = re.compile(r"(JobFailed|JobTimedOut|JobLost|ResultUndeliverable)\(.*", re.DOTALL)


class Discreet(logging.Filter):
    """Veils what a library's line says of a message. Lines of the bridge's own pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """The line is told, without content; a failed job's only where lines of INFO are."""
        if record.name == "bridge" or record.name.startswith("bridge."):
            return True
        if record.exc_info and isinstance(record.exc_info[1], JobError):
            # A job that has failed is no fault of the worker's, and the traceback would be of the bridge's own `raise`.
            record.levelno, record.levelname, record.exc_info, record.exc_text = logging.INFO, "INFO", None, None
            if isinstance(record.args, Mapping):
                record.args = {**record.args, "description": "raised expected"}
            if not logging.getLogger(record.name).isEnabledFor(logging.INFO):
                return False
        printed = str(record.msg).startswith(_PRINTED)
        if isinstance(record.args, Mapping):
            record.args = {k: _VEIL if k in _CONTENT else _veiled(v, printed=printed) for k, v in record.args.items()}
        elif record.args:
            record.args = tuple(_veiled(value, printed=printed) for value in record.args)
        data = record.__dict__.get("data")
        if isinstance(data, Mapping):  # Celery's, for handlers that show more than the line
            record.__dict__["data"] = {k: v if k in {"id", "name"} else _VEIL for k, v in data.items()}
        return True


def _veiled(value: Any, *, printed: bool) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        text = _JOB.sub(r"\1", value)
        return _VEIL if printed or len(text) > _TEXT_MAX else redact("", text)
    if isinstance(value, Mapping | list | tuple | set | frozenset | bytes | bytearray | memoryview):
        return _VEIL
    if isinstance(value, BaseException) and len(str(value)) > _TEXT_MAX:
        return type(value).__name__
    return value


def configure(*, as_json: bool) -> None:
    """See to all handlers there are; in JSON to one on the root too, to warnings, and to what nobody catches.

    To be called again when somebody has added handlers.
    """
    root = logging.getLogger()
    if as_json and not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
    found = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    for handler in {handler for logger in found for handler in logger.handlers}:
        if not any(isinstance(each, Discreet) for each in handler.filters):
            handler.addFilter(Discreet())
        if as_json:
            handler.setFormatter(_json_lines())
    if as_json:
        logging.captureWarnings(True)
        sys.excepthook = _uncaught
        sys.unraisablehook = _ignored
        threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _json_lines() -> logging.Formatter:
    """One object a line, with the names of the bridge's own lines."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _about,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


def _about(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Which request a line of Celery's about a task is of."""
    data = getattr(line.get("_record"), "data", None)
    if isinstance(data, Mapping) and data.get("name") in _REQUESTS and isinstance(data.get("id"), str):
        about = {"request_id": data["id"], **known(data["id"])}
        line.update({name: value for name, value in about.items() if value is not None})
    return line


def write_line(event: str, level: str, logger: str, descriptor: int = 2, **more: str) -> None:
    """One line past all locks and buffers: for handlers of signals, and for an interpreter that ends."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"event": event, "level": level, "logger": logger, "timestamp": now, **more}
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(line).encode() + b"\n")


def _ignored(args: Any) -> None:
    """What the interpreter ignores, mostly as it ends."""
    told = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    write_line(f"ignored {args.exc_type.__name__}", "warning", "python", exception=told)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    logging.getLogger("python").critical("nobody caught %s", kind.__name__, exc_info=(kind, error or kind(), trace))
