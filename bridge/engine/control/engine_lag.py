"""The figure to scale engines by: how late work is that one more engine could do now.

Requests that wait for RunPod's budget, a closed gate, a cap or their time make no engine late: more engines would wait
beside the first. Nor do queues tell anything: a door takes a message within milliseconds, whatever the engines do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bridge.job.enums import SUBMITS, Step
from bridge.ledger.endpoints import ages
from bridge.runpod.operations import Operation

if TYPE_CHECKING:
    from bridge.engine.control import Control

#: A budget of which more than this part is used holds work back by itself: bulk calls are paced before it is all gone.
TIGHT = 0.8
#: What a step spends; a finish spends nothing of RunPod's.
_SPENDS: Mapping[Step, Operation] = {
    Step.CANCEL: Operation.CANCEL,
    Step.RESCUE: Operation.STATUS,
    Step.RETRY: Operation.RETRY,
    Step.SUBMIT: Operation.RUN,
    Step.SUBMIT_SYNC: Operation.RUNSYNC,
    Step.POLL: Operation.STATUS,
    Step.STREAM: Operation.STREAM,
}
#: The operations whose budget is told: those that are called in bulk.
TOLD = (Operation.RUN, Operation.STATUS)


def engine_lag(control: Control, name: str) -> float:
    """Of one endpoint, in seconds; 0.0 where nothing waits for an engine."""
    late = ages.late(control.ledger, name, (Step.FINISH, *_SPENDS))
    lag = late.get(Step.FINISH, 0.0)
    waiting = control.endpoint_health.waiting(name, reads=True) is not None
    held = control.why.of_endpoint(name) is not None
    for step, op in _SPENDS.items():
        seconds = late.get(step, 0.0)
        if seconds > lag and not (held if step in SUBMITS else waiting) and budget_used(control, name, op) < TIGHT:
            lag = seconds
    return lag


def budget_used(control: Control, name: str, op: Operation) -> float:
    """What is used, from 0 to 1, of what all processes together may call now: in 10 s, or at once if that is more."""
    known = control.book.all().get(name)  # one that was taken off the list goes by its name
    budget, endpoint_id = control.endpoint_health.budget, known.id if known else name
    state = budget.state_of(endpoint_id, op)
    window = 1 - state["left"] / max(1, state["limit"])
    return min(1.0, max(window, state["under_way"] / max(1, budget.limit(endpoint_id, op).concurrent)))
