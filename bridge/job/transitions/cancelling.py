"""Somebody wants the end: a cancel, a purge."""

from __future__ import annotations

from bridge.job.change import Change
from bridge.job.document import Held
from bridge.job.enums import Reason, Status, Step, Wish
from bridge.job.record import Long
from bridge.job.state_table import A, R, S, T, check, same
from bridge.job.transitions.base import Base, forget_attempt

CANCEL_AGAIN_MS = 5_000


class Cancelling(Base):
    """Free where nothing has left; elsewhere RunPod is asked, and a status read ends it."""

    def wish(self, held: Held, now: int, cause: Wish, *, by: str | None = None, door: str | None = None) -> Change:
        """Somebody, or a clock, wants the end. Free where nothing has left; kept and carried out elsewhere."""
        record = held.record
        event = "cancel" if cause is Wish.CANCEL else "deadline"
        if record.phase.ended:
            return same(held, "already_ended")
        if record.wish:
            return same(held, "requested")
        draft = self._draft(held, now).set(wish=cause.value).keep(Long.WISHED, {"by": by, "door": door})
        nothing_left = record.phase is A or (record.phase is R and not record.retried_at)
        if nothing_left and record.submits == 0:
            return check(self._end_by_wish(draft).done("cancelled"), event)
        if nothing_left:
            draft.set(may_run=int(record.phase is A))
            if record.phase is R:  # what the attempt before told belongs to its end, not to this one
                forget_attempt(draft)
            return check(self._end_by_wish(draft).done("cancelled"), event)
        if record.phase is T:
            if record.lease:
                draft.set(cancel_at=0)
            else:
                draft.due(Step.CANCEL)
        return check(draft.done("requested"), event)

    def purge_pending(self, held: Held, now: int, *, by: str | None = None, door: str | None = None) -> Change:
        """The bridge's own purge of what has not left yet."""
        if held.record.phase is not A:
            return same(held, "not_pending")
        draft = self._draft(held, now)
        said = {k: v for k, v in (("by", by), ("door", door)) if v}
        return check(draft.settle(Status.CANCELLED, Reason.PURGED, **said).done("purged"), "purge")

    def purge_look(self, held: Held, now: int, *, by: str | None = None, door: str | None = None) -> Change:
        """The queue was purged: a status read tells whether this job was in it; whose purge it was is kept.

        A job whose submit is not answered yet is looked at as soon as it is.
        """
        record = held.record
        if record.phase is not S and (record.phase is not T or record.status != Status.IN_QUEUE):
            return same(held, "not_queued")
        draft = self._draft(held, now)
        if record.phase is S:
            draft.set(hint=1, hinted_at=now)
        if not record.wish:
            draft.keep(Long.WISHED, {"by": by, "door": door})
        if record.due == Step.POLL:
            draft.due(Step.POLL)
        return check(draft.set(polls=record.polls + 1).done("looking"), "observed")

    def cancel_called(self, held: Held, now: int, *, landed: bool) -> Change:
        """/cancel was called. Its answer ends nothing: it only makes a status read due now."""
        record = held.record
        if record.phase is not T:
            return same(held, "late")
        draft = self._draft(held, now).set(cancels=record.cancels + 1, cancel_at=now + _cancel_pause(record.cancels))
        return check(draft.due(Step.POLL, 0 if landed else 1_000).done("cancel_called"), "observed")


def _cancel_pause(calls: int) -> int:
    return int(min(CANCEL_AGAIN_MS * 2 ** min(calls, 6), 60_000))
