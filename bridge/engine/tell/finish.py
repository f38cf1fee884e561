"""Sends `bridge.finish`, the second message of a Celery-born request, until the finish says that it is done (I8).

Celery's own tracer then stores the result and fires what follows. The message carries the original task id and a
nonce; the canvas and the output stay in the ledger (HARDENING 22).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kombu.exceptions import OperationalError

from bridge.engine.tell.kombu_json import load
from bridge.job.enums import Sink, Step
from bridge.job.record import Long
from bridge.ledger.records.read import COMMON
from bridge.runtime import broker_connection
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from bridge.engine.calls.threads import Callers
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Claimed, Ledger

QUEUE = "bridge.finish"
IDLE_S, BROKER_AWAY_S = 1.0, 1.0
BATCH = 100
#: Plain ends that are told together.
PLAIN_BATCH = 25
#: So many ends may wait to be told at once; what comes beyond, the loop finds due.
SOON_MAX = 4 * PLAIN_BATCH
#: What is read of an end, beside its output.
WANTED = (*COMMON, Long.CANVAS, Long.LAST_FAULT)
#: A queue this long is not read fast enough; copies would only make it longer (HARDENING 9).
DEPTH_MAX = 1_000
#: Seconds for which a look at the queue is believed.
LOOK_S = 10.0
RESEND_MAX_S = 3_600.0
#: Message options that are replayed from the original request.
_REPLAYED = (
    "root_id",
    "parent_id",
    "group_id",
    "group_index",
    "shadow",
    "headers",
    "reply_to",
    "replaced_task_nesting",
    "origin",
)
#: W3C's headers, by which a job is part of its caller's trace.
TRACE = ("traceparent", "tracestate", "baggage")


class LocalFinish(Protocol):
    """Tells an end in this process, as the message would in another."""

    def ready(self) -> bool:
        """Whether it may be used now."""
        ...

    def __call__(
        self, request_id: str, message: Any, headers: dict[str, Any] | None, known: Held | None = None
    ) -> None:
        """Run Celery's tracer over the finish. `known`: the end as it was just read, with its output or without."""
        ...

    def plain(self, held: Held) -> bool:
        """Whether `store` takes this end: nothing follows it, or a chord alone."""
        ...

    def store(self, batch: Sequence[Held], *, whole: bool) -> Sequence[Held]:
        """Tell plain ends together, without the tracer. Returns those that must go through it all the same.

        `whole`: they come with their outputs.
        """
        ...


@dataclass(slots=True)
class Finish:
    """One `once()` sends what is due, or has it told right here."""

    ledger: Ledger
    app: Celery
    lease_ms: int
    resend_s: float
    callers: Callers
    here: LocalFinish | None = None
    #: Whether this process is a worker that takes finishes: its engine runs before its consumer reads.
    reads: bool = False
    _connection: Any = field(default=None, init=False)
    _producer: Any = field(default=None, init=False)
    _depth: tuple[float, bool] = field(default=(0.0, True), init=False)
    _soon: deque[str] = field(default_factory=deque, init=False)
    _telling: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def soon(self, change: Change) -> bool:
        """Tell an end that this process has just written, with no look at what is due; False where the loop is to look.

        The record stays due: should this process die, another tells it; should both, one of them gets the turn (I8).
        """
        before = change.before
        if self.here is None or change.delay_ms or before is None or before.record.phase.ended:
            return False
        with self._lock:
            if len(self._soon) >= SOON_MAX or self.callers.free <= 0 or self.callers.closing or not self.here.ready():
                return False
            self._soon.append(change.record.id)
            begins, self._telling = not self._telling, True
        if begins:
            self.callers.start(self._tell_soon, self.here)
        return True

    def _tell_soon(self, here: LocalFinish) -> None:
        """What comes while others are told is told behind them, together."""
        try:
            while ids := self._next_soon():
                self._tell_these(ids, here)
        except BaseException:
            with self._lock:  # they are due, and the loop finds them
                self._soon.clear()
                self._telling = False
            raise

    def _tell_these(self, ids: Sequence[str], here: LocalFinish) -> None:
        plain: list[Held] = []
        for held in self.ledger.load_many(ids, wanted=WANTED, output=True).values():
            if held.record.due != Step.FINISH or held.record.turn or held.record.lease:
                continue  # another has begun, or the loop has claimed it
            if here.plain(held):
                plain.append(held)
            elif self.callers.free > 0:  # else the loop, which a free thread wakes: two would only meet at the turn
                self.callers.start(here, held.record.id, *self._message(held), held)
        if plain:
            self._store_here(plain, here, whole=True)

    def _next_soon(self) -> list[str]:
        with self._lock:
            ids = [self._soon.popleft() for _ in range(min(PLAIN_BATCH, len(self._soon)))]
            self._telling = bool(ids)
        return ids

    def once(self) -> float:
        """Returns seconds until the next look."""
        wait, ready = IDLE_S, {}
        for due in self.ledger.due(Step.FINISH):
            if due.ready:
                ready[due.endpoint] = due.ready
            else:
                wait = min(wait, due.wait_ms / 1000)
        here = self.here if self.here is not None and self.here.ready() else None
        if not ready or (here is not None and self.callers.free <= 0):  # a caller that becomes free wakes this loop
            return wait
        share = -(-BATCH // len(ready))  # of each endpoint, so that none waits behind another
        claimed = self.ledger.claim(
            Step.FINISH, {name: min(count, share) for name, count in ready.items()},
            lease_ms=self.lease_ms, long=(Long.CANVAS,) if here is None else WANTED,
        )  # fmt: skip
        if here is None:
            if not self._send_all(claimed):
                return BROKER_AWAY_S
        else:
            self._tell_here(claimed.records, here)
        return 0.0 if 0 < len(claimed.records) < sum(ready.values()) else wait

    def _tell_here(self, records: Sequence[Held], here: LocalFinish) -> None:
        """In threads of their own; plain ends together, as many as may be in memory at once with all their outputs."""
        plain: list[Held] = []
        for held in records:
            if here.plain(held):
                plain.append(held)
            else:
                self.callers.start(here, held.record.id, *self._message(held), held)
        for start in range(0, len(plain), PLAIN_BATCH):
            self.callers.start(partial(self._store_here, whole=False), plain[start : start + PLAIN_BATCH], here)

    def _store_here(self, plain: Sequence[Held], here: LocalFinish, *, whole: bool) -> None:
        for held in here.store(plain, whole=whole):
            here(held.record.id, *self._message(held))

    def _send_all(self, claimed: Claimed) -> bool:
        """By message; what the broker did not take is given back. Whether it took all."""
        sent: list[tuple[Held, bool]] = []
        away, done = False, 0
        try:
            for held in claimed.records:
                done += 1
                try:
                    sent.append((held, self._send(held)))
                except (TypeError, ValueError, KeyError, AttributeError) as error:  # of this one: the others leave
                    tell(
                        "record.failed",
                        request_id=held.record.id,
                        endpoint=held.record.endpoint,
                        error=repr(error)[:500],
                    )
                    self.ledger.isolate(held.record.id, f"{type(error).__name__}: {error}")
        except self._errors() as error:
            away = True
            self._disconnect()
            unsent = claimed.records[done - 1 :]
            tell("broker.unavailable", error=f"{type(error).__name__}: {error}", waiting=len(unsent))
            self.ledger.give_back(claimed, unsent)
        table = self.ledger.table
        self.ledger.change_many(
            [(held, partial(table.finish_sent, delay_ms=self._resend_ms(held), sent=left)) for held, left in sent]
        )
        return not away

    def _resend_ms(self, held: Held) -> int:
        sends = held.record.finish_sends
        return int(backoff(sends + 1, self.resend_s, RESEND_MAX_S) * 1000)

    def _send(self, held: Held) -> bool:
        """Whether a message left. One that is held back, because nobody reads, costs none of its pauses."""
        record = held.record
        if Sink.CELERY not in record.waiting_sinks or (record.finish_sends and not self._read_by_somebody()):
            return False
        message, headers = self._message(held)
        # On AMQP a copy replaces a message that nobody read (HARDENING 9); Redis ignores the expiration.
        expires = self._resend_ms(held) / 1000
        self.app.amqp.send_task_message(
            self._connected(),
            "bridge.finish",
            message,
            queue=QUEUE,
            declare=[],  # the queue is used as it was found (topology)
            headers=headers,
            retry=False,
            delivery_mode=2,
            expiration=expires,
        )
        tell("finish.sent", request_id=record.id, endpoint=record.endpoint, sends=record.finish_sends + 1)
        return True

    def _message(self, held: Held) -> tuple[Any, dict[str, Any] | None]:
        """The task message, and the headers that the producer of the request had set."""
        record = held.record
        options = load(held.long.get(Long.CANVAS)).get("options", {})
        replayed = {name: options[name] for name in _REPLAYED if options.get(name) is not None}
        # Whoever traces the sending of this message would write over them in the headers.
        trace = {name: value for name, value in (replayed.get("headers") or {}).items() if name in TRACE}
        message = self.app.amqp.create_task_message(
            record.id,
            "bridge.finish",
            (),
            {"round": record.round, "nonce": record.nonce} | ({"trace": trace} if trace else {}),
            retries=options.get("retries", 0),
            ignore_result=bool(options.get("ignore_result")),
            stamped_headers=options.get("stamped_headers"),
            argsrepr="()",
            kwargsrepr="{}",
            **{k: v for k, v in replayed.items() if k not in {"headers", "reply_to"}},
            **(options.get("stamps") or {}),
            **({"reply_to": replayed["reply_to"]} if "reply_to" in replayed else {}),
        )
        return message, replayed.get("headers")

    def _read_by_somebody(self) -> bool:
        """Whether copies are worth sending: somebody reads the queue, and it is short."""
        now = time.monotonic()
        if now - self._depth[0] > LOOK_S:
            self._depth = (now, self._look_at_queue())
        return self._depth[1]

    def _look_at_queue(self) -> bool:
        channel = self._connected().channel
        amqp = self._connection.transport.driver_type == "amqp"
        depth = readers = 0
        try:
            found = channel.queue_declare(queue=QUEUE, passive=True)
            depth, readers = found.message_count, found.consumer_count
        except self._connection.channel_errors:  # on Redis that is an empty list; elsewhere a copy would be dropped
            self._disconnect()
        # Redis knows nobody who waits at a list; there its length alone tells.
        if depth > DEPTH_MAX or (amqp and not readers and not self.reads):
            tell("finish.unread", depth=depth)
            return False
        return True

    def _connected(self) -> Any:
        if self._producer is None:
            self._connection = self.app.connection_for_write()
            self._connection.ensure_connection(max_retries=1, timeout=5)
            self._producer = self.app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer

    def _errors(self) -> tuple[type[Exception], ...]:
        """What a broker that goes away raises; the transport has words of its own."""
        known: tuple[type[Exception], ...] = (OperationalError, OSError)
        if self._connection is None:
            return known
        more = self._connection.recoverable_connection_errors  # names a queue that is full and refuses, too
        return (*known, *more, *self._connection.connection_errors, *self._connection.channel_errors)

    def _disconnect(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        broker_connection.close(connection)

    def close(self) -> None:
        """Give the connection back."""
        self._disconnect()
