"""What an answer of RunPod means: one table of (operation, code, kind of body), and nowhere else.

Between the bridge and RunPod stand gateways, firewalls and proxies that answer in its place, so each code may come with
any body. Facts: RunPod's errors are problem-style JSON, some are plain text or empty; a gateway's are HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from bridge.job.lenient_json import read_json
from bridge.runpod.operations import Operation

JOB_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,200}")


class Body(StrEnum):
    """The kinds of bodies that mean different things."""

    ANSWER = "answer"  # what the operation asks for: for a submit an id, for a job's its status
    JSON = "json"  # any other JSON
    ENDPOINT = "endpoint"  # JSON or text that speaks of the endpoint
    HTML = "html"
    TEXT = "text"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    CUT = "cut"  # the connection, or the time for it, ended before the body did


class Meaning(StrEnum):
    """What the caller is told; `client.py` has an error for each but the first."""

    ANSWER = "answer"
    UNANSWERED = "unanswered"  # it may have been done
    THROTTLED = "throttled"
    REFUSED = "refused"  # this call is wrong
    JOB_UNKNOWN = "job_unknown"
    # Of the endpoint, unless everybody else gets through
    ENDPOINT_UNKNOWN = "endpoint_unknown"
    REDIRECTED = "redirected"
    UNAUTHORISED = "unauthorised"
    OUT_OF_CREDIT = "out_of_credit"
    FORBIDDEN = "forbidden"
    PAUSED = "paused"


class Row(NamedTuple):
    """One row; the first that fits counts."""

    operations: Container[Operation]
    codes: Container[int]
    bodies: Container[Body]
    meaning: Meaning


_ALL: Final = frozenset(Operation)
SUBMITS: Final = frozenset({Operation.RUN, Operation.RUNSYNC})
OF_A_JOB: Final = frozenset({Operation.STATUS, Operation.STREAM, Operation.CANCEL, Operation.RETRY})
_ANY: Final = frozenset(Body)
#: Operations that name something which RunPod may not know; of the Batch API also whether there is one.
NAMES_SOMETHING: Final = OF_A_JOB | {Operation.BATCH}
#: Codes that a submit may hear from RunPod itself when it does not take it (facts, section 5); all others are foreign.
_RUNPODS: Final = frozenset({400, 401, 402, 403, 409, 422})

ROWS: Final = (
    Row(_ALL, range(200, 300), {Body.ANSWER}, Meaning.ANSWER),
    Row(_ALL, range(200, 300), _ANY, Meaning.UNANSWERED),  # a submit may have been accepted
    Row(_ALL, {301, 302, 307, 308}, _ANY, Meaning.REDIRECTED),
    Row(_ALL, {401}, _ANY, Meaning.UNAUTHORISED),
    Row(_ALL, {402}, _ANY, Meaning.OUT_OF_CREDIT),
    Row(_ALL, {403}, _ANY, Meaning.FORBIDDEN),
    Row(_ALL, {404}, {Body.ENDPOINT}, Meaning.ENDPOINT_UNKNOWN),
    Row(NAMES_SOMETHING, {404}, {Body.HTML}, Meaning.UNANSWERED),  # no word of RunPod's about the job
    Row(NAMES_SOMETHING, {404}, _ANY, Meaning.JOB_UNKNOWN),
    Row(_ALL, {404}, _ANY, Meaning.ENDPOINT_UNKNOWN),  # no job was named: it can only be the endpoint's
    Row(_ALL, {408}, _ANY, Meaning.UNANSWERED),
    Row(SUBMITS, {409}, _ANY, Meaning.PAUSED),
    Row(_ALL, {429}, _ANY, Meaning.THROTTLED),
    Row(_ALL - SUBMITS, range(400, 500), {Body.HTML}, Meaning.UNANSWERED),
    Row(_ALL, range(400, 500), _ANY, Meaning.REFUSED),
    Row(_ALL, range(1000), _ANY, Meaning.UNANSWERED),  # 5xx above all: a gateway gave up on what RunPod may have done
)


#: Answers that may be a bare array, and the member that it stands for: today's docs show one of /stream, where every
#: SDK reads an object; nothing shows how batches are listed.
LISTS = {Operation.STREAM: "stream", Operation.BATCH: "batches"}


def meaning_of(op: Operation, code: int, body: Body) -> Meaning:
    """The cell of the table."""
    return next(row.meaning for row in ROWS if op in row.operations and code in row.codes and body in row.bodies)


def foreign(op: Operation, code: int, body: Body) -> bool:
    """Whether what a submit was answered is none of RunPod's own refusals: a firewall's page, a proxy's limit."""
    told = meaning_of(op, code, body)
    if op not in SUBMITS or told in {Meaning.ANSWER, Meaning.UNANSWERED, Meaning.THROTTLED}:
        return False
    return body is Body.HTML or (code not in _RUNPODS and body is not Body.ENDPOINT)


def body_of(op: Operation, code: int, text: bytes) -> tuple[Body, Any]:
    """The kind of a whole body, and what it holds: parsed JSON, else a sentence of why it is none."""
    if not text.strip():
        return Body.EMPTY, "is empty"
    try:
        told = read_json(text)
    except ValueError as error:
        plain = text.decode(errors="replace").strip()
        kind = Body.HTML if plain.startswith("<") else Body.ENDPOINT if "endpoint" in plain.lower() else Body.TEXT
        return kind, str(error)
    if code >= 300:  # noqa: PLR2004
        return (Body.ENDPOINT if "endpoint" in sentence_of(text).lower() else Body.JSON), told
    fault = _fault_of(op, told)
    return (Body.JSON, fault) if fault else (Body.ANSWER, told)


def _fault_of(op: Operation, told: Any) -> str:
    """Why this JSON is no answer to the operation; "" when it is one."""
    if op in LISTS and isinstance(told, list):
        return ""
    if not isinstance(told, Mapping):
        return f"is no object: {type(told).__name__}"
    if op in {Operation.STREAM, Operation.PURGE, Operation.HEALTH, Operation.BATCH}:
        return ""
    job_id, status = told.get("id"), told.get("status")
    known = isinstance(job_id, str) and job_id != "" if op in SUBMITS else isinstance(status, str) and status != ""
    if not known:
        said = told.get("error") or ("no id" if op in SUBMITS else "no status")
        return f"describes no job: {str(said)[:200]}"
    if job_id and not (isinstance(job_id, str) and JOB_ID.fullmatch(job_id)):
        return f"names a job id that fits no URL: {str(job_id)[:80]!r}"
    return ""


def sentence_of(text: bytes) -> str:
    """The sentence of an error body, whatever its form; at most 300 characters, never HTML."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        plain = text.decode(errors="replace").strip()
        return "" if plain.startswith("<") else plain[:300]
    if isinstance(told, dict):
        for name in ("detail", "title", "error", "message"):
            if told.get(name):
                return str(told[name])[:300]
    return str(told)[:300] if told else ""


_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.IGNORECASE | re.DOTALL)


def words_of(text: bytes) -> str:
    """What a page says to people, at most 300 characters; of anything else its sentence."""
    found = sentence_of(text)
    if not found:
        found = " ".join(_UNSEEN.sub(" ", text[:65_536].decode(errors="replace")).split())
    return found[:300]
