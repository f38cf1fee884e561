"""Holds a message while the ledger is away: never requeued in a loop, never failed (I1).

A held message keeps its pool slot, so the bridge worker takes no more than it has; when it is told to stop, what it
holds goes back to the broker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from celery.exceptions import Reject

from bridge.doors.whose_fault import Suspicion, WhoseFault, is_own
from bridge.errors import JobRejected, LedgerUnavailable
from bridge.runtime.open_files import is_out_of_files
from bridge.telemetry import tell

T = TypeVar("T")
WAIT_S, WAIT_MAX_S = 0.1, 2.0

#: Set when the bridge worker is asked to stop.
stopping = threading.Event()


def wait_for_ledger(call: Callable[[], T]) -> T:
    """The call's answer, however long the ledger takes. Raises Reject(requeue) when told to stop meanwhile."""
    wait = WAIT_S
    while True:
        try:
            return call()
        except (LedgerUnavailable, OSError) as error:
            if isinstance(error, LedgerUnavailable):
                tell("door.held", error=str(error))
            elif is_out_of_files(error):
                tell("files.exhausted", error=str(error))
            else:
                raise
            if stopping.wait(wait):
                raise Reject(error, requeue=True) from error
            wait = min(wait * 2, WAIT_MAX_S)


def wait_for_means(call: Callable[[], T]) -> T:
    """The call's answer, however long this process lacks what it takes. Raises Reject(requeue) when told to stop."""
    whose = WhoseFault()
    return _tried(call, lambda error, before: whose.met(error, before) if is_own(error) else None)


def wait_for_verdict(call: Callable[[], T], whose: WhoseFault) -> T:
    """The call's answer: what may be no fault of the message is tried again, in its slot.

    Raises JobRejected, what the message is to blame for, and Reject(requeue) when told to stop meanwhile.
    """
    found = _tried(
        call, lambda error, before: None if isinstance(error, JobRejected | Reject) else whose.met(error, before)
    )
    whose.passed()
    return found


def _tried(call: Callable[[], T], met: Callable[[Exception, Suspicion | None], Suspicion | None]) -> T:
    """The call's answer; what it raises is tried again at the time that `met` says, and raised where that is none."""
    suspicion: Suspicion | None = None
    while True:
        try:
            return wait_for_ledger(call)
        except Exception as error:
            suspicion = met(error, suspicion)
            if suspicion is None:
                raise
            tell("door.suspect", tries=suspicion.tries, error=type(error).__name__)
            if stopping.wait(suspicion.wait_s):
                raise Reject(error, requeue=True) from error
