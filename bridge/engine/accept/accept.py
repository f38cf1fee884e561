"""Takes a request into the ledger. Called by every door; never calls RunPod (HARDENING 12)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.callbacks.addresses import Addresses
from bridge.engine.accept.repeated import call_again, too_many
from bridge.errors import JobRejected
from bridge.job.callback import Callback
from bridge.job.document import Held
from bridge.job.enums import Phase, Reason, Sink
from bridge.job.record import Long, Record, altered, dumps
from bridge.job.request import (
    MAX_POLICY_MS,
    SCHEDULE_MAX_MS,
    TENANT,
    RunRequest,
    callback_url,
    check_body,
    check_request_id,
    fingerprint,
    parse_run,
    rejected,
    rest_of_body,
)
from bridge.ledger import Accepted
from bridge.settings.callbacks import allowed_of
from bridge.telemetry import tell
from bridge.telemetry.logs import know

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.ledger import Ledger
    from bridge.ledger.records.write import Build
    from bridge.settings import Settings
    from bridge.settings.config_file import Endpoint, EndpointBook

#: RunPod's ttl when none is sent, and the margin that is added to one of ours. Milliseconds.
DEFAULT_TTL_MS = 24 * 3_600_000
TTL_MARGIN_MS = 10 * 60_000
#: Queues of the bridge and of Celery, and RabbitMQ's direct reply, which lasts no longer than a channel. Queues that
#: RabbitMQ has named (amq.gen-...) are somebody's own.
_NOT_A_REPLY = re.compile(r"(bridge[.:]|celery|amq\.rabbitmq\.)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, and what its door knows beside its arguments."""

    door: str  # celery | amqp | stream | http | cli
    via: str = "redis"  # where its replies go: redis | amqp
    canvas: str | None = None  # Celery: what follows, and how the result is stored; kombu's JSON
    continues: bool = False  # Celery: something follows
    tells_celery: bool = False
    answered: bool = False  # Celery: the result is a message to this sender alone (rpc://)
    silent: bool = False  # Celery's result is ignored: what follows is told, no state is
    correlation_id: str | None = None
    trace: str | None = None
    expires_at: int = 0  # Celery's `expires` as a queue deadline, ledger ms
    time_limit_ms: int = 0  # Celery's time limits as a timeout
    not_before_ms: int = 0  # Celery's `eta` or `countdown`, epoch ms
    replaces: str = ""  # Celery: the task that has replaced itself by this request


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that breaks no rule, with the record it will have. Writing it again is writing it once (I2, I15)."""

    held: Held
    request: RunRequest
    origin: Origin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request: `accepted`, `rejected` (with a record), `repeat`, or `conflict`, with its fault."""

    kind: str
    request_id: str
    accepted: Accepted
    fault: JobRejected | None = None


def id_conflict(request_id: str) -> JobRejected:
    """The refusal of a request whose id another one has used."""
    return JobRejected(
        f"id: {request_id} has been used for another request (endpoint, input or policy differ)",
        {"id": request_id, "status": "REJECTED", "reason": Reason.ID_CONFLICT.value, "field": "id"},
    )


class Accept:
    """Checks a request whole, and writes it with its first event."""

    def __init__(self, ledger: Ledger, book: EndpointBook, settings: Settings) -> None:
        """One per process; thread-safe."""
        self._ledger = ledger
        self._book = book
        self._settings = settings
        self._reply_pattern = re.compile(settings.bridge_reply_pattern)
        self._addresses = Addresses(allowed_of(settings.bridge_callback_allow))

    def __call__(
        self, request_id: str, arguments: Mapping[str, Any], origin: Origin, *, fault: JobRejected | None = None
    ) -> Verdict:
        """Raises JobRejected only for an id that cannot name a record; LedgerUnavailable when nothing was written.

        `fault` is what the door itself has found wrong: the request is refused like any other.
        """
        check_request_id(request_id)
        if fault is not None:
            return self._refuse(request_id, arguments, origin, fault)
        try:
            prepared = self.prepare(request_id, parse_run(arguments), origin)
        except JobRejected as found:
            return self._refuse(request_id, arguments, origin, found)
        accepted = self._ledger.accept(request_id, self._build(prepared))
        return self._verdict(request_id, accepted, prepared.held)

    def prepare(self, request_id: str, request: RunRequest, origin: Origin) -> Prepared:
        """Check what needs the settings. Writes nothing; raises JobRejected."""
        check_request_id(request_id)
        endpoint = self._book.resolve(request.endpoint)
        self._check_reply(request)
        self._check_callback(request.callback)
        s3 = self._book.s3_config(request.s3Config)
        if max(request.not_before_ms, origin.not_before_ms) > self._ledger.wall() + SCHEDULE_MAX_MS:
            raise rejected("not_before", "not_before: must be within a year")
        policy = self._policy(request, endpoint)
        held = self._held(request_id, request, endpoint, policy, origin)
        if s3 is not None:
            held = Held(held.record, {**held.long, Long.S3CONFIG: s3.model_dump_json()})
        self._check_size(held, policy)
        return Prepared(held, request, origin)

    def _check_size(self, held: Held, policy: Mapping[str, Any]) -> None:
        """Whoever sent too much hears of it here, not when its turn to be submitted comes."""
        base, request_id = self._settings.bridge_webhook_base_url, held.record.id
        callback = callback_url(base, request_id, "0" * 32) if base else None  # the token is made at the submit
        rest = rest_of_body(policy, held.json(Long.S3CONFIG), callback)
        check_body(held.long[Long.INPUT], rest, sync=held.record.sync_wait_ms > 0)

    def many(self, batch: Sequence[Prepared]) -> list[Verdict]:
        """Accept several in one round trip, in their order. Raises LedgerUnavailable: do it again, with the same."""
        if not batch:
            return []
        found = self._ledger.accept_many([(prepared.held.record.id, self._build(prepared)) for prepared in batch])
        return [
            self._verdict(prepared.held.record.id, accepted, prepared.held)
            for prepared, accepted in zip(batch, found, strict=True)
        ]

    def _build(self, prepared: Prepared) -> Build:
        def build(now: int, wish: Mapping[str, Any] | None) -> Change:
            held = self._with_clocks(prepared.held, prepared.request, prepared.origin, now)
            return self._ledger.table.accept(held, now, wish)

        return build

    def _verdict(self, request_id: str, accepted: Accepted, asked: Held) -> Verdict:
        record = asked.record
        if accepted.kind == "exists" and accepted.held is not None and accepted.held.record.nonce == record.nonce:
            accepted = Accepted("created", accepted.held)  # our own, whose answer was lost on the way (I15)
        if accepted.kind == "created":
            trace = accepted.held.long.get(Long.TRACE) if accepted.held else None
            know(request_id, record.endpoint, trace)
            tell("request.accepted", request_id=request_id, endpoint=record.endpoint, door=record.door)
            return Verdict("accepted", request_id, accepted)
        known = accepted.held.record.fingerprint if accepted.held else (accepted.tombstone or {}).get("fp")
        if known == record.fingerprint:
            tell("request.repeated", request_id=request_id, endpoint=record.endpoint, door=record.door)
            for callback in asked.json(Long.CALLBACK) or ():
                limit = self._settings.bridge_inline_limit
                if not call_again(self._ledger, request_id, callback, inline_limit=limit):
                    return Verdict("conflict", request_id, accepted, too_many(request_id, "callback"))
            return Verdict("repeat", request_id, accepted)
        fault = id_conflict(request_id)
        tell("request.conflict", request_id=request_id, endpoint=record.endpoint, door=record.door)
        return Verdict("conflict", request_id, accepted, fault)

    def _refuse(self, request_id: str, arguments: Mapping[str, Any], origin: Origin, fault: JobRejected) -> Verdict:
        """A refused request has a record too, without its input, so that Celery, event and repeat agree."""
        field = str(fault.document.get("field", "arguments"))
        name = arguments.get("endpoint")
        endpoint = name if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", name) else "_invalid"
        if name is None and self._settings.runpod_endpoint_id:
            endpoint = self._book.resolve(None).name
        record = Record(
            id=request_id,
            endpoint=endpoint,
            door=origin.door,
            fingerprint="rejected",
            nonce=secrets.token_hex(8),
            sinks=Sink.CELERY.value if origin.tells_celery else "",
        )
        long = self._origin_values(origin)
        reply_to = arguments.get("reply_to")
        if isinstance(reply_to, str) and field != "reply_to" and self.reply_allowed(reply_to):
            long[Long.REPLY] = _reply(reply_to, ("end",), origin)
            if origin.via == "amqp":
                record = _with_sink(record, Sink.REPLY)
        if (callback := self._readable_callback(arguments.get("callback"))) is not None:
            long[Long.CALLBACK] = dumps([callback.kept()])
            record = _with_sink(record, Sink.CALLBACK)
        held = Held(record, long)
        accepted = self._ledger.accept(
            request_id, lambda now, _wish: self._ledger.table.reject(held, now, field, fault.message)
        )
        tell(
            "request.rejected",
            request_id=request_id,
            endpoint=endpoint,
            door=origin.door,
            field=field,
            error=fault.message,
        )
        if accepted.kind == "created":
            return Verdict("rejected", request_id, accepted, fault)
        known = accepted.held.record.fingerprint if accepted.held else (accepted.tombstone or {}).get("fp")
        return Verdict("repeat" if known == "rejected" else "conflict", request_id, accepted, fault)

    def _held(
        self, request_id: str, request: RunRequest, endpoint: Endpoint, policy: dict[str, Any], origin: Origin
    ) -> Held:
        tenant = str(request.metadata.get("tenant") or "")
        record = Record(
            id=request_id,
            phase=Phase.ACCEPTED,
            endpoint=endpoint.name,
            endpoint_id=endpoint.id,
            door=origin.door,
            fingerprint=fingerprint(endpoint.name, request),
            replaces=origin.replaces,
            tenant=tenant if TENANT.fullmatch(tenant) else "",
            priority=request.priority,
            delivery=request.delivery or "",
            retries_left=request.retries,
            sync_wait_ms=request.sync_wait_ms or 0,
            ttl_ms=policy.get("ttl", 0 if request.lane else DEFAULT_TTL_MS),
            lane=request.lane or "",
            stream=int(request.stream),
            silent=int(origin.silent),
            whole_document=int(request.result == "document"),
            nonce=secrets.token_hex(8),
            sinks=",".join(sorted(self._sinks(request, origin))),
        )
        long = self._origin_values(origin)
        long[Long.INPUT] = dumps(request.input)
        arguments: dict[str, Any] = {}
        if policy:
            arguments["policy"] = policy
        if request.retry_on is not None:
            arguments["retry_on"] = list(request.retry_on)
        if arguments:
            long[Long.ARGUMENTS] = dumps(arguments)
        if request.metadata:
            long[Long.METADATA] = dumps(request.metadata)
        if request.reply_to or Sink.RESULTS in record.waiting_sinks or origin.correlation_id:
            on = request.reply_on or (("chunk", "end") if request.stream else ("end",))
            long[Long.REPLY] = _reply(request.reply_to, on, origin)
        if request.callback is not None:
            long[Long.CALLBACK] = dumps([request.callback.kept()])
        return Held(record, long)

    def _with_clocks(self, held: Held, request: RunRequest, origin: Origin, now: int) -> Held:
        """Clocks start when the request may be submitted."""
        at = max(request.not_before_ms, origin.not_before_ms)
        not_before = at + self._ledger.clock.offset if at else 0
        start = max(now, not_before)
        limits = [ms for ms in (request.timeout, origin.time_limit_ms) if ms]
        queues = [start + request.queue_timeout] if request.queue_timeout else []
        if origin.expires_at:
            queues.append(max(origin.expires_at, now + 1))
        record = altered(
            held.record,
            not_before=not_before if not_before > now else 0,
            deadline=start + min(limits) if limits else 0,
            queue_deadline=min(queues) if queues else 0,
        )
        return Held(record, held.long)

    def _sinks(self, request: RunRequest, origin: Origin) -> set[Sink]:
        sinks = {Sink.CELERY} if origin.tells_celery else set()
        if request.reply_to:
            sinks.add(Sink.REPLY)
        if request.callback is not None:
            sinks.add(Sink.CALLBACK)
        rule = self._settings.bridge_results
        if rule == "all" or (rule == "unaddressed" and not request.reply_to and origin.door in {"amqp", "stream"}):
            sinks.add(Sink.RESULTS)
        return sinks

    @staticmethod
    def _origin_values(origin: Origin) -> dict[Long, str]:
        long: dict[Long, str] = {}
        if origin.canvas is not None:
            long[Long.CANVAS] = origin.canvas
        if origin.trace:
            long[Long.TRACE] = origin.trace
        return long

    def _check_reply(self, request: RunRequest) -> None:
        if request.reply_to is not None and not self.reply_allowed(request.reply_to):
            # A reply into a task queue would be an injection (HARDENING 10).
            raise rejected(
                "reply_to",
                f"reply_to: must match {self._settings.bridge_reply_pattern}"
                " and not begin with bridge, celery or amq.rabbitmq.",
            )

    def _check_callback(self, callback: Callback | None) -> None:
        """What a name leads to is judged when it is called; what shows without DNS is told here."""
        if callback is None:
            return
        if self._settings.bridge_callback_secret_file is None:
            raise rejected("callback", "callback: is not set up here: BRIDGE_CALLBACK_SECRET_FILE")
        if fault := self._addresses.fault(callback.host.rpartition(":")[0]):
            raise rejected("callback.url", f"callback.url: {fault}")

    def _readable_callback(self, given: object) -> Callback | None:
        """The callback of a request that is refused, where that is not what is wrong with it."""
        with suppress(ValueError, JobRejected):
            callback = Callback.model_validate(given)
            self._check_callback(callback)
            return callback
        return None

    def reply_allowed(self, name: str) -> bool:
        """Whether a queue or stream of this name may be written to for a stranger (HARDENING 10)."""
        return bool(self._reply_pattern.fullmatch(name)) and not _NOT_A_REPLY.match(name)

    @staticmethod
    def _policy(request: RunRequest, endpoint: Endpoint) -> dict[str, Any]:
        """The endpoint's defaults under the request's own, with a ttl that outlives the request's clocks."""
        policy = endpoint.policy.model_dump(exclude_none=True) | request.policy.model_dump(exclude_none=True)
        needed = request.timeout or (request.queue_timeout or 0) + policy.get("executionTimeout", 0)
        if "ttl" not in policy and needed > DEFAULT_TTL_MS:
            policy["ttl"] = min(needed + TTL_MARGIN_MS, MAX_POLICY_MS)
            if needed > MAX_POLICY_MS:
                field = "timeout" if request.timeout else "queue_timeout"
                more = "" if request.timeout else " together with policy.executionTimeout"
                said = f"{field}: must be at most {MAX_POLICY_MS}{more} (7 days: RunPod keeps no job longer)"
                raise rejected(field, said)
        return policy


def _reply(name: str | None, on: tuple[str, ...], origin: Origin) -> str:
    return dumps({"to": name, "on": list(on), "via": origin.via, "correlation_id": origin.correlation_id})


def _with_sink(record: Record, sink: Sink) -> Record:
    return altered(record, sinks=",".join(sorted({*record.waiting_sinks, sink})))
