"""What a caller may ask: the arguments of `bridge.run`, checked whole before the ledger hears of them.

Limits named RunPod's are from its endpoint documentation (`serverless/endpoints/send-requests`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bridge.errors import JobRejected
from bridge.job.callback import EVENT_NAMES, Callback
from bridge.job.enums import Reason
from bridge.job.record import dumps
from bridge.validation import rule

#: Milliseconds. RunPod refuses less (documented minimums); ours keeps seconds from being taken for them.
MIN_EXECUTION_TIMEOUT_MS = 5_000
MIN_TTL_MS = 10_000
MIN_TIMEOUT_MS = 1_000
MAX_POLICY_MS = 7 * 24 * 3_600_000
#: Bytes. RunPod answers 400 above these.
RUN_BODY_MAX = 10 * 1024 * 1024
RUNSYNC_BODY_MAX = 20 * 1024 * 1024
#: How the body of a submit begins; the input follows, then the rest.
BODY_START = '{"input":'
#: RunPod's `wait` of /runsync, milliseconds.
SYNC_WAIT_MIN_MS, SYNC_WAIT_MAX_MS = 1_000, 300_000

STRANGE_NAME = "a name in it is no text"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,200}")
ENDPOINT = re.compile(r"[A-Za-z0-9_\-]{1,64}")
#: A `metadata.tenant` that counts as one: it becomes a label and a key.
TENANT = re.compile(r"[A-Za-z0-9_.\-]{1,40}")
METADATA_KEYS_MAX, METADATA_VALUE_MAX = 32, 256
#: Characters of a field's name that a refusal repeats.
FIELD_NAME_MAX = 100

#: Names that are promised for later. Refused by name today, so that they can be added without changing a meaning.
RESERVED = frozenset({"fallback", "canary", "rerun"})

#: What `retries` covers unless `retry_on` says otherwise. An execution timeout would most likely time out again.
DEFAULT_RETRY_ON = (Reason.HANDLER_ERROR, Reason.WORKER_LOST, Reason.TTL_EXPIRED)

#: Milliseconds. A request may be scheduled so far ahead; and epoch times below the second are seconds by mistake.
SCHEDULE_MAX_MS = 366 * 24 * 3_600_000
EPOCH_MS_MIN = 10**11

ReplyOn = Literal["accepted", "submitted", "started", "progress", "chunk", "end"]

_MILLISECONDS = "milliseconds: 600 is 0.6 s"


def _at_least(minimum: int) -> AfterValidator:
    def check(value: int) -> int:
        if value < minimum:
            rule = f"must be at least {minimum} ({_MILLISECONDS})"
            raise ValueError(rule)
        return value

    return AfterValidator(check)


class Model(BaseModel):
    """Strict: a string is no number, an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Policy(Model):
    """RunPod's execution policy, in RunPod's names and milliseconds."""

    executionTimeout: Annotated[int, _at_least(MIN_EXECUTION_TIMEOUT_MS)] | None = None
    ttl: Annotated[int, _at_least(MIN_TTL_MS)] | None = None
    lowPriority: bool | None = None

    @field_validator("executionTimeout", "ttl")
    @classmethod
    def _not_over_a_week(cls, value: int | None) -> int | None:
        if value is not None and value > MAX_POLICY_MS:
            rule = f"must be at most {MAX_POLICY_MS} (7 days, RunPod's limit)"
            raise ValueError(rule)
        return value


class S3Config(Model):
    """Handed to the RunPod worker as it is; RunPod itself uploads nothing."""

    accessId: str
    accessSecret: str
    bucketName: str
    endpointUrl: str


Scalar = str | int | float | bool | None


class RunRequest(Model):
    """The arguments of `bridge.run`; also the body of a JSON request beside `id` and `correlation_id`."""

    input: dict[str, Any]
    endpoint: str | None = None
    policy: Policy = Policy()
    timeout: Annotated[int, _at_least(MIN_TIMEOUT_MS)] | None = None
    queue_timeout: Annotated[int, _at_least(MIN_TIMEOUT_MS)] | None = None
    stream: bool = False
    sync: bool | int = False
    delivery: Literal["at_least_once", "at_most_once"] | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_on: tuple[str, ...] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 4
    s3Config: S3Config | str | None = None
    reply_to: str | None = None
    reply_on: tuple[ReplyOn, ...] | None = None
    result: Literal["output", "document"] = "output"
    metadata: dict[str, Scalar] = {}
    not_before: int | str | None = None
    lane: Literal["batch"] | None = None
    callback: Callback | None = None

    @model_validator(mode="before")
    @classmethod
    def _reserved_and_lists(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        for name in RESERVED & data.keys():
            rule = f"{name}: not yet: the name is reserved for a later version"
            raise ValueError(rule)
        # JSON has lists where the frozen model has tuples.
        return {k: tuple(v) if k in {"retry_on", "reply_on"} and isinstance(v, list) else v for k, v in data.items()}

    @field_validator("input")
    @classmethod
    def _input_not_empty(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            # Accepted by /run, dropped on the way, and ended FAILED by a retry that nobody asked for.
            rule = "must not be empty: RunPod drops an empty input and fails the job after a retry"
            raise ValueError(rule)
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint_well_formed(cls, value: str | None) -> str | None:
        if value is not None and not ENDPOINT.fullmatch(value):
            rule = "must be 1 to 64 of A-Z a-z 0-9 _ -"
            raise ValueError(rule)
        return value

    @field_validator("sync")
    @classmethod
    def _sync_in_range(cls, value: bool | int) -> bool | int:
        if not isinstance(value, bool) and not SYNC_WAIT_MIN_MS <= value <= SYNC_WAIT_MAX_MS:
            rule = f"must be true, false or {SYNC_WAIT_MIN_MS} to {SYNC_WAIT_MAX_MS} ({_MILLISECONDS})"
            raise ValueError(rule)
        return value

    @field_validator("retry_on")
    @classmethod
    def _retry_on_known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        allowed = {*DEFAULT_RETRY_ON, Reason.EXECUTION_TIMEOUT}
        for word in value or ():
            if word not in allowed:
                rule = f"{word!r} is not one of {', '.join(sorted(allowed))}"
                raise ValueError(rule)
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_small(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        if len(value) > METADATA_KEYS_MAX:
            rule = f"must have at most {METADATA_KEYS_MAX} keys"
            raise ValueError(rule)
        for key, item in value.items():
            if len(key) > METADATA_VALUE_MAX or (isinstance(item, str) and len(item) > METADATA_VALUE_MAX):
                rule = f"keys and values must be at most {METADATA_VALUE_MAX} characters: {key[:40]!r}"
                raise ValueError(rule)
        return value

    @field_validator("not_before")
    @classmethod
    def _not_before_is_a_time(cls, value: int | str | None) -> int | str | None:
        if value is not None:
            epoch_ms_of(value)
        return value

    @model_validator(mode="after")
    def _batch_lane_alone(self) -> Self:
        for name, given in (("sync", self.sync is not False), ("stream", self.stream), ("retries", self.retries)):
            if self.lane and given:
                rule = f"{name}: not with lane batch: RunPod's Batch API has no such operation"
                raise ValueError(rule)
        return self

    @property
    def not_before_ms(self) -> int:
        """The time before which it is not submitted, as epoch milliseconds; 0 for none."""
        return epoch_ms_of(self.not_before) if self.not_before is not None else 0

    @property
    def sync_wait_ms(self) -> int | None:
        """RunPod's `wait` for /runsync; None asks for /run."""
        if self.sync is False:
            return None
        return SYNC_WAIT_MIN_MS if self.sync is True else int(self.sync)


def epoch_ms_of(moment: int | str) -> int:
    """Epoch milliseconds of an RFC 3339 time with its offset, or of epoch milliseconds. Raises ValueError."""
    if isinstance(moment, bool) or (isinstance(moment, int) and not EPOCH_MS_MIN <= moment < 10**14):
        rule = "must be epoch milliseconds (13 digits; seconds are not taken), or an RFC 3339 time"
        raise ValueError(rule)
    if isinstance(moment, int):
        return moment
    found = None
    with suppress(ValueError):
        found = datetime.fromisoformat(moment.upper())  # RFC 3339 takes "t" and "z" too
    if found is None or found.tzinfo is None or "T" not in moment.upper():
        rule = "must be an RFC 3339 time with its offset, as 2026-12-24T18:00:00Z, or epoch milliseconds"
        raise ValueError(rule)
    return int(found.timestamp() * 1000)


def parse_run(arguments: Mapping[str, Any]) -> RunRequest:
    """Check the arguments of `bridge.run`.

    Raises JobRejected whose message names each field and rule, with `reason` and `field` in its document.
    """
    try:
        request = RunRequest.model_validate(dict(arguments))
        text = json.dumps(request.input, allow_nan=False)
    except ValidationError as error:
        raise rejected(*explain(error)) from None
    except (ValueError, TypeError, RecursionError) as error:
        strange = isinstance(error, TypeError) and "keys must be" in str(error)
        said = STRANGE_NAME if strange else f"cannot be sent as JSON: {error}"
        if "is not JSON serializable" in said:  # of a type that Celery's JSON carries, and RunPod's cannot
            said += "; send it as text or a number"
        raise rejected("input", f"input: {said}") from None
    if len(text) > RUN_BODY_MAX:  # escapes make it longer than what is sent
        check_body(dumps(request.input), "", sync=request.sync_wait_ms is not None)
    return request


def rest_of_body(policy: Mapping[str, Any] | None, s3_config: Any, callback: str | None) -> str:
    """What a submit says beside the input, as the JSON of an object; "" for nothing."""
    rest = {"policy": policy, "s3Config": s3_config, "webhook": callback}
    rest = {name: value for name, value in rest.items() if value}
    return dumps(rest) if rest else ""


def callback_url(base: str, request_id: str, token: str) -> str:
    """Where RunPod calls back for a request."""
    return f"{base}/webhooks/runpod/{request_id}/{token}"


def check_body(input_text: str, rest: str, *, sync: bool) -> None:
    """Refuse what RunPod would not take for its size. Raises JobRejected.

    `input_text` is the input as JSON; `rest`, that of an object with all that is sent beside it ("" for nothing).
    """
    limit = RUNSYNC_BODY_MAX if sync else RUN_BODY_MAX
    if 4 * (len(input_text) + len(rest)) <= limit:  # UTF-8 has at most four bytes for a character
        return
    size = len(BODY_START) + len(input_text.encode()) + (len(rest.encode()) if rest else 1)
    if size > limit:
        raise rejected("input", too_large(size, limit))


def too_large(size: int, limit: int) -> str:
    """The sentence that says so."""
    return f"input: the request is {size} bytes; RunPod takes at most {limit}"


#: What an argument must be, where the kind of its fault does not say it whole.
_TIME = "must be a whole number of milliseconds"
_RULES: Mapping[str, str] = {
    "policy": "must be an object of executionTimeout, ttl and lowPriority",
    "policy.executionTimeout": _TIME,
    "policy.ttl": _TIME,
    "timeout": _TIME,
    "queue_timeout": _TIME,
    "sync": f"must be true, false or milliseconds, {SYNC_WAIT_MIN_MS} to {SYNC_WAIT_MAX_MS}",
    "delivery": "must be at_least_once or at_most_once",
    "retries": "must be a whole number, 0 to 100",
    "retry_on": f"must be a list of {', '.join(sorted({*DEFAULT_RETRY_ON, Reason.EXECUTION_TIMEOUT}))}",
    "priority": "must be a whole number, 0 to 9",
    "s3Config": "must be an object of accessId, accessSecret, bucketName and endpointUrl, or the name of one",
    "reply_on": f"must be a list of {', '.join(get_args(ReplyOn))}",
    "result": "must be output or document",
    "lane": "must be batch, or left out",
    "metadata.*": "must be a string, a number, true, false or null",
    "callback": "must be an object of url and events",
    "callback.url": "must be an address that begins with https://",
    "callback.events": f"must be a list of {', '.join(EVENT_NAMES)}",
    "not_before": "must be an RFC 3339 time with its offset, as 2026-12-24T18:00:00Z, or epoch milliseconds",
}


def explain(error: ValidationError) -> tuple[str, str]:
    """The first field at fault, and every fault in one line: `policy.ttl: must be at least ...`."""
    faults: dict[str, str] = {}
    for fault in error.errors(include_url=False, include_input=False):
        field, said = _field_of(fault["loc"]), rule(fault, mapping="an object")
        if fault["type"] == "extra_forbidden":
            said = f"unknown argument{_near(field)}"
        elif not field:  # of the whole: the sentence begins with its field
            field, _, said = said.partition(": ")
        elif fault["type"] not in {"value_error", "missing"}:
            said = _RULES.get(field) or _RULES.get(re.sub(r"\..*", ".*", field), said)
        faults.setdefault(field, said)
    told = {name: said for name, said in faults.items() if not any(other.startswith(f"{name}.") for other in faults)}
    return next(iter(told)), "; ".join(f"{name}: {said}" for name, said in told.items())


def _near(field: str) -> str:
    """`; is it metadata?` of one that is misspelt."""
    head, dot, name = field.rpartition(".")
    named = {"": RunRequest.model_fields, "policy": Policy.model_fields}.get(head, {})
    near = get_close_matches(name, named, n=1, cutoff=0.75)
    return f"; is it {head}{dot}{near[0]}?" if near else ""


def _field_of(place: tuple[int | str, ...]) -> str:
    """The argument, and which part of it where it has named parts; not the item of a list, nor a kind of a union."""
    if not place:
        return ""
    field, *inside = map(str, place)
    if field == "s3Config" and inside:
        inside = inside[1:]
    if field in {"policy", "s3Config", "metadata", "callback"} and inside:
        field = f"{field}.{inside[0]}"
    return field[:FIELD_NAME_MAX]


def rejected(field: str, message: str, **extra: Any) -> JobRejected:
    """A refusal that names the field at fault, for a caller who never gets a record."""
    return JobRejected(message, {"status": "REJECTED", "reason": Reason.REJECTED.value, "field": field, **extra})


def check_request_id(value: object) -> str:
    """The id as given, or JobRejected with the rule."""
    if not isinstance(value, str) or not REQUEST_ID.fullmatch(value):
        raise rejected("id", "id: must be 1 to 200 of A-Z a-z 0-9 . _ : -")
    return value


def fingerprint(endpoint: str, request: RunRequest) -> str:
    """What makes two requests of one id the same: endpoint, input and policy (16 hex of SHA-256)."""
    said = json.dumps(
        [endpoint, request.input, request.policy.model_dump(exclude_none=True)], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(said.encode()).hexdigest()[:16]
