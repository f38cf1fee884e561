"""Tells AMQP what the event stream holds: events to the topic exchange, replies to who asked, ends to `bridge.results`.

The stream is the outbox (I3). One process at a time has the turn; it publishes a batch on one channel, waits for the
broker to confirm all of it, and only then moves the cursor (I7). One channel keeps its order, so no queue sees event
n+1 of a request before n; after a lost connection or a change of process copies of older ones may appear again, and
consumers drop a `sequence` that is not above their last. What a queue does not take is set aside and tried again by
itself, so that it holds nothing else up. On a Redis broker nothing of this runs: there the stream is the door out.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.engine.tell.amqp_publisher import Broker, Parcel, Refusal
from bridge.errors import BridgeError
from bridge.job.document import CONTENT_TYPE, joined
from bridge.job.enums import DeadReason, Sink
from bridge.ledger.queries import scan
from bridge.ledger.streams.outbox import Late
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.ledger import Ledger
    from bridge.ledger.streams.outbox import Bounds, Entry, RelayTurn

#: Entries of one batch, and its bytes: what is on its way unconfirmed stays small.
BATCH, BATCH_BYTES = 500, 4 * 1024 * 1024
DEAD_BATCH, LATE_BATCH = 100, 50
IDLE_S, OTHERS_TURN_S = 0.25, 2.0
LEASE_MS = 15_000
TRIM_S = 5.0
#: Seconds between tries of a message that a queue did not take, doubling up to the second.
LATE_S, LATE_MAX_S = 1.0, 60.0


@dataclass(slots=True)
class Publish:
    """One `once()` publishes a batch and moves the cursor."""

    ledger: Ledger
    broker: Broker
    noticed: Callable[[Change], None]
    bounds: Bounds
    message_limit: int
    patience_s: float
    _token: str = field(default_factory=lambda: secrets.token_hex(8), init=False)
    _counted: bool = field(default=False, init=False)
    _trim_at: float = field(default=0.0, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        turn = self.ledger.outbox.take(self._token, lease_ms=LEASE_MS)
        if turn is None:  # another process has it
            self._counted = False
            return OTHERS_TURN_S
        if not self._counted:
            self._gone_told_again(turn.cursor)
            self._counted = True
        self._bounds_kept(turn.cursor)
        batch = _within(self.ledger.outbox.entries(turn.cursor, BATCH), BATCH_BYTES)
        try:
            kept = self._told(batch) and self._late() and self._dead(turn)
        except self.broker.errors as error:
            self.broker.disconnect()
            tell("broker.unavailable", error=f"{type(error).__name__}: {error}", waiting=len(batch))
            return 1.0
        if not kept:  # the turn was lost on the way: whoever has it goes on from the cursor
            self.broker.disconnect()
            return OTHERS_TURN_S
        return 0.0 if batch else IDLE_S

    # A batch

    def _told(self, batch: Sequence[Entry]) -> bool:
        if not batch:
            return True
        parcels = [parcel for entry_id, entry in batch for parcel in self._parcels(entry_id, entry)]
        refused = self.broker.publish(parcels, self._still_ours)
        if refused is None:
            return False
        self._set_aside(refused)
        self._delivered(parcels, refused)
        kept = self.ledger.outbox.done(self._token, batch[-1][0], len(batch), lease_ms=LEASE_MS)
        if any(refusal.parcel.kind == "result" for refusal in refused):
            self.broker.disconnect()  # the next connection declares bridge.results again
        return kept

    def _parcels(self, entry_id: str, entry: dict[str, str], only: str = "") -> Iterable[Parcel]:
        """What leaves for one entry; `only` one kind of it, when that is tried again."""
        body, key = entry.get("data", ""), entry.get("key", "")
        event = _event(body) if entry.get("reply") or entry.get("result") else {}
        if not body or not key or event is None:  # somebody else has written there: it is told, and passed over
            tell("events.foreign", entry=entry_id, fields=", ".join(sorted(entry))[:200])
            return
        if only in {"", "event"}:
            yield Parcel(entry_id, "event", body, EVENTS_EXCHANGE, key)
        if not event:
            return
        about = {"request_id": event["subject"], "round": event["data"].get("round", 1)}
        ends = event["data"].get("completed") is True
        replies = _replies(entry)
        for i, reply in enumerate(replies):
            if only in {"", f"reply:{i}"}:
                yield Parcel(
                    entry_id, f"reply:{i}", self._whole(event) or body, "", reply["to"], mandatory=True,
                    correlation_id=reply.get("correlation_id"), sink=Sink.REPLY if ends else None,
                    copies=len(replies), **about,
                )  # fmt: skip
        if entry.get("result") and only in {"", "result"}:
            yield Parcel(entry_id, "result", body, "", RESULTS_QUEUE, mandatory=True, sink=Sink.RESULTS, **about)

    def _whole(self, event: dict[str, Any]) -> str | None:
        """A reply's body with its large output joined in; None when nothing is to be joined, or nobody has it."""
        if "output_ref" not in event["data"]:
            return None
        request_id, index = event["subject"], event["data"].get("index")
        if index is not None:
            chunks = self.ledger.chunks(request_id, index, index)
            output = json.dumps(chunks[0]["output"]) if chunks else None
        else:
            held = self.ledger.load(request_id, output=True)
            mine = held is not None and held.record.round == event["data"].get("round")
            # A record that waits for its reply keeps its output, wherever else it stands too.
            output = held.output if held is not None and mine else None
        return joined(event, event["data"], output, self.message_limit)

    def _still_ours(self) -> bool:
        """Asked while confirms are waited for: the lease goes on, or another process has the turn."""
        return self.ledger.outbox.renew(self._token, lease_ms=LEASE_MS)

    def _delivered(self, parcels: Iterable[Parcel], refused: Sequence[Refusal] = ()) -> None:
        """Note what was told, many records in a round trip; the last sink closes a record.

        Of a reply that went to several, each must have been taken or given up.
        """
        waits = {(refusal.parcel.request_id, refusal.parcel.sink) for refusal in refused}
        told = {(p.request_id, p.round, p.sink): p for p in parcels if p.sink and (p.request_id, p.sink) not in waits}
        found = self.ledger.load_many([request_id for request_id, _, _ in told])
        table = self.ledger.table
        for (request_id, round_, sink), parcel in told.items():
            held = found.get(request_id)
            if held is None or not held.record.phase.ended:
                continue
            kinds = [f"reply:{i}" for i in range(parcel.copies)]
            if len(kinds) > 1 and self.ledger.outbox.any_late(parcel.entry_id, kinds):
                continue
            change = self.ledger.change(held, partial(table.delivered, sink=sink, round_=round_))
            found[request_id] = change.after
            self.noticed(change)

    # What a queue did not take

    def _set_aside(self, refused: Sequence[Refusal]) -> None:
        """Try again later, for as long as patience lasts; then it is a dead letter, and never silent."""
        now = self.ledger.now()
        again, over = [], []
        for refusal in refused:
            parcel = refusal.parcel
            late = parcel.late or Late(parcel.entry_id, parcel.kind, now, 0)
            late = Late(late.entry_id, late.kind, late.since_ms, late.tries + 1)
            if now - late.since_ms >= self.patience_s * 1000:
                over.append((late, refusal))
                continue
            if late.tries == 1:
                tell("reply.returned", reply_to=parcel.key_name, kind=parcel.kind, error=refusal.fault)
            again.append((late, refusal))
        delays = [(late, int(backoff(late.tries, LATE_S, LATE_MAX_S) * 1000)) for late, _ in again]
        full = set(self.ledger.outbox.put_late(delays))
        for late, refusal in [*over, *((late, refusal) for late, refusal in again if late in full)]:
            self._give_up(late, refusal)

    def _give_up(self, late: Late, refusal: Refusal) -> None:
        parcel = refusal.parcel
        self.ledger.dead.keep(
            DeadReason.UNDELIVERABLE,
            door="publish",
            body=parcel.body,
            request_id=parcel.request_id,
            source=parcel.key_name,
            detail=f"{parcel.kind} for {parcel.key_name}: {refusal.fault} (tried {late.tries} times)",
            headers={
                "exchange": parcel.exchange,
                "correlation_id": parcel.correlation_id,
                "content_type": CONTENT_TYPE,
            },
        )
        self.ledger.outbox.drop_late([late])
        self._delivered([parcel])

    def _late(self) -> bool:
        parcels: list[Parcel] = []
        gone: list[Late] = []
        for late in self.ledger.outbox.late(LATE_BATCH):
            entry = self.ledger.outbox.entry(late.entry_id)
            if entry is None:  # trimmed meanwhile: its end is still in the record
                tell("events.dropped", entries=1, why=f"{late.kind} of {late.entry_id} was trimmed while it was late")
                gone.append(late)
                continue
            for parcel in self._parcels(late.entry_id, entry, only=late.kind):
                parcel.late = late
                parcels.append(parcel)
        if gone and not self._ends_told_again():
            return False
        self.ledger.outbox.drop_late(gone)
        if not parcels:
            return True
        refused = self.broker.publish(parcels, self._still_ours)
        if refused is None:
            return False
        lost = {id(refusal.parcel) for refusal in refused}
        taken = [parcel for parcel in parcels if id(parcel) not in lost]
        self.ledger.outbox.drop_late([parcel.late for parcel in taken if parcel.late])
        self._set_aside(refused)
        self._delivered(taken, refused)
        return True

    # Dead letters, and bounds

    def _dead(self, turn: RelayTurn) -> bool:
        """What could not be taken is told on the queue `bridge.dead` too."""
        letters = self.ledger.dead.after(turn.dead_cursor, DEAD_BATCH)
        if not letters:
            return True
        parcels = [Parcel(entry_id, "dead", body, "", DEAD_QUEUE) for entry_id, body in letters if body]
        if self.broker.publish(parcels, self._still_ours) is None:
            return False
        return self.ledger.outbox.done(self._token, letters[-1][0], 0, lease_ms=LEASE_MS, dead=True)

    def _bounds_kept(self, cursor: str) -> None:
        """The bytes are the one bound that may reach what AMQP has not confirmed: then it is told, and kept."""
        now = time.monotonic()
        if now - self._trim_at < TRIM_S:
            return
        self._trim_at = now
        try:
            self._gone_told_again(cursor)
            over = self.ledger.outbox.trim(self.bounds)
            while over > 0:
                lost = self.ledger.outbox.oldest_unconfirmed(min(over, BATCH))
                if not lost or not self._shed(lost):
                    return
                over -= len(lost)
        except BridgeError as error:
            tell("ledger.unavailable", error=str(error), waiting=0)

    def _gone_told_again(self, cursor: str) -> None:
        """The stream may have been trimmed, or made anew, by anybody: ends that AMQP has not heard are told once more.

        First that, then the count by which it was seen: who dies in between is followed by one who sees it too.
        """
        lost = self.ledger.outbox.missing(cursor)
        if lost:
            tell("events.dropped", entries=lost, why="they left the event stream before AMQP had confirmed them")
            if not self._ends_told_again():
                return
        self.ledger.outbox.count_right(cursor)

    def _ends_told_again(self) -> bool:
        """Whose end was behind the cursor, or late, gets a copy at the stream's end; False when the turn was lost."""
        for request_id in scan.untold(self.ledger):
            held = self.ledger.load(request_id, output=True)
            if held is not None:
                self.noticed(self.ledger.change(held, self.ledger.table.told_again))
            if not self._still_ours():
                return False
        return True

    def _shed(self, lost: Sequence[Entry]) -> bool:
        tell("events.dropped", entries=len(lost), why="the stream is over BRIDGE_EVENTS_BYTES_MAX and AMQP is behind")
        for entry_id, entry in lost:
            for parcel in self._parcels(entry_id, entry):
                if parcel.kind != "event":
                    late = Late(entry_id, parcel.kind, 0, 0)
                    self._give_up(late, Refusal(parcel, "dropped unsent: the event stream was full"))
        return self.ledger.outbox.done(self._token, lost[-1][0], len(lost), lease_ms=LEASE_MS)

    def close(self) -> None:
        """Give the turn and the connection back."""
        self.ledger.outbox.release(self._token)
        self.broker.disconnect()


EVENTS_EXCHANGE, RESULTS_QUEUE, DEAD_QUEUE = "bridge.events", "bridge.results", "bridge.dead"


def _event(body: str) -> dict[str, Any] | None:
    """An event of ours; None for what is none."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(event, dict) and isinstance(event.get("data"), dict) and isinstance(event.get("subject"), str)
    return event if ours else None


def _replies(entry: dict[str, str]) -> list[dict[str, Any]]:
    """Who gets a copy: usually one; several where more than one caller asked for the same request."""
    try:
        found = json.loads(entry["reply"]) if entry.get("reply") else []
    except (ValueError, RecursionError):
        return []
    found = found if isinstance(found, list) else [found]
    return [reply for reply in found if isinstance(reply, dict) and isinstance(reply.get("to"), str)]


def _within(batch: Sequence[Entry], bytes_max: int) -> Sequence[Entry]:
    """As much of the batch as these bytes hold; at least one entry."""
    used = 0
    for i, (_, entry) in enumerate(batch):
        used += len(entry.get("data", ""))
        if used > bytes_max and i:
            return batch[:i]
    return batch
