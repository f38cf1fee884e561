"""Telling the end: finishes for Celery, and who else is to be told."""

from __future__ import annotations

from bridge.job.change import Change, wish_end
from bridge.job.document import Held
from bridge.job.enums import Sink, Step
from bridge.job.record import Long
from bridge.job.state_table import C, E, check, same
from bridge.job.transitions.base import Base


class TellingTheEnd(Base):
    """One turn at a time (I8); the last sink closes the record."""

    def finish_sent(self, held: Held, now: int, *, delay_ms: int, sent: bool = True) -> Change:
        """A finish message is on its way (or was held back: nobody reads); another follows if nobody reports (I8)."""
        record = held.record
        if record.phase is not E or Sink.CELERY not in record.waiting_sinks:
            return same(held, "late")
        draft = self._draft(held, now).set(finish_sends=record.finish_sends + int(sent))
        if record.turn:  # a copy would only find the turn taken
            delay_ms = max(delay_ms, record.turn_until - now)
        return check(draft.due(Step.FINISH, delay_ms).done("sent" if sent else "held_back"), "finish")

    def finish_begin(self, held: Held, now: int, *, round_: int, nonce: str, turn: str, turn_ms: int) -> Change:
        """One finish at a time: the turn has a lease of its own."""
        record = held.record
        if (
            record.phase is not E
            or record.round != round_
            or record.nonce != nonce
            or Sink.CELERY not in record.waiting_sinks
        ):
            return same(held, "not_this_one")
        if record.turn and record.turn != turn and record.turn_until > now:
            return same(held, "somebody_elses_turn")
        if record.turn == turn and record.turn_until > now:
            return same(held, "turn")
        # Somebody reads, so the pauses between copies begin anew. Who dies in its turn is followed when the turn is
        # over; copies before that would be in vain.
        draft = self._draft(held, now).set(turn=turn, turn_until=now + turn_ms, turns=record.turns + 1, finish_sends=0)
        return check(draft.due(Step.FINISH, turn_ms).done("turn"), "finish")

    def continued(self, held: Held, now: int, turn: str) -> Change:
        """What follows the request has been published; a copy of this finish only stores."""
        record = held.record
        if record.phase is not E or record.turn != turn:
            return same(held, "not_this_one")
        if record.continued >= record.round:
            return same(held, "continued")
        return check(self._draft(held, now).set(continued=record.round).done("continued"), "finish")

    def give_back_turn(
        self, held: Held, now: int, turn: str, fault: str, *, delay_ms: int, turns: int | None = None
    ) -> Change:
        """The finish could not store the end: another turn later. `turns`: how many count as taken, if not all."""
        record = held.record
        if record.phase is not E or record.turn != turn:
            return same(held, "not_this_one")
        counted = record.turns if turns is None else min(record.turns, turns)
        draft = self._draft(held, now).set(turn="", turn_until=0, turns=counted)
        draft.keep_text(Long.LAST_FAULT, fault[:1000])
        return check(draft.due(Step.FINISH, delay_ms).done("given_back"), "finish")

    def delivered(self, held: Held, now: int, sink: Sink, *, round_: int) -> Change:
        """A sink has been told this round's end; the last one closes the record."""
        record = held.record
        if record.phase is not E or record.round != round_ or sink not in record.waiting_sinks:
            return same(held, "late")
        left = record.waiting_sinks - {sink}
        draft = self._draft(held, now).set(sinks=",".join(sorted(left)))
        if sink is Sink.CELERY:
            draft.set(turn="", turn_until=0, continued=record.round).due(None)
        if not left:
            draft.set(phase=C).due(None)
        return check(draft.done("closed" if not left else "delivered"), "delivered")

    def told_again(self, held: Held, now: int) -> Change:
        """What tells the end has left the event stream before AMQP had confirmed it."""
        record = held.record
        if record.phase is not E or not record.waiting_sinks - {Sink.CELERY, Sink.CALLBACK}:
            return same(held, "late")
        draft = self._draft(held, now)
        as_wished = bool(record.wish) and (record.status, record.reason) == wish_end(record.wish)
        return check(draft.tell_end_again(**(self._wished(draft) if as_wished else {})).done("told_again"), "finish")

    def call_no_more(self, held: Held, now: int, lane: str) -> Change:
        """A receiver has answered 410: nothing more of this request is owed to it."""
        known = held.json(Long.CALLBACK) or []
        if not any(one["lane"] == lane and one["events"] for one in known):
            return same(held, "known")
        left = [{**one, "events": []} if one["lane"] == lane else one for one in known]
        return self._draft(held, now).keep(Long.CALLBACK, left).done("gone")

    def output_forgotten(self, held: Held, now: int, url: str) -> Change:
        """The object store lets an output go: the record says so first, so that no reference leads nowhere."""
        ref = held.json(Long.OUTPUT_REF)
        if not held.record.phase.ended or not ref or ref.get("url") != url:
            return same(held, "another")
        return self._draft(held, now).set(stored=0).keep(Long.OUTPUT_REF, {**ref, "url": None}).done("forgotten")
