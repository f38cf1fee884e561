"""The state table of a request: which event may move it from which phase to which.

`bridge.job.transitions` carries the cells out, and `check` refuses a change that is not in the table. Tests walk it
cell by cell; docs/lifecycle.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.job.change import Change
from bridge.job.document import Held
from bridge.job.enums import Phase

A, S, U, T, R, E, C = (
    Phase.ACCEPTED,
    Phase.SUBMITTING,
    Phase.UNANSWERED,
    Phase.TRACKED,
    Phase.RETRYING,
    Phase.SETTLED,
    Phase.CLOSED,
)

#: (phase, event) -> the phases it may lead to. An end whose sinks are all told at once closes in the same change.
TABLE: Mapping[tuple[Phase, str], frozenset[Phase]] = {
    key: frozenset(value)
    for key, value in {
        (A, "sending"): {S},
        (A, "cancel"): {E, C},
        (A, "deadline"): {E, C},
        (A, "purge"): {E, C},
        (A, "refused"): {E, C},
        (A, "doubted"): {U},
        (S, "submitted"): {T, E, C},
        (S, "refused"): {E, C},
        (S, "deferred"): {A, E, C},
        (S, "unanswered"): {U, E, C},
        (S, "cancel"): {S},
        (S, "deadline"): {S},
        (U, "cancel"): {U},
        (U, "deadline"): {U},
        (U, "submitted"): {T, E, C},
        (U, "grace_ended"): {A, E, C},
        (A, "submitted"): {T, E, C},
        (T, "submitted"): {T},
        (T, "observed"): {T, R, E, C},
        (T, "cancel"): {T},
        (T, "deadline"): {T},
        (T, "gone"): {T, E, C},
        (T, "stream"): {T},
        (R, "retry_sending"): {R},
        (R, "retry_answered"): {T},
        (R, "retry_refused"): {E, C},
        (R, "retry_unanswered"): {R},
        (R, "gone"): {R, E, C},
        (R, "observed"): {T, R, E, C},
        (R, "cancel"): {R, E, C},
        (R, "deadline"): {R, E, C},
        (E, "observed"): {E, C},
        (E, "submitted"): {E, T},
        (C, "submitted"): {C},
        (E, "delivered"): {E, C},
        (E, "finish"): {E},
        (C, "retry"): {R},
    }.items()
}


def check(change: Change, event: str) -> Change:
    """The change, if the table has it. A cell outside of it is a defect of ours and never reaches the ledger."""
    if change.before is not None and not change.empty:
        was, becomes = change.before.record.phase, change.record.phase
        if was is not becomes and becomes not in TABLE.get((was, event), ()):
            fault = f"no such transition: {was} --{event}--> {becomes}"
            raise AssertionError(fault)
    return change


def same(held: Held, verdict: str) -> Change:
    """Nothing to write."""
    return Change(verdict, held, held)
