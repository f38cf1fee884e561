"""Does what services ask, whichever door it came by: read, hold, answer. The doors themselves only carry.

A batch goes through here until every one of its messages is held, by the ledger or as a dead letter; only then may
its door ack (I1, I12). All of it may be done again: what was done before is found done.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.doors.commands import COMMANDS
from bridge.doors.json.command_order import BODY_MAX, LOOK_MANY, LOOK_S, LOOK_SLOW_S, WAITING_MAX, Ahead, Wait
from bridge.doors.parse import Command, Kind, RefusedMessage, Request, Taken, take
from bridge.doors.whose_fault import Suspicion, WhoseFault, is_own
from bridge.engine.accept.accept import Origin, Prepared
from bridge.engine.accept.repeated import answer_again
from bridge.engine.control import Asker
from bridge.errors import BUSY, ApiError, BridgeError, JobError, JobRejected, LedgerUnavailable, Throttled
from bridge.job.document import Held, cloud_event, command_event, document, stamp
from bridge.job.enums import EventName, Outcome, Phase, Reason, Status
from bridge.job.record import Long, Record, dumps
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.accept.accept import Accept
    from bridge.engine.control import Control
    from bridge.engine.notifier import Notifier
    from bridge.ledger import Ledger

#: Calls to RunPod for commands at a time in one process, and how many more may wait for one of them.
CALLERS, CALLERS_WAITING = 4, 28
#: Commands that call RunPod, and those that never do. The others do without an `id`: they ask about a bare job, or walk
#: over many requests.
_CALLING, _QUICK = frozenset({"health", "purge"}), frozenset({"pause", "resume"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as its door got it. `tag` is the door's own name for it."""

    tag: Any
    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    made_id: str | None = None  # the id of a request that names none, where the door can tell the same one again
    again: bool = False  # it has been delivered before


@dataclass(frozen=True, slots=True)
class Answer:
    """A document for one reply_to."""

    to: str
    body: str
    correlation_id: str | None = None


@dataclass(slots=True)
class Item:
    """One message on its way through."""

    delivery: Delivery
    taken: Taken
    prepared: Prepared | None = None
    made_id: str | None = None  # remembered by the ledger until the message is gone
    held: bool = False
    answers: list[Answer] = field(default_factory=list)
    call: Future[list[Answer]] | None = None  # a command that calls RunPod
    wait: Wait | None = None  # a command about a request that may still stand at a door
    suspicion: Suspicion | None = None  # it could not be taken, and may be good

    @property
    def tag(self) -> Any:
        """The door's name for the message."""
        return self.delivery.tag

    @property
    def done(self) -> bool:
        """Whether it may be acked once its answers are out."""
        return self.held and self.wait is None and (self.call is None or self.call.done())

    @property
    def under_way(self) -> bool:
        """Whether its answer is still to come."""
        return self.call is not None or self.wait is not None or not self.held


class Done(NamedTuple):
    """What came of a command: `answered` or `refused`, what is told, and whether nobody knows its request (yet)."""

    name: str
    told: Mapping[str, Any]
    unknown: bool = False

    @property
    def born_cancelled(self) -> bool:
        """Whether a cancel has found that its request was cancelled already."""
        result = self.told.get("result")
        if not isinstance(result, dict):
            return False
        return result.get("outcome") == Outcome.ALREADY_ENDED and result.get("status") == Status.CANCELLED


class CommandPool:
    """A small pool for commands that call RunPod, so that none of them keeps a cancel waiting (HARDENING 12)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CALLERS, thread_name_prefix="bridge-command")
        self._open: set[Future[Any]] = set()
        self._lock = threading.Lock()  # the doors of one process share it

    def submit(self, call: Callable[[], list[Answer]]) -> Future[list[Answer]] | None:
        """None when too many wait already."""
        with self._lock:
            self._open = {future for future in self._open if not future.done()}
            if len(self._open) >= CALLERS + CALLERS_WAITING:
                return None
            future = self._pool.submit(call)
            self._open.add(future)
            return future

    def close(self) -> None:
        """Calls under way end; nobody waits for them: their messages come again elsewhere."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Handler:
    """One door's (`amqp` or `stream`), for messages of one kind."""

    def __init__(
        self,
        door: str,
        source: str,
        kind: Kind,
        *,
        ledger: Ledger,
        accept: Accept,
        control: Control,
        notifier: Notifier,
        callers: CommandPool,
        ahead: Ahead,
        message_limit: int,
    ) -> None:
        """`source` is the queue or stream; replies go by the same broker. A reply has at most `message_limit` bytes."""
        self._ledger = ledger
        self._accepts = accept
        self._control = control
        self._notifier = notifier
        self._message_limit = message_limit
        self.door = door
        self.via = "amqp" if door == "amqp" else "redis"
        self.source = source
        self.kind: Kind = kind
        self._callers = callers
        self._ahead = ahead
        self._look_at = 0.0
        self._whose = WhoseFault()
        #: How many commands more may wait for their requests; the door counts them, which may forget them too.
        self.room = WAITING_MAX

    def take(self, deliveries: Sequence[Delivery]) -> list[Item]:
        """Read them; nothing is written."""
        return [
            Item(found, take(found.body, found.headers, self.door, found.properties, self.kind, self.source))
            for found in deliveries
        ]

    def hold(self, items: Sequence[Item]) -> None:
        """Hold every one of them, but for those that may be good and cannot be taken now: call it again with these.

        Raises LedgerUnavailable: call it again with the same.
        """
        items = [item for item in items if not item.held and not (item.suspicion and item.suspicion.wait_s)]
        if self.kind == "requests":
            self._accept(items)
        for item in items:
            if item.held:
                continue
            if isinstance(item.taken, Command):
                try:
                    self._command(item, item.taken)
                except Exception as error:
                    if not self.lacks(item, error):
                        raise
            elif isinstance(item.taken, RefusedMessage):
                self._refuse(item, item.taken)

    def lacks(self, item: Item, error: BaseException | None) -> bool:
        """Whether a command met nothing but what this process lacks: then it is carried out again, in a moment."""
        if error is None or not is_own(error):
            return False
        item.suspicion = self._whose.met(error, item.suspicion, own=True)
        item.call, item.held = None, False
        tell("door.suspect", request_id=_id_of_any(item), error=type(error).__name__)
        return True

    # Requests

    def _accept(self, items: Sequence[Item]) -> None:
        self._make_ids([item for item in items if isinstance(item.taken, Request) and item.taken.id is None])
        for item in items:
            if isinstance(item.taken, Request) and item.prepared is None:
                self._prepare(item, item.taken)
        ready = [item for item in items if item.prepared is not None]
        try:
            self._accept_together(ready)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  (I12: one of them must not stop the others)
            if len(ready) == 1:
                self._suspect(ready[0], ready[0].taken, error, "kept")
                return
            for item in ready:
                self._accept([item])

    def _make_ids(self, items: Sequence[Item]) -> None:
        unnamed = [item for item in items if item.made_id is None and item.delivery.made_id is None]
        if unnamed:
            wanted = [(item.taken.digest, secrets.token_hex(16), item.delivery.again) for item in unnamed]
            for item, made in zip(unnamed, self._ledger.made_ids.make(wanted), strict=True):
                item.made_id = made

    def _prepare(self, item: Item, request: Request) -> None:
        request_id = request.id or item.delivery.made_id or item.made_id or ""
        origin = Origin(door=self.door, via=self.via, correlation_id=request.correlation_id, trace=request.trace)
        try:
            item.prepared = self._accepts.prepare(request_id, request.run, origin)
        except JobRejected as fault:
            item.taken = _refused(request, "rejected", str(fault.document.get("field", "arguments")), fault.message)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  (I12: whatever a stranger has found must not stop the others)
            self._suspect(item, request, error, "taken")

    def _suspect(self, item: Item, taken: Taken, error: Exception, what: str) -> None:
        """Refuse a message that is to blame; else it is tried again."""
        item.suspicion = self._whose.met(error, item.suspicion)
        if item.suspicion is None:
            tell("record.failed", request_id=_id_of(item), error=f"{type(error).__name__}: {error}")
            item.prepared = None
            item.taken = _refused(taken, "malformed", "body", f"cannot be {what}: {type(error).__name__}")
        else:
            tell("door.suspect", request_id=_id_of(item), tries=item.suspicion.tries, error=type(error).__name__)

    def _accept_together(self, items: Sequence[Item]) -> None:
        batch = [item.prepared for item in items if item.prepared is not None]
        verdicts = self._accepts.many(batch)
        self._notifier.accepted(*verdicts)
        for item, verdict in zip(items, verdicts, strict=True):
            request = item.taken
            assert isinstance(request, Request)  # noqa: S101  (only requests are prepared)
            if verdict.kind == "conflict" and verdict.fault is not None:
                item.prepared = None
                field = str(verdict.fault.document["field"])
                reason = "id_conflict" if field == "id" else "rejected"
                item.taken = _refused(request, reason, field, verdict.fault.message)
                continue
            if verdict.kind == "repeat" and request.run.reply_to:
                on = request.run.reply_on or (("chunk", "end") if request.run.stream else ("end",))
                reply = {
                    "to": request.run.reply_to,
                    "on": list(on),
                    "via": self.via,
                    "correlation_id": request.correlation_id,
                }
                limit = self._message_limit
                try:
                    bodies = answer_again(self._ledger, verdict.request_id, reply, message_limit=limit)
                except JobRejected as fault:
                    item.prepared = None
                    item.taken = _refused(request, "rejected", "reply_to", fault.message)
                    continue
                item.answers = [Answer(request.run.reply_to, body, request.correlation_id) for body in bodies]
            item.held = True
            self._whose.passed()

    # Commands

    def _command(self, item: Item, command: Command) -> None:
        if command.op in _QUICK or (command.op not in _CALLING and command.arguments.get("id") is not None):
            done = self._carried_out(command)
            if done.unknown and self.room > 0 and len(item.delivery.body) <= BODY_MAX:
                item.wait = self._ahead.wait(command.arguments["id"])
                self.room -= 1
            else:
                item.answers = self._answered(command, done.name, done.told)
        else:
            item.call = self._callers.submit(lambda: self._answered_by(command))
            if item.call is None:
                busy = {"reason": BUSY, "error": "too many commands wait for RunPod; send it again"}
                item.answers = self._answered(command, "refused", busy)
        item.held = True

    def look_again(self, items: Sequence[Item]) -> None:
        """Answer those of them whose request has come, or need not be waited for any more. Raises LedgerUnavailable."""
        if not items or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + (LOOK_S if len(items) <= LOOK_MANY else LOOK_SLOW_S)
        waits = [item.wait for item in items if item.wait is not None]
        for item, standing in zip(items, self._ahead.look(waits), strict=True):
            command = item.taken
            if standing == "waits" or not isinstance(command, Command):
                continue
            done = self._carried_out(command, late=standing == "late")
            if done.born_cancelled:  # by the wish that the first try of this command has left
                done.told["result"]["outcome"] = Outcome.CANCELLED.value
            item.answers = self._answered(command, done.name, done.told)
            item.wait = None

    def _answered_by(self, command: Command) -> list[Answer]:
        done = self._carried_out(command)
        return self._answered(command, done.name, done.told)

    def _carried_out(self, command: Command, *, late: bool = False) -> Done:
        """Raises LedgerUnavailable, or what this process lacks.

        `late`: its request may stand at a door still, and is waited for no more.
        """
        ask = COMMANDS[f"bridge.{command.op}"][0]
        try:
            result = ask(self._control, dict(command.arguments), Asker(by=command.by, door=self.door))
        except LedgerUnavailable:
            raise
        except JobRejected as fault:
            field, reason = fault.document.get("field"), fault.document.get("reason", Reason.REJECTED.value)
            unknown = bool(fault.document.get("unknown"))
            if unknown and late:
                said = f"id: the bridge does not know {command.arguments.get('id')} yet, and requests wait at its doors"
                return Done("refused", {"reason": BUSY, "field": "id", "error": f"{said}; send it again"})
            return Done("refused", {"reason": reason, "field": field, "error": fault.message}, unknown)
        except ApiError as fault:
            reason = BUSY if isinstance(fault, Throttled) else "runpod"
            return Done("refused", {"reason": reason, "error": f"{type(fault).__name__}: {fault}"})
        except (BridgeError, JobError) as fault:
            return Done("refused", {"reason": "failed", "error": str(fault)})
        except Exception as error:
            if is_own(error):
                raise
            # I12: one command must not stop the others
            return Done("refused", {"reason": "failed", "error": f"{type(error).__name__}: {error}"})
        return Done("answered", {"result": result}, command.op == "cancel" and result.get("outcome") == Outcome.UNKNOWN)

    def _answered(self, command: Command | RefusedMessage, name: str, told: Mapping[str, Any]) -> list[Answer]:
        subject, op = _id_of_command(command), command.op
        tell(
            "command.answered" if name == "answered" else "command.refused",
            op=op,
            request_id=subject,
            door=self.door,
            reason=told.get("reason"),
            error=told.get("error"),
        )
        to = self._answers_go_to(command)
        if to is None and (command.reply_to is None or isinstance(command, RefusedMessage)):
            return []
        ledger = self._ledger
        data = {"op": op, "id": subject, "correlation_id": command.correlation_id, **told}
        endpoint = command.endpoint if isinstance(command, RefusedMessage) else command.arguments.get("endpoint")
        body = command_event(
            name, data, id=f"{command.digest[:8]}:{secrets.token_hex(8)}", subject=subject, endpoint=endpoint,
            time=stamp(ledger.now(), ledger.clock.offset) or "", trace=command.trace,
        )  # fmt: skip
        if to is None:  # it was carried out all the same; whoever waits for the answer finds it there
            detail = f"reply_to {str(command.reply_to)[:100]}: no answer is sent there"
            ledger.dead.keep("undeliverable", door=self.door, source=self.source, body=body, detail=detail)
            return []
        return [Answer(to, body, command.correlation_id)]

    # Refusals

    def _refuse(self, item: Item, refused: RefusedMessage) -> None:
        """Kept as a dead letter, told as an event where it has an id, and answered where it may be (HARDENING 24)."""
        letter_id = self._ledger.dead.keep(
            refused.reason,
            door=self.door,
            source=self.source,
            body=item.delivery.body,
            headers={**item.delivery.headers, **_said(item.delivery.properties)},
            detail=refused.message,
            request_id=refused.id or "",
        )
        told = {
            "reason": Reason.ID_CONFLICT.value if refused.reason == "id_conflict" else Reason.REJECTED.value,
            "field": refused.field,
            "error": refused.message,
            "dead_letter": letter_id,
        }
        if refused.kind == "commands":
            item.answers = self._answered(refused, "refused", told)
        else:
            item.answers = self._rejected(refused, told)
        item.held = True

    def _rejected(self, refused: RefusedMessage, told: Mapping[str, Any]) -> list[Answer]:
        """The document of a request that was refused, though no record was made of it."""
        ledger, endpoint = self._ledger, refused.endpoint or "_invalid"
        record = Record(
            id=refused.id or "unknown",
            phase=Phase.CLOSED,
            endpoint=endpoint,
            door=self.door,
            status=Status.REJECTED.value,
            reason=str(told["reason"]),
        )
        asked = dumps({"correlation_id": refused.correlation_id})
        data = document(Held(record, {Long.REPLY: asked})) | {"door": self.door, **told}
        body = cloud_event(
            EventName.REJECTED, data, request_id=record.id, endpoint=endpoint, sequence=0,
            time=stamp(ledger.now(), ledger.clock.offset) or "", trace=refused.trace, suffix=refused.digest[:8],
        )  # fmt: skip
        if refused.id is not None:
            ledger.outbox.tell(body, f"job.{EventName.REJECTED.value}.{endpoint}")
        to = self._answers_go_to(refused)
        return [] if to is None else [Answer(to, body, refused.correlation_id)]

    def _answers_go_to(self, asked: Command | RefusedMessage) -> str | None:
        """Never into a queue of the bridge or of Celery, nor to a name that was what had to be refused.

        A document may name such a one, and the message itself a good one.
        """
        named = (asked.reply_to, asked.reply_beside)
        return next((to for to in named if to is not None and self._accepts.reply_allowed(to)), None)


def _refused(taken: Taken, reason: str, field: str, message: str) -> RefusedMessage:
    endpoint = taken.run.endpoint if isinstance(taken, Request) else None
    return RefusedMessage(
        reply_to=taken.reply_to, reply_beside=taken.reply_beside, correlation_id=taken.correlation_id,
        trace=taken.trace, digest=taken.digest,
        reason=reason, field=field, message=message, id=taken.id if isinstance(taken, Request) else None,
        endpoint=endpoint,
    )  # fmt: skip


def _id_of(item: Item) -> str | None:
    return item.prepared.held.record.id if item.prepared is not None else None


def _id_of_any(item: Item) -> str | None:
    return _id_of_command(item.taken) if isinstance(item.taken, Command) else _id_of(item)


def _id_of_command(command: Command | RefusedMessage) -> str | None:
    return command.id if isinstance(command, RefusedMessage) else command.arguments.get("id")


def _said(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties as a dead letter keeps them beside the headers, so that a replay reads the same message."""
    return {f"property:{name}": value for name, value in properties.items() if value}
