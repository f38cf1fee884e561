"""What an endpoint may cost a day: past its ceiling nothing more is submitted until the next day (UTC)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.ledger.endpoints import gpu_time

if TYPE_CHECKING:
    from bridge.ledger import Ledger
    from bridge.settings.config_file import Endpoint

#: Seconds that a sum is believed.
CACHE_S = 1.0


class Spending:
    """One per process. Only what has ended is counted: jobs in flight may pass the ceiling, and are not stopped."""

    def __init__(self, ledger: Ledger) -> None:
        """Asks only for endpoints that have a ceiling."""
        self._ledger = ledger
        self._known: dict[str, tuple[float, int]] = {}

    def over(self, endpoint: Endpoint) -> str | None:
        """Why nothing more may be submitted today, None while something may. Raises LedgerUnavailable."""
        ceiling = endpoint.ceiling_s
        if ceiling is None:
            return None
        known = self._known.get(endpoint.name)
        if known is None or time.monotonic() - known[0] >= CACHE_S:
            known = time.monotonic(), gpu_time.today_ms(self._ledger, endpoint.name)
            self._known[endpoint.name] = known
        spent_s = known[1] / 1000
        if spent_s < ceiling:
            return None
        return (
            f"endpoint: {endpoint.name} has used {spent_s:.0f} s of GPU time today; its ceiling is {ceiling:.0f} s "
            "(max_gpu_s_per_day or max_cost_per_day in BRIDGE_CONFIG_FILE)"
        )
