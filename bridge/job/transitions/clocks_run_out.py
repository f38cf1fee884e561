"""One of the clocks of a record has run out."""

from __future__ import annotations

from bridge.job.change import Change
from bridge.job.clocks import rescue_at
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.state_table import C, S, T, U, check
from bridge.job.transitions.cancelling import Cancelling
from bridge.job.transitions.due import passed, step_of
from bridge.job.transitions.submitting import Submitting


class ClocksRunOut(Submitting, Cancelling):
    """A lease, a deadline, a grace, or a retention."""

    def tick(self, held: Held, now: int) -> Change:
        """One of the record's clocks has run out: a lease, a deadline, a grace, or a retention."""
        record = held.record
        if record.due == Step.PARKED:  # once a day it is tried again (HARDENING 14)
            return check(self._draft(held, now).set(parked=0).due(step_of(record, now)).done("unparked"), "observed")
        if record.lease and record.lease_until <= now:
            return self._lease_ended(held, now)
        cause = passed(record, now)
        if cause is not None:
            return self.wish(held, now, cause)
        if record.phase is U and record.grace_until <= now:
            return self.grace_ended(held, now)
        if record.phase is T and record.due == Step.POLL:
            return check(self._draft(held, now).overdue(Step.RESCUE, rescue_at(record)).done("rescue"), "observed")
        draft = self._draft(held, now)
        if record.phase is T and record.due:  # a cancel that waits; or a deadline that is younger than the last read
            draft.due(Step.POLL if record.due == Step.CANCEL else record.step)
        return check(draft.done("ticked"), "observed")

    def _lease_ended(self, held: Held, now: int) -> Change:
        record = held.record
        if record.phase is S:
            return self.unanswered(held, now, seen=False)
        step = None if record.phase in {U, C} else step_of(record, now)
        return check(self._draft(held, now).due(step).done("lease_ended"), "observed")
