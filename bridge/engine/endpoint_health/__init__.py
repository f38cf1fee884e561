"""How each endpoint answers, and what follows for the calls to it.

`EndpointHealth` is told of each call's outcome and says how many may leave. `endpoint_or_request` finds out whose
trouble it is, `hold_submits` waits after a submit that was not answered, `why_waiting` says for what requests wait.
"""

from bridge.engine.endpoint_health.endpoint_health import EndpointHealth, Waiting

__all__ = ["EndpointHealth", "Waiting"]
