"""Answers as RunPod's HTTP front gives them: JSON documents, problem-style errors, an empty 429."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from bridge.emulator.config import MIB

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False, allow_nan=False).encode

JSON, TEXT, HTML, EVENTS = b"application/json", b"text/plain; charset=utf-8", b"text/html", b"text/event-stream"


class Answer(NamedTuple):
    """One HTTP answer."""

    code: int
    body: bytes = b""
    kind: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    #: The job that the call made, for the record of calls.
    job_id: str | None = None


def encode(value: Any) -> bytes:
    """Return `value` as JSON, which has no NaN and no Infinity: null stands there.

    Half a surrogate pair, which no UTF-8 can hold, stays the escape that it came as.
    """
    try:
        text = _encode(value)
    except ValueError:
        text = _encode(_finite(value))
    return text.encode(errors="backslashreplace")


def decode(body: bytes) -> Any:
    """Return the value of a JSON text; ValueError for what is none, `NaN` and `Infinity` included."""
    try:
        return json.loads(body, parse_constant=_no_json)
    except RecursionError:
        raise ValueError("too deep") from None


def document(value: Any, code: int = 200) -> Answer:
    """Answer with a JSON document."""
    return Answer(code, encode(value))


def problem(code: int, title: str, detail: str) -> Answer:
    """Answer with an error in RunPod's problem style."""
    return document({"status": code, "title": title, "detail": detail}, code)


def bad_request(what: str) -> Answer:
    """Answer 400, in the words of live captures: `bad request: body: ...`."""
    return problem(400, "Bad Request", f"bad request: {what}")


def too_large(limit: int) -> Answer:
    """Answer a body over `limit` bytes: 400, not 413, as live."""
    return bad_request(f"body: exceeded max body size of {limit / MIB:g}MiB")


def throttled(retry_after: float | None = None) -> Answer:
    """Answer 429: text/plain and empty; the header only where it is asked for."""
    headers = () if retry_after is None else ((b"retry-after", b"%d" % max(0, round(retry_after))),)
    return Answer(429, b"", TEXT, headers)


JOB_NOT_FOUND = problem(404, "Not Found", "job not found")
ENDPOINT_NOT_FOUND = problem(404, "Not Found", "endpoint not found")
NOT_FOUND = problem(404, "Not Found", "not found")
NOT_ALLOWED = problem(405, "Method Not Allowed", "method not allowed")
OUT_OF_CREDIT = problem(402, "Insufficient Balance", "insufficient balance")
FORBIDDEN = problem(403, "Forbidden", "forbidden")
SERVER_ERROR = problem(500, "Internal Server Error", "worker may have crashed")
EMULATOR_ERROR = problem(500, "Internal Server Error", "the emulator itself failed: see its stderr")
BAD_GATEWAY = Answer(502, b"<html><head><title>502 Bad Gateway</title></head></html>", HTML)
HTML_PAGE = Answer(200, b"<!DOCTYPE html><html><body>Just a moment...</body></html>", HTML)
#: Nothing to send: the answer was streamed already.
RELAYED = Answer(200)


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
