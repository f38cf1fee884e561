"""What may be asked of the bridge, and what may be changed, as plain functions over the ledger; every door calls these.

`asking` (status, jobs), `health`, `changing` (cancel, retry, stream, pause, resume), `purge`, `overview` (all at a
look). None of them calls RunPod but health, purge, and those that are given a bare job id: short calls inside the
shared budget (I9).
"""

from bridge.engine.control.base import Asker
from bridge.engine.control.changing import Changing
from bridge.engine.control.health import Healths, judge
from bridge.engine.control.purge import Purging

__all__ = ["Asker", "Control", "judge"]


class Control(Changing, Purging, Healths):
    """One per process; thread-safe."""
