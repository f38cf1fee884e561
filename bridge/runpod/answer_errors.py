"""The error of an answer other than the one that was asked for (`meaning.py` says what each means)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from bridge.errors import (
    ApiError,
    EndpointPaused,
    EndpointTrouble,
    EndpointUnknown,
    Forbidden,
    JobUnknown,
    OutOfCredit,
    Refused,
    Throttled,
    Unanswered,
    Unauthorised,
)
from bridge.runpod.http.exchange import Answer
from bridge.runpod.meaning import SUBMITS, Body, Meaning, foreign, meaning_of, sentence_of, words_of
from bridge.runpod.operations import Operation
from bridge.telemetry import blotted

#: Seconds of a Retry-After that are believed at most. RunPod's windows are ten seconds. A slip in a header must stop
#: neither submits for an hour nor reads until results are forgotten (30 minutes, one of /runsync).
LONGEST_PAUSE_S, LONGEST_PAUSE_OF_READS_S = 60.0, 10.0
#: How the key is set, for who reads that it is wrong.
KEY = "the key (RUNPOD_API_KEY, or the endpoint's api_key_file)"
#: The error of each meaning, and what to say when the body says nothing.
_ERRORS: Mapping[Meaning, tuple[type[ApiError], str]] = {
    Meaning.UNANSWERED: (Unanswered, ""),
    Meaning.REFUSED: (Refused, ""),
    Meaning.JOB_UNKNOWN: (JobUnknown, "job not found"),
    Meaning.ENDPOINT_UNKNOWN: (EndpointUnknown, "endpoint not found"),
    Meaning.REDIRECTED: (EndpointTrouble, ""),
    Meaning.UNAUTHORISED: (Unauthorised, f"{KEY} is missing or wrong"),
    Meaning.OUT_OF_CREDIT: (OutOfCredit, "the balance is used up"),
    Meaning.FORBIDDEN: (Forbidden, f"{KEY} may not use this endpoint"),
    Meaning.PAUSED: (EndpointPaused, "the endpoint takes no jobs now"),
}


def error_of(op: Operation, answer: Answer, body: Body, text: bytes) -> ApiError:
    """The error of an answer other than the one that was asked for. `text` holds no key any more."""
    code, said, meaning = answer.status, sentence_of(text), meaning_of(op, answer.status, body)
    means = ""
    error: ApiError
    if meaning is Meaning.THROTTLED:
        longest_s = LONGEST_PAUSE_S if op in SUBMITS else LONGEST_PAUSE_OF_READS_S
        error = Throttled(said or "too many requests", code, _retry_after(answer.headers, longest_s))
    elif meaning is Meaning.REDIRECTED:
        where = str(answer.headers.get("location", "nowhere")).split("?", maxsplit=1)[0][:200]
        error = EndpointTrouble(f"redirected to {where}, not followed: correct RUNPOD_ENDPOINT_BASE_URL", code)
    else:
        kind, means = _ERRORS[meaning]
        if kind in {Unauthorised, Forbidden}:  # RunPod's sentence cannot know where our key comes from
            said = f"{means} (RunPod: {said or code})"
        elif kind is Unanswered:
            said = f"HTTP {code}{': ' + said if said else ''}"
        error = kind(said or means or f"HTTP {code}", code)
    if op in SUBMITS:
        error.foreign = foreign(op, code, body)
        words = str(blotted(words_of(text))) or means
        page = " and a page of HTML" if body is Body.HTML else ""
        error.answered = f"HTTP {code}{page}{': ' + words if words else ''}"
    return error


def _retry_after(headers: Mapping[str, str], longest_s: float) -> float | None:
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        delay = float(value)
    except ValueError:
        try:
            delay = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(delay) else min(max(0.0, delay), longest_s)


def without_key(text: bytes, headers: Mapping[str, str]) -> bytes:
    """An error body without our key, should it be echoed (I11)."""
    return text.replace(headers["Authorization"].removeprefix("Bearer ").encode(), b"***")
