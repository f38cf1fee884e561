"""Ledger time, as one process knows it."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Differences of clocks: below, the network's; above, a step of the server's clock (HARDENING 15).
SAME_CLOCK_MS, STEP_MS = 1_000, 5_000


class LedgerClock:
    """Ledger time from this process' own steady clock, set by what the scripts say (I17).

    A step of the server's clock does not move it; the engines' beat takes the step out of the ledger (`heartbeat.lua`).
    """

    def __init__(self, steady: Callable[[], float] | None = None) -> None:
        """`steady` gives seconds that never step; it goes on while the process is stopped."""
        self._steady = steady or _boottime
        self._ahead_ms: float | None = None
        self.offset = 0

    def heard(self, now_ms: int) -> None:
        """A script said what time it is."""
        ahead = now_ms - self._steady() * 1000
        # A large difference is a step, which only `correct` may follow. Of small ones the answer that came quickest
        # is the truest; the others pull gently, against drift.
        if self._ahead_ms is None:
            self._ahead_ms = ahead
        elif abs(ahead - self._ahead_ms) < SAME_CLOCK_MS:
            self._ahead_ms = max(ahead, self._ahead_ms - 0.01 * (self._ahead_ms - ahead))

    def correct(self, now_ms: int, offset: int) -> None:
        """Follow the ledger after a beat."""
        self._ahead_ms = now_ms - self._steady() * 1000
        self.offset = offset

    def step_ms(self, now_ms: int) -> int:
        """How far the ledger's clock has jumped against ours."""
        return 0 if self._ahead_ms is None else int(now_ms - self.now())

    def seconds(self) -> float:
        """Of the steady clock, for measuring how long something took."""
        return self._steady()

    @property
    def known(self) -> bool:
        """Whether a script has been heard."""
        return self._ahead_ms is not None

    def now(self) -> int:
        """Ledger time in milliseconds; wall time until a script was heard."""
        if self._ahead_ms is None:
            return int(time.time() * 1000)
        # Never behind what a script has said, whatever the sum rounds off; nor half a millisecond ahead of the server:
        # what is due at once would not be due to a script that asks at once.
        return int(self._steady() * 1000 + self._ahead_ms + 0.01)

    def wall(self) -> int:
        """The ledger's wall time in milliseconds, as documents tell it: whatever this machine's clock says."""
        return self.now() - self.offset


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
