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
        options = canvas.get("options", {})
        before: list[dict[str, Any]] = list(canvas.get("also", ()))
        also: list[dict[str, Any]] | None = before
        if asker is not None:
            owed = bool(kept) and not options.get("ignore_result")
            also = also_asking(before, asker, first=options.get("reply_to"), owed=owed)
        if also is None:
            return same(held, "full")
        if also == before and Sink.CELERY in record.waiting_sinks and not record.silent:
            return same(held, "known")
        canvas = {**canvas, "options": {**options, "ignore_result": False}}
        if also:
            canvas["also"] = also
        draft = self._draft(held, now).keep(Long.CANVAS, canvas)
        draft.set(sinks=",".join(sorted({*record.waiting_sinks, Sink.CELERY})), silent=0)
        return draft.done("noted")


def also_asking(
    also: list[dict[str, Any]], asker: Mapping[str, Any], *, first: str | None, owed: bool
) -> list[dict[str, Any]] | None:
    """Who is answered beside the first sender once `asker` asks too; None where its queue finds no room.

    `first`: the first sender's queue; `owed`: whether that one is answered already.
    """
    queue, queues = asker["reply_to"], [one["reply_to"] for one in also]
    if queue == first and not owed:
        return also  # the first sender's answer, which nobody wanted until now, is this one's
    if queues.count(queue) >= ALSO_MAX:
        return also  # a queue with so many answers has enough of them
    if queue != first and queue not in queues and len(set(queues)) >= ALSO_MAX:
        return None
    return [*also, dict(asker)]
