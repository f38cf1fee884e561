"""How each endpoint answers, and what follows for the calls to it.

`Vitals` is told of each call's outcome and says how many may leave; `Waiting`, for what requests wait (`why_waiting`).
`endpoint_or_request` finds out whose trouble it is; `hold_submits` waits after one that was not answered.
"""

from bridge.engine.vitals.vitals import Vitals, Waiting

__all__ = ["Vitals", "Waiting"]
