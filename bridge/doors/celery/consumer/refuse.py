"""Sets aside what Celery cannot read: a dead letter with reason and bytes, FAILURE for the caller, then the ack (I12).

One thread does it, because the ledger may be away: then the message is held, unacked (I1), while the event loop goes on
with the next ones. A letter that cannot be written is tried again behind the others. All may be done twice: a worker
that dies before its ack leaves the message to another one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.app.task import Context
from celery.exceptions import Reject
from celery.states import READY_STATES
from celery.utils.log import get_logger

from bridge.doors.celery.consumer.blot_secrets import blot
from bridge.doors.celery.consumer.check_message import MessageFault
from bridge.doors.celery.consumer.check_signatures import Unfit, check_signature, check_signatures
from bridge.doors.celery.consumer.unpack import ENVELOPE_MAX
from bridge.doors.celery.consumer.value_types import text, whole
from bridge.doors.celery.send_follow_ups import sending_behind
from bridge.doors.celery.wait_for_ledger import WAIT_MAX_S, stopping, wait_for_ledger
from bridge.engine.tell.rpc_results import answers_senders
from bridge.job.enums import DeadReason
from bridge.job.request import REQUEST_ID, rejected
from bridge.ledger.streams.dead_letters import ORIGINAL_MAX
from bridge.runtime.queue_thread import QueueThread
from bridge.telemetry import blotted, tell

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker.consumer import Consumer

    from bridge.ledger import Ledger

logger = get_logger(__name__)
#: What a client writes of its arguments for people: a copy of inputs and secrets.
_COPIES = ("argsrepr", "kwargsrepr")


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A message that is to be set aside."""

    body: bytes
    source: str
    fault: MessageFault
    headers: Mapping[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    silent: bool = False
    #: What waits for it, as far as that can be read: chain, chord, errbacks, and its place in the chord's header.
    waits: Mapping[str, Any] = field(default_factory=dict)
    #: The queue that its sender reads, and what he tells his messages apart by: an answer by `rpc://` goes there.
    asker: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None
    give_back: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class RefusalUses:
    """What setting aside uses of its process."""

    ledger: Ledger
    app: Celery
    secret_names: Iterable[str]


@dataclass(frozen=True, slots=True)
class _Nobody:
    """A refused request as what its errbacks are sent behind: its own dead letter tells of them."""

    request_id: str

    def unsendable(self, follow_up: Context, error: Exception) -> None:
        """Nothing more is told."""

    def held(self, _follow_up: Mapping[str, Any]) -> bool:
        """Nothing is kept."""
        return False


class NotKept(Exception):
    """A letter cannot be written, whatever is left out of it; the next one may be."""


class Refusals:
    """One a consumer; its thread starts with the first message."""

    def __init__(self, uses: Callable[[], RefusalUses]) -> None:
        """`uses` gives this process' own."""
        self._uses = uses
        self._background = QueueThread("bridge-refuse", self._work)
        self._lock = threading.Lock()
        self._held: list[Callable[[], None]] = []

    def put(self, refused: UnreadableMessage) -> None:
        """Have a message set aside soon; returns at once."""
        self.soon(lambda: self._set_aside(refused))

    def soon(self, call: Callable[[], None]) -> None:
        """Have something done by the thread, where a wait for the ledger does no harm."""
        self._background.put(call)

    def later(self, call: Callable[[], None]) -> None:
        """The same, after a pause in which the thread goes on with the others."""
        with self._lock:
            self._held.append(call)
            if len(self._held) > 1:
                return
        timer = threading.Timer(WAIT_MAX_S, self._pause_over)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread can be started: the pause is this one's
            stopping.wait(WAIT_MAX_S)
            self._pause_over()

    def _pause_over(self) -> None:
        with self._lock:
            held, self._held = self._held, []
        for call in held:
            self.soon(call)

    @staticmethod
    def _work(calls: list[Callable[[], None]]) -> None:
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001  (one of them must not stop the others)
                tell("call.failed", call="refuse", error=type(error).__name__)

    def _set_aside(self, refused: UnreadableMessage) -> None:
        try:
            self.keep(refused)
        except Reject:  # told to stop while the ledger is away
            refused.give_back()
        except NotKept:  # the message stays held, visibly
            if stopping.is_set():
                refused.give_back()
            else:
                self.later(lambda: self._set_aside(refused))
        else:
            refused.done()

    def keep(self, refused: UnreadableMessage) -> None:
        """Write the letter and tell the caller.

        Raises Reject when told to stop while the ledger is away, NotKept where the letter cannot be written.
        """
        try:
            self._written(refused)
        except NotKept:  # it may be what the message says of itself: keep the rest
            self._written(UnreadableMessage(refused.body, "", refused.fault))
        try:
            wait_for_ledger(lambda: self._tell_caller(refused))
        except Reject:
            raise
        except Exception as error:  # noqa: BLE001  (the letter is written: nothing is lost)
            tell("call.failed", call="store result", request_id=refused.task_id, error=type(error).__name__)

    def _written(self, refused: UnreadableMessage) -> None:
        try:
            wait_for_ledger(lambda: self._letter(refused))
        except Reject:
            raise
        except Exception as error:
            tell("call.failed", call="dead letter", error=type(error).__name__)
            raise NotKept from error

    def _letter(self, refused: UnreadableMessage) -> None:
        uses = self._uses()
        names = tuple(uses.secret_names)
        headers = blotted({k: v for k, v in refused.headers.items() if k not in _COPIES}, names)
        uses.ledger.dead.keep(
            refused.fault.reason,
            door="celery",
            body=refused.body,
            kept=blot(refused.body[:ORIGINAL_MAX], names),
            headers=_readable(headers),
            detail=refused.fault.text,
            request_id=refused.task_id or "",
            source=refused.source,
        )

    def _tell_caller(self, refused: UnreadableMessage) -> None:
        """FAILURE where nobody else has an answer under that id: a record of the ledger, or a result that stands."""
        task_id = refused.task_id
        if task_id is None or (refused.silent and not refused.waits) or not REQUEST_ID.fullmatch(task_id):
            return
        uses = self._uses()
        if uses.ledger.phases([task_id])[0] is not None:
            return
        backend: Any = uses.app.backend
        # With `rpc://` nothing stands anywhere, and an answer is read by nobody but this message's sender.
        if not answers_senders(backend) and uses.app.AsyncResult(task_id).state in READY_STATES:
            return
        text = refused.fault.text
        context = Context({"id": task_id, "delivery_info": {}, **refused.asker, **refused.waits})
        with sending_behind(_Nobody(task_id)):  # what it names as its own may be somebody else's
            backend.mark_as_failure(
                task_id, rejected(text.partition(":")[0], text), request=context, store_result=not refused.silent
            )


def _readable(headers: object) -> dict[str, Any]:
    """As JSON that UTF-8 can carry."""
    try:
        text = json.dumps(headers, default=lambda value: f"({type(value).__name__})")
        found = json.loads(text, parse_constant=_text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return {"": "headers that cannot be written were not kept"}
    return found if isinstance(found, dict) else {}


def _text(constant: str) -> str:
    """NaN and Infinity, which no JSON holds."""
    return constant


def of_message(message: Any, fault: MessageFault) -> UnreadableMessage:
    """A message that kombu could make, as far as it can be read."""
    headers, info, properties = (_object(of) for of in (message.headers, message.delivery_info, message.properties))
    said = headers if "task" in headers or "id" in headers else _first(message)
    kept = {k: v for k, v in properties.items() if v and k not in {"application_headers", "delivery_info"}}
    return UnreadableMessage(
        body=_bytes(message.body),
        source=str(info.get("routing_key") or info.get("exchange") or ""),
        fault=fault,
        headers={
            **headers,
            **{f"property:{name}": value for name, value in kept.items()},
            "property:content_type": message.content_type,
            "property:content_encoding": message.content_encoding,
        },
        task_id=_id(said),
        silent=said.get("ignore_result") is True,
        waits=_waits(message, said),
        asker=_asker(properties),
    )


def of_envelope(item: bytes, source: str) -> UnreadableMessage:
    """An item of a Redis list that is none of kombu's, as far as it can be read."""
    fault, found = MessageFault(DeadReason.MALFORMED, "envelope: is not one of kombu's"), None
    if len(item) > ENVELOPE_MAX:
        fault = MessageFault(DeadReason.TOO_LARGE, f"envelope: {len(item)} bytes; at most {ENVELOPE_MAX} are taken")
    else:
        try:
            found = json.loads(item.decode(errors="replace"), strict=False)
        except (ValueError, RecursionError):
            fault = MessageFault(DeadReason.MALFORMED, "envelope: is not JSON in UTF-8")
    if isinstance(found, list) and len(found) == 3:  # noqa: PLR2004  (as it was noted: message, exchange, key)
        found = found[0]
    envelope = found if isinstance(found, dict) else {}
    headers = _object(envelope.get("headers"))
    properties = _object(envelope.get("properties"))
    key = _object(properties.get("delivery_info")).get("routing_key")
    return UnreadableMessage(
        body=item,
        source=key if isinstance(key, str) else source,
        fault=fault,
        headers=headers,
        task_id=_id(headers),
        silent=headers.get("ignore_result") is True,
        asker=_asker(properties),
    )


def _asker(properties: Mapping[str, Any]) -> dict[str, str]:
    return {name: properties[name] for name in ("reply_to", "correlation_id") if text(properties.get(name))}


def _waits(message: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """One that is unfit itself is left out."""
    try:
        payload = message.payload if not message.errors else None
    except Exception:  # noqa: BLE001  (it cannot be read: that is why we are here)
        return {}
    embed = payload[2] if isinstance(payload, list | tuple) and len(payload) == 3 else payload  # noqa: PLR2004
    found: dict[str, Any] = {}
    for name, check in (("chain", check_signatures), ("errbacks", check_signatures), ("chord", check_signature)):
        waiting = _object(embed).get(name)
        with suppress(Unfit, RecursionError):
            check(waiting, name)
            found[name] = waiting
    if found and text(said.get("group")):
        found["group"] = said["group"]
        found["group_index"] = said["group_index"] if whole(said.get("group_index")) else None
    return found


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(message: Any) -> Mapping[str, Any]:
    """What protocol 1 says in its body."""
    try:
        payload = message.payload if not message.errors else None
    except Exception:  # noqa: BLE001  (it cannot be read: that is why we are here)
        return {}
    return payload if isinstance(payload, dict) else {}


def _id(said: Mapping[str, Any]) -> str | None:
    found = said.get("id")
    return found if isinstance(found, str) and REQUEST_ID.fullmatch(found) else None


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        return body.encode(errors="surrogatepass")
    try:
        return json.dumps(body).encode()
    except (ValueError, TypeError, RecursionError):
        return b""


class RefuseStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives Celery's consumer what it sets messages aside with."""

    requires = ("celery.worker.consumer.connection:Connection",)
    uses: Callable[[], RefusalUses]
    reading_frames: Callable[..., Any]

    def __init__(self, consumer: Consumer, **_kwargs: Any) -> None:
        """Before the consumer connects."""
        consumer.refusals = Refusals(self.uses)
        consumer.reading_frames = self.reading_frames
        super().__init__(consumer)


def step(uses: Callable[[], RefusalUses], reading_frames: Callable[..., Any]) -> type[RefuseStep]:
    """The step for one app. `reading_frames` reads AMQP frames that py-amqp cannot."""
    return type(
        "BoundRefuse", (RefuseStep,), {"uses": staticmethod(uses), "reading_frames": staticmethod(reading_frames)}
    )
