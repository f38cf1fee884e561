"""When to look at a job next: quick while its end is likely, rarely while it is not.

The end of a job is guessed from how long this endpoint's jobs have run lately. Around the likely end the looks
stand close; before it there are few; after it they grow apart with the job's age. So a job costs a handful of
calls, whether it runs a second or an hour, and its end is seen within a tenth of its run time.
"""

from __future__ import annotations

import threading
from collections import deque

#: How many run times of an endpoint are remembered, in this process.
MEMORY = 200
#: Milliseconds.
FIRST_MS, LEAST_MS, MOST_MS = 500, 100, 60_000
#: Part of a job's age that the next look may be away.
SHARE = 0.1


class Pace:
    """Learns from ends; thread-safe."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._lock = threading.Lock()
        self._runs: dict[str, deque[int]] = {}
        self._sorted: dict[str, list[int]] = {}

    def learn(self, endpoint: str, whole_ms: int) -> None:
        """A job of this endpoint took so long from submit to end."""
        with self._lock:
            self._runs.setdefault(endpoint, deque(maxlen=MEMORY)).append(max(1, whole_ms))
            self._sorted.pop(endpoint, None)

    def first_ms(self, endpoint: str) -> int:
        """The first look after the submit."""
        return self.next_ms(endpoint, 0)

    def next_ms(self, endpoint: str, age_ms: int) -> int:
        """The next look at a job that has been with RunPod for `age_ms` and has not ended."""
        grow = int(max(LEAST_MS, min(MOST_MS, age_ms * SHARE)))
        likely = self._next_likely_end(endpoint, age_ms)
        if likely is None:
            return grow if age_ms else FIRST_MS
        # Land just behind the next likely end, but never further away than half the age plus a second.
        return int(max(LEAST_MS, min(likely - age_ms + max(30, likely * SHARE / 4), MOST_MS, max(FIRST_MS, likely))))

    def _next_likely_end(self, endpoint: str, age_ms: int) -> int | None:
        with self._lock:
            runs = self._sorted.get(endpoint)
            if runs is None:
                runs = self._sorted[endpoint] = sorted(self._runs.get(endpoint, ()))
        later = [run for run in runs if run > age_ms]
        if len(runs) < 5 or len(later) < max(2, len(runs) // 50):  # noqa: PLR2004  (too few to tell)
            return None
        # The median of what may still come, not its mean: half of the jobs have ended by the look.
        return later[len(later) // 2] if later[-1] <= 4 * later[0] else later[len(later) // 4]
