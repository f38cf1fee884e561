"""The record of calls that the emulator received: the newest ones, and how many there ever were."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

#: Calls that are remembered; the oldest go first.
CALLS_KEPT = 200_000


class Call(NamedTuple):
    """One call as the emulator received it. `time` is in virtual seconds; code 0 means: no answer was sent."""

    time: float
    endpoint: str
    op: str
    job_id: str | None
    code: int


class Calls:
    """All calls of RunPod's public API."""

    def __init__(self) -> None:
        self.kept: deque[Call] = deque(maxlen=CALLS_KEPT)
        #: All calls ever by (endpoint, operation, code).
        self.tally: Counter[tuple[str, str, int]] = Counter()

    def record(self, call: Call) -> None:
        """Remember `call`."""
        self.kept.append(call)
        self.tally[call.endpoint, call.op, call.code] += 1
