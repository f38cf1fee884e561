"""Calls back who asked for it by HTTPS: what is owed stands in the ledger, lane by lane, each in its order.

A lane is claimed with a lease, its first callback is sent, and only an answer takes it off; so whoever dies between any
two lines is followed by somebody who sends it once more, under the same `webhook-id`. Once a request has ended and its
lanes are empty, its receivers have been told, and its record may close. Hosts are kept apart (`lua/callback.lua`): one
that is away rests, one that hangs is tried by one lane at a time, and none has more than its share of the threads.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from bridge.job.change import lane_of
from bridge.job.document import CONTENT_TYPE
from bridge.job.enums import DeadReason, Sink
from bridge.job.record import Long
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.callbacks.post import Outcome, Poster
    from bridge.callbacks.signer import Signer
    from bridge.engine.calls.threads import Callers
    from bridge.job.change import Change
    from bridge.ledger import Ledger
    from bridge.ledger.stores.callbacks import Lane, Owed

#: Seconds between looks while nobody wakes the loop.
IDLE_S = 1.0
#: Seconds at most between tries of one callback; and for which a host rests that is away, doubling up to the second.
RETRY_MAX_S = 3_600.0
REST_S, REST_MAX_S = 2.0, 300.0
#: What a host has shown by an outcome of this kind.
_HOST = {"delivered": "well", "gone": "well", "refused": "well", "slow": "slow", "away": "away", "not_allowed": ""}


@dataclass(slots=True)
class Callbacks:
    """One `once()` hands lanes to threads; each thread makes one try."""

    ledger: Ledger
    noticed: Callable[[Change], None]
    signer: Signer
    poster: Poster
    callers: Callers
    of_host: int
    lease_ms: int
    retry_s: float
    patience_ms: int
    wake: Callable[[], None] = field(default=lambda: None, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        free = self.callers.free
        if free <= 0:
            return IDLE_S  # who becomes free wakes the loop
        lanes, wait_ms = self.ledger.callbacks.claim(
            secrets.token_hex(8),
            lanes=free,
            of_host=self.of_host,
            lease_ms=self.lease_ms,
            patience_ms=self.patience_ms,
        )
        for lane in lanes:
            self.callers.start(self.work, lane, owner=lane.host)
        return IDLE_S if wait_ms < 0 or len(lanes) == free else min(IDLE_S, wait_ms / 1000)

    def work(self, lane: Lane) -> None:
        """One try of the first callback of a lane; or, where none is left, what follows from that."""
        try:
            if lane.skipped:
                tell("callback.skipped", request_id=lane.request_id, host=lane.host, events=lane.skipped)
            if lane.owed is None:
                self._emptied(lane)
            elif lane.over:
                self._give_up(lane, lane.owed, "the host cannot be reached, or does not answer", lane.tries)
                self.ledger.callbacks.done(lane, host="")
            else:
                self._tried(lane, lane.owed)
        finally:
            self.wake()

    def _tried(self, lane: Lane, owed: Owed) -> None:
        event_id = str(json.loads(owed.body)["id"])
        started = time.monotonic()
        headers = {"Content-Type": CONTENT_TYPE, **self.signer.headers(message_id(event_id), owed.body)}
        outcome = self.poster.post(owed.url, owed.body.encode(), headers)
        about = {"request_id": lane.request_id, "message": event_id, "host": lane.host}
        told = {"result": outcome.kind, "seconds": time.monotonic() - started}
        if outcome.kind == "delivered":
            tell("callback.delivered", **about, **told)
            self.ledger.callbacks.done(lane, host="well")
            return
        tell("callback.failed", **about, **told, error=outcome.says, tries=lane.tries + 1)
        if outcome.kind == "gone":
            self._gone(lane, owed, outcome)
        elif lane.now - owed.since >= self.patience_ms:
            self._give_up(lane, owed, outcome.says, lane.tries + 1)
            self.ledger.callbacks.done(lane, host=_HOST[outcome.kind], rests_ms=self._rests_ms(lane, outcome))
        else:
            self._later(lane, outcome)

    def _later(self, lane: Lane, outcome: Outcome) -> None:
        delay_s = max(backoff(lane.tries + 1, self.retry_s, RETRY_MAX_S), outcome.retry_after_s)
        host, rests_ms = _HOST[outcome.kind], self._rests_ms(lane, outcome)
        self.ledger.callbacks.later(lane, int(delay_s * 1000), host=host, rests_ms=rests_ms)

    def _rests_ms(self, lane: Lane, outcome: Outcome) -> int:
        if outcome.kind != "away":
            return 0
        return int(backoff(lane.host_fails + 1, min(REST_S, self.retry_s), REST_MAX_S) * 1000)

    def _gone(self, lane: Lane, owed: Owed, outcome: Outcome) -> None:
        """The receiver wants nothing more: nothing more of this request is owed to it from now on."""
        held = self.ledger.load(lane.request_id)
        if held is not None:
            self.noticed(
                self.ledger.change(held, lambda fresh, now: self.ledger.table.call_no_more(fresh, now, lane.key))
            )
        self._give_up(lane, owed, outcome.says, lane.tries + 1)
        self.ledger.callbacks.done(lane, everything=True, host="well")

    def _give_up(self, lane: Lane, owed: Owed, says: str, tries: int) -> None:
        """Kept before it is owed no more: who dies in between leaves two letters, and none is missing."""
        self.ledger.dead.keep(
            DeadReason.UNDELIVERABLE,
            door="callback",
            body=owed.body,
            request_id=lane.request_id,
            source=f"https://{lane.host}",
            detail=f"callback to {lane.host}: {says} (tried {tries} times)",
            headers={"content_type": CONTENT_TYPE, "lane": lane.key},
        )
        tell("callback.given_up", request_id=lane.request_id, host=lane.host, error=says, events=1)

    def _emptied(self, lane: Lane) -> None:
        """Nothing is left to send. Of a request that has ended, the last lane to be empty says so.

        The record is read first: one that has ended then owed its end before, so an empty lane has told it.
        """
        held = self.ledger.load(lane.request_id)
        if held is not None and held.record.phase.ended and Sink.CALLBACK in held.record.waiting_sinks:
            lanes = [lane_of(one, lane.request_id) for one in held.json(Long.CALLBACK) or ()]
            if self.ledger.callbacks.empty([lane.name, *lanes]):
                table, round_ = self.ledger.table, held.record.round
                self.noticed(self.ledger.change(held, partial(table.delivered, sink=Sink.CALLBACK, round_=round_)))
        self.ledger.callbacks.drop(lane)


def message_id(event_id: str) -> str:
    """The event's id as `webhook-id`: what is signed is `id.time.body`, so the id itself must hold no full stop."""
    return event_id.replace(".", "%2E")
