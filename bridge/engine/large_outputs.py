"""Large outputs on their way into the object store, and out of it when their time is over.

An output over the inline limit is written there before the end that refers to it is: a kill in between leaves a blob
that nobody refers to, never a reference without a blob. Every blob is noted in the ledger before it is written, so
that those are found and deleted too (I16). A store that is away, slow or full costs nothing but the ledger's memory:
the end is written with the output in it, as if there were no store.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

from bridge.engine.calls.threads import Callers
from bridge.errors import LedgerError, OutputUnavailable
from bridge.job.document import size_over, stamp
from bridge.job.enums import Phase, is_end
from bridge.job.record import Long, dumps
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.job.document import Held
    from bridge.job.observation import Observation
    from bridge.job.record import Record
    from bridge.ledger import Ledger
    from bridge.object_store import Blobs

T = TypeVar("T")
THREADS = 8
#: Bytes of outputs that may wait for a thread; more go to the ledger at once.
WAITING_MAX = 128 * 1024 * 1024
#: Seconds for which a store that failed is left alone.
REST_S = 15.0
LOOK_S, IDLE_S = 0.5, 5.0
SWEEP_S = 30.0
#: A blob is looked at again after this long while its request is under way.
AGAIN_MS = 3_600_000


@dataclass(slots=True)
class _Pending:
    heard: Observation
    then: Callable[[Observation], None]
    size: int
    ends_at: float
    done: bool = False


@dataclass(slots=True)
class LargeOutputs:
    """`later` from any thread; `once` keeps the time limit, and deletes."""

    ledger: Ledger
    blobs: Blobs | None
    inline_limit: int
    timeout_s: float
    link_s: float = 3600.0
    wake: Callable[[], None] = lambda: None
    callers: Callers = field(default_factory=lambda: Callers("outputs", THREADS))
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _pending: list[_Pending] = field(default_factory=list, init=False)
    _rests_until: float = field(default=0.0, init=False)
    _sweep_at: float = field(default=0.0, init=False)

    # In

    def observed(self, writes: WriteQueue, held: Held, heard: Observation, poll_ms: int) -> None:
        """Have an observation written: the way of everything that was heard of a job."""
        table = self.ledger.table
        self.later(
            held.record,
            heard,
            lambda told: writes.put(held, lambda fresh, now: table.observed(fresh, now, told, poll_ms=poll_ms)),
        )

    def later(self, record: Record, heard: Observation, then: Callable[[Observation], None]) -> None:
        """Call `then` with the same news, at once or as soon as its large output stands in the store; once, always."""
        if self.blobs is None or heard.output is None or not is_end(heard.status):
            return then(heard)
        if not size_over(heard.output, self.inline_limit) or time.monotonic() < self._rests_until:
            return then(heard)
        pending = _Pending(heard, then, len(heard.output), time.monotonic() + self.timeout_s)
        with self._lock:
            room = sum(one.size for one in self._pending) + pending.size <= WAITING_MAX
            if room:
                self._pending.append(pending)
        if not room:
            return then(heard)
        self.callers.start(self._store, self.blobs, record, pending)
        self.wake()
        return None

    def _store(self, blobs: Blobs, record: Record, pending: _Pending) -> None:
        heard = pending.heard
        try:
            if time.monotonic() >= self._rests_until:
                heard = replace(heard, ref=self._write(blobs, record, heard.output or ""))
        except (OutputUnavailable, LedgerError) as error:
            self._rests(record, str(error))
        finally:
            self._done(pending, heard)

    def _write(self, blobs: Blobs, record: Record, output: str) -> str:
        raw = output.encode()
        digest = hashlib.sha256(raw).hexdigest()
        key = blobs.key(self.ledger.names.namespace, record.id, record.round, digest)
        url = blobs.url(key)
        self.ledger.blobs.note(record.id, url, in_ms=AGAIN_MS)
        blobs.put(key, raw)
        tell("blob.kept", request_id=record.id, endpoint=record.endpoint, size=len(raw))
        return dumps({"size": len(raw), "sha256": digest, "url": url})

    def _done(self, pending: _Pending, heard: Observation) -> None:
        with self._lock:
            if pending.done:
                return
            pending.done = True
            self._pending.remove(pending)
        pending.then(heard)

    def _rests(self, record: Record | None, why: str) -> None:
        self._rests_until = time.monotonic() + REST_S
        tell("blob.unavailable", request_id=record.id if record else None, error=why, rests_s=REST_S)

    # Out

    def whole(self, held: Held) -> str | None:
        """An output as JSON text, from the ledger or the store; None when nobody has it. Raises OutputUnavailable."""
        if held.output is not None:
            return held.output
        blobs, key = self.blobs, self._key(held)
        if blobs is None or key is None:
            return None
        return self._asked(lambda: blobs.get(key)).decode()

    def link(self, held: Held) -> dict[str, str] | None:
        """Where an output in the store can be had by whoever is told, and until when: `{url, expires_at}`.

        None where there is none: the ledger has it, or the store signs no links. Raises OutputUnavailable.
        """
        blobs, key, seconds = self.blobs, self._key(held), int(self.link_s)
        if blobs is None or key is None:
            return None
        url = self._asked(lambda: blobs.signed(key, seconds))
        expires = stamp(self.ledger.now() + seconds * 1000, self.ledger.clock.offset)
        return {"url": url, "expires_at": expires or ""} if url else None

    def _key(self, held: Held) -> str | None:
        url = (held.json(Long.OUTPUT_REF) or {}).get("url")
        return self.blobs.key_of(url) if self.blobs is not None and url else None

    def _asked(self, call: Callable[[], T]) -> T:
        """The store's answer, from a thread that may hang. Raises OutputUnavailable."""
        answer: queue.SimpleQueue[tuple[T | None, OutputUnavailable | None]] = queue.SimpleQueue()
        self.callers.start(_answer, call, answer)
        try:
            got, fault = answer.get(timeout=self.timeout_s)
        except queue.Empty:
            raise OutputUnavailable(f"the object store gave nothing within {self.timeout_s:g} s") from None
        if fault is not None:
            raise fault
        return cast("T", got)

    # Time

    @property
    def busy(self) -> int:
        """How many outputs are on their way."""
        return len(self._pending)

    def close(self) -> None:
        """What is on its way, and all that comes now, goes to the ledger."""
        self._rests_until = float("inf")
        with self._lock:
            pending = list(self._pending)
        for one in pending:
            self._done(one, one.heard)

    def once(self) -> float:
        """Seconds until the next look: at outputs that take too long, and at blobs whose time is over."""
        if self.blobs is None:
            return 3_600.0
        now = time.monotonic()
        with self._lock:
            late = [one for one in self._pending if one.ends_at <= now]
            waiting = bool(self._pending)
        if late:
            self._rests(None, f"{len(late)} outputs were not written within {self.timeout_s:g} s")
        for one in late:
            self._done(one, one.heard)
        if now >= self._sweep_at and now >= self._rests_until and self.callers.free > THREADS // 2:
            self._sweep_at = now + SWEEP_S
            self.callers.start(self._sweep)
        return LOOK_S if waiting else IDLE_S

    def sweep(self, limit: int = 500) -> int:
        """Delete blobs whose retention is over, and those that no record refers to. How many were deleted."""
        deleted = 0
        for request_id, url in self.ledger.blobs.due(limit, again_ms=AGAIN_MS):
            key = self.blobs.key_of(url) if self.blobs is not None else None
            if self.blobs is None or key is None:
                self.ledger.blobs.forget(request_id, url)  # of a store that is set no more: not ours to delete
                continue
            if not self._may_go(request_id, url):
                continue
            try:
                self.blobs.delete(key)
            except OutputUnavailable as error:
                self._rests(None, str(error))
                return deleted
            self.ledger.blobs.forget(request_id, url)
            tell("blob.dropped", request_id=request_id)
            deleted += 1
        return deleted

    def _sweep(self) -> None:
        self.sweep()

    def _may_go(self, request_id: str, url: str) -> bool:
        """Whether no record refers to it, or its record says that it has gone."""
        held = self.ledger.load(request_id)
        if held is None:
            return True
        record = held.record
        if not record.phase.ended:
            return False  # the end that refers to it may be on its way
        if (held.json(Long.OUTPUT_REF) or {}).get("url") != url:
            return True
        over = record.ended_at + self.ledger.rules.output_retention_ms
        if record.phase is not Phase.CLOSED or self.ledger.now() < over:
            wait = over - self.ledger.now() if record.phase is Phase.CLOSED else AGAIN_MS
            self.ledger.blobs.note(request_id, url, in_ms=max(1_000, wait))
            return False
        table = self.ledger.table
        return self.ledger.change(held, lambda fresh, now: table.output_forgotten(fresh, now, url)).verdict != "another"


def _answer(call: Callable[[], T], answer: queue.SimpleQueue[tuple[T | None, OutputUnavailable | None]]) -> None:
    try:
        answer.put((call(), None))
    except OutputUnavailable as error:
        answer.put((None, error))
