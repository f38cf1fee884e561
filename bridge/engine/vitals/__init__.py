"""How each endpoint answers, and what follows for the calls to it.

`Vitals` is told of each call's outcome and says how many may leave; `Waiting`, why requests wait.
"""

from bridge.engine.vitals.vitals import Vitals, Waiting

__all__ = ["Vitals", "Waiting"]
