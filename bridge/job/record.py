"""The ledger's row for one request, as a value: what it holds, and how it is spelled in Redis.

Every field of the row stays under 64 bytes, so that Redis keeps the row as one listpack
(`hash-max-listpack-value`); what may be longer lives under a second key (`Long`), outputs under a third.
Times are ledger time in milliseconds (I17); 0 means "never" or "none".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import compress
from operator import ne
from typing import Any

from bridge.job.enums import Phase, Sink, Status, Step


class Long(StrEnum):
    """The values of a request that may be long, in the hash beside the row."""

    INPUT = "input"  # JSON; dropped once it cannot be needed for another submit (I16)
    S3CONFIG = "s3"  # JSON; dropped at the first job id (I11)
    ARGUMENTS = "args"  # JSON: the rest of the request that is sent or told later
    METADATA = "meta"  # JSON object
    CANVAS = "canvas"  # JSON: what follows in Celery, and how to store the result
    JOBS = "jobs"  # JSON list, only once there is more than one job
    ERROR = "error"  # JSON
    PROGRESS = "progress"  # JSON
    WISHED = "wished"  # JSON {by, door}
    REPLY = "reply"  # JSON {to, on, via, correlation_id, also: [the same of who sent the request again]}
    CALLBACK = "callback"  # JSON list of {lane, host, url, events}: who is called back (`job/callback.py`)
    TRACE = "trace"  # W3C traceparent
    EVIDENCE = "evid"  # text: the job id that a callback named while the submit's answer was lost
    OUTPUT_REF = "oref"  # JSON {size, sha256, url} of an output over the inline limit; no url: only the ledger has it
    DENIED = "denied"  # JSON {reason, says}: why RunPod's side did not take the last submit
    LAST_FAULT = "fault"  # text: the last error of a finish or a claim
    UNREAD = "unread"  # text: why answers about the job cannot be read


def _text(short: str) -> str:
    return field(default="", metadata={"short": short})


def _number(short: str, default: int = 0) -> int:
    return field(default=default, metadata={"short": short})


@dataclass(frozen=True)
class Record:
    """One request. Built by accept, changed only through `transitions`, written only by the ledger.

    Without slots, so that a changed copy is one update of a dict: `dataclasses.replace` of so many fields was the
    largest single cost of a change (docs/performance.md).
    """

    id: str
    phase: Phase = field(default=Phase.ACCEPTED, metadata={"short": "ph"})
    version: int = _number("v")  # counts changes; a change is written only onto the version it was made from

    # Who asked what of whom
    endpoint: str = _text("ep")  # the endpoint's name
    endpoint_id: str = _text("ei")  # where the current job lives (I14)
    base_url: str = _text("bu")
    door: str = _text("do")  # celery | amqp | stream | http | cli
    fingerprint: str = _text("fp")
    replaces: str = _text("rp")  # id of the Celery task that has replaced itself by this request
    tenant: str = _text("tn")
    priority: int = _number("pr", 4)
    delivery: str = _text("dv")
    retries_left: int = _number("rl")
    sync_wait_ms: int = _number("sy")
    ttl_ms: int = _number("tl")  # RunPod's ttl as it is sent, or its default; 0 where none is known
    lane: str = _text("ln")  # "batch": RunPod's Batch API; "" is /run
    batch_id: str = _text("bi")  # the batch that its job is part of, from its submit on
    hook: str = _text("wh")  # the webhook token, 128 random bits in hex
    stream: int = _number("sm")
    chunks: int = _number("ck")  # recorded so far; the next one's index
    chunks_from: int = _number("cf")  # the first chunk of the current attempt
    chunk_bytes: int = _number("cb")  # of the recorded chunks, and what each costs beside
    reading: str = _text("rd")  # the reader of a /stream call under way (I13)
    page_part: str = _text("pp")  # the part of a page that was written last: a repeated write is known by it (I15)
    stream_done: int = _number("sd")
    drain_until: int = _number("tx")  # an end was seen: how long its last chunks are waited for
    drain_since: int = _number("tf")  # when it was seen
    silent: int = _number("si")  # Celery is told no state (ignore_result)
    whole_document: int = _number("wd")  # result="document"

    # What RunPod said
    status: str = field(default=Status.ACCEPTED.value, metadata={"short": "st"})
    job_id: str = _text("jb")
    attempt: int = _number("at", 1)
    delay_time: int = _number("dt", -1)
    execution_time: int = _number("et", -1)
    worker_id: str = _text("wk")
    platform_retries: int = _number("rs")

    # How it ended, or shall
    reason: str = _text("re")
    wish: str = _text("wi")

    # Clocks
    accepted_at: int = _number("ta")
    not_before: int = _number("nb")  # submitted no earlier; 0: at once
    sent_at: int = _number("ts")  # the last POST /run left
    submitted_at: int = _number("tb")
    started_at: int = _number("tr")
    ended_at: int = _number("te")
    observed_at: int = _number("to")  # the last answer about the job
    deadline: int = _number("td")
    queue_deadline: int = _number("tq")
    grace_until: int = _number("tg")
    unread_since: int = _number("un")  # the first answer about the job that could not be read, if none could since
    gone_at: int = _number("tz")  # the first 404 of the job, if nothing was heard since
    stuck_since: int = _number("ss")
    cancel_at: int = _number("tc")  # the next /cancel is not before
    retried_at: int = _number("ty")  # the last /retry left or was answered

    # Work
    due: str = _text("du")  # the due set it stands in, "" while leased or resting
    lease: str = _text("lt")
    lease_until: int = _number("le")
    timer: int = _number("tm")  # when the sweep must look at it
    claims: int = _number("cl")  # claims without a recorded change since (HARDENING 14)
    polls: int = _number("po")
    hint: int = _number("hn")  # somebody has called back while a read was under way: another follows at once
    hinted_at: int = _number("ha")  # when the last read that a callback asked for is or was due
    submits: int = _number("su")
    denials: int = _number("dn")  # submits in a row that were not taken, and that speak against this request alone
    denied_at: int = _number("da")  # the last submit that was not taken
    cancels: int = _number("cn")
    retry_calls: int = _number("rc")
    sequence: int = _number("sq")

    # The finish
    round: int = _number("ro", 1)
    nonce: str = _text("no")
    sinks: str = _text("sk")  # who is still to be told, comma between
    finish_sends: int = _number("fs")
    turns: int = _number("ft")
    turn: str = _text("tu")
    turn_until: int = _number("tt")
    continued: int = _number("co")  # the round whose link, chain and errbacks have been published

    # Marks
    possible_duplicate: int = _number("xd")
    may_run: int = _number("xr")
    output_missing: int = _number("xo")
    unread_told: int = _number("xu")  # callers and operators have been told of `unread_since`
    left_out: str = _text("lo")  # RunPod's members whose values cannot be, comma between
    nonfinite: int = _number("nf")  # NaN and infinities of the output, null in it
    stream_incomplete: int = _number("xs")
    stored: int = _number("xb")  # the object store has the output (OUTPUT_REF): the ledger's copy goes when it closes
    chunks_untold: int = _number("xc")  # chunks that no event tells: they are over the ceiling
    stream_repaired: int = _number("xf", -1)  # chunks filled in from the aggregate; -1: could not be compared
    parked: int = _number("xp")

    @property
    def waiting_sinks(self) -> frozenset[Sink]:
        """Who is still to be told of the end."""
        return frozenset(Sink(name) for name in self.sinks.split(",") if name)

    @property
    def step(self) -> Step | None:
        """The due set this record stands in, None while it is leased or rests."""
        return Step(self.due) if self.due else None

    def leased_by(self, token: str, now: int) -> bool:
        """Whether this token still holds the right to work on the record."""
        return self.lease == token and self.lease_until > now


_CODECS: dict[str, tuple[str, Callable[[str], Any], Any]] = {
    f.name: (
        f.metadata["short"],
        int if isinstance(f.default, int) else (Phase if f.name == "phase" else str),
        f.default,
    )
    for f in fields(Record)
    if f.name != "id"
}
_BY_SHORT = {short: (name, read) for name, (short, read, _) in _CODECS.items()}
assert len(_BY_SHORT) == len(_CODECS), "two fields share a short name"  # noqa: S101
#: Of the row, the scripts' own: the token of the last change (`lua/commit.lua`).
CHANGE_TOKEN = "tk"  # noqa: S105
assert CHANGE_TOKEN not in _BY_SHORT, "a field would be taken for the token"  # noqa: S101


_DEFAULTS: dict[str, Any] = {name: default for name, (_, _, default) in _CODECS.items()}
_BLANK: dict[str, Any] = {"id": "", **_DEFAULTS}
assert list(_BLANK) == [f.name for f in fields(Record)], "`id` comes first"  # noqa: S101


def _made(values: dict[str, Any]) -> Record:
    """The values become the record's own, without a copy."""
    record = object.__new__(Record)
    object.__setattr__(record, "__dict__", values)
    return record


def altered(record: Record, **values: Any) -> Record:
    """A copy with other values."""
    return _made({**record.__dict__, **values})


def from_row(request_id: str, row: Mapping[str, str]) -> Record:
    """Read a row. Raises ValueError naming the field when somebody has edited it into nonsense."""
    values = {"id": request_id, **_DEFAULTS}
    for short, text in row.items():
        known = _BY_SHORT.get(short)
        if known is None:  # a field of a newer version: kept in Redis, ignored here
            continue
        name, read = known
        try:
            values[name] = read(text)
        except ValueError:
            fault = f"record {request_id}: field {name} ({short}) holds {text[:40]!r}"
            raise ValueError(fault) from None
    return _made(values)


def difference(old: Record | None, new: Record) -> tuple[list[str], list[str]]:
    """What to write to turn `old` into `new`: flat (field, value) pairs to set, and fields to delete.

    `version` is left to the script that writes.
    """
    put: list[str] = []
    drop: list[str] = []
    values = new.__dict__
    before = _BLANK if old is None else old.__dict__
    # Every record has its fields in the order of the class: the two are compared side by side, by no loop of ours.
    for name in compress(values, map(ne, values.values(), before.values())):
        if name in _NOT_WRITTEN:
            continue
        value = values[name]
        short, _, default = _CODECS[name]
        if value == default and name != "phase":
            drop.append(short)
        else:
            put += (short, str(value))
    if old is None and "ph" not in put[::2]:
        put += ("ph", new.phase.value)
    return put, drop


_NOT_WRITTEN = frozenset({"id", "version"})


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dumps(value: object) -> str:
    """JSON as the ledger keeps it: compact UTF-8, and always readable by a strict parser.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    text = _ENCODER.encode(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: legal in a JSON escape, not in UTF-8
            return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text
