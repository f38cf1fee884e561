"""One endpoint's fault in the ledger stays its own: the others are served in the same turn."""

from __future__ import annotations

from collections.abc import Callable

from bridge.errors import LedgerFault
from bridge.redis.pipelined import Work
from bridge.telemetry import tell

#: Seconds until an endpoint whose keys cannot be worked on is looked at again.
AGAIN_S = 2.0


def apart(name: str, call: Callable[[], float]) -> float:
    """What the call says, seconds until the next look; an outage goes on to the loop, which waits for all."""
    try:
        return call()
    except LedgerFault as error:
        tell("call.failed", call=name, error=str(error))
        return AGAIN_S


def apart_in_step(name: str, work: Work[float]) -> Work[float]:
    """The same of work that goes in step with others'."""
    try:
        return (yield from work)
    except LedgerFault as error:
        tell("call.failed", call=name, error=str(error))
        return AGAIN_S
