"""A request comes in: a new record, or the same request from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.job.change import Change, replies_of
from bridge.job.document import Held
from bridge.job.enums import EventName, Reason, Sink, Status, Wish
from bridge.job.record import Long, altered
from bridge.job.state_table import same
from bridge.job.transitions.base import Base
from bridge.job.transitions.due import submit_step

#: How many senders of one request are told of its end, beside the first.
ALSO_MAX = 8


class Accepting(Base):
    """The first change of a record."""

    def accept(self, held: Held, now: int, wish: Mapping[str, Any] | None = None) -> Change:
        """A new record. A cancel that came first makes it be born ended."""
        draft = self._draft(held, now).set(accepted_at=now)
        draft.before = draft.before._replace(record=altered(held.record, sequence=0))
        draft.tell(EventName.ACCEPTED, door=held.record.door)
        for name, text in held.long.items():
            draft.keep_text(name, text)
        if wish is not None:
            draft.set(wish=Wish.CANCEL.value).keep(Long.WISHED, wish)
            draft.settle(Status.CANCELLED, Reason.CANCELLED, **wish)
        else:
            draft.due(submit_step(held.record, now))
        change = draft.done("accepted")
        return change._replace(before=None)

    def reject(self, held: Held, now: int, field: str, message: str) -> Change:
        """A new record that is refused as it comes in: its end is told like any other."""
        draft = self._draft(held, now).set(accepted_at=now)
        for name, text in held.long.items():
            draft.keep_text(name, text)
        draft.keep(Long.ERROR, message)
        draft.settle(Status.REJECTED, Reason.REJECTED, field=field)
        draft.drop(Long.INPUT, Long.S3CONFIG)
        return draft.done("rejected")._replace(before=None)

    def also_reply(self, held: Held, now: int, reply: Mapping[str, Any]) -> Change:
        """The same request came again from elsewhere: its sender hears the rest as well. `reply`: see Long.REPLY."""
        if held.record.phase.ended:
            return same(held, "ended")
        key = ("to", "via", "correlation_id")
        if any(all(known.get(name) == reply.get(name) for name in key) for known in replies_of(held)):
            return same(held, "known")
        first = held.json(Long.REPLY) or {"to": None, "on": [], "via": reply["via"], "correlation_id": None}
        also = [*first.get("also", ()), dict(reply)]
        if len(also) > ALSO_MAX:
            return same(held, "full")
        draft = self._draft(held, now).keep(Long.REPLY, {**first, "also": also})
        if reply["via"] == "amqp":
            draft.set(sinks=",".join(sorted({*held.record.waiting_sinks, Sink.REPLY})))
        return draft.done("noted")

    def also_call(self, held: Held, now: int, callback: Mapping[str, Any]) -> Change:
        """The same request came again with another callback (as in Long.CALLBACK): that one is told the rest as well.

        Of a request that has ended it is only remembered: the end is owed to it already.
        """
        known = held.json(Long.CALLBACK) or []
        if any(one["url"] == callback["url"] for one in known):
            return same(held, "known")
        if len(known) > ALSO_MAX:
            return same(held, "full")
        draft = self._draft(held, now).keep(Long.CALLBACK, [*known, dict(callback)])
        if not held.record.phase.ended:
            draft.set(sinks=",".join(sorted({*held.record.waiting_sinks, Sink.CALLBACK})))
        return draft.done("noted")

    def also_answer(
        self, held: Held, now: int, sent: Mapping[str, Any], asker: Mapping[str, Any] | None = None
    ) -> Change:
        """The same for who sent it by Celery, and is told its end from now on, whatever the first send wanted.

        `sent`: this send's canvas, for a first one that came by another door; `asker`: {reply_to, correlation_id} of
        one who reads a queue of his own. Each send is answered, also of one queue: there each waits for a message.
        """
        record = held.record
        if record.phase.ended:
            return same(held, "ended")
        kept = held.json(Long.CANVAS)
        canvas = kept or dict(sent)
        also = list(canvas.get("also", ()))
        options = canvas.get("options", {})
        new = [] if asker is None else [dict(asker)]
        if asker is not None:
            here = [one for one in also if one["reply_to"] == asker["reply_to"]]
            with_first = options.get("reply_to") == asker["reply_to"]
            # Where the first send wanted no answer, this one gets it. A queue with so many answers has enough of them.
            if (with_first and (not kept or options.get("ignore_result"))) or len(here) >= ALSO_MAX:
                new = []
            elif not here and not with_first and len({one["reply_to"] for one in also}) >= ALSO_MAX:
                return same(held, "full")
        if Sink.CELERY in record.waiting_sinks and not record.silent and not new:
            return same(held, "known")
        canvas = {**canvas, "options": {**options, "ignore_result": False}}
        if new:
            canvas["also"] = also + new
        draft = self._draft(held, now).keep(Long.CANVAS, canvas)
        draft.set(sinks=",".join(sorted({*record.waiting_sinks, Sink.CELERY})), silent=0)
        return draft.done("noted")
