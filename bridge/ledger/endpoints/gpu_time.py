"""GPU time as it was booked with each end: what an endpoint's jobs have run, by day and tenant."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger

#: Days that are kept; `lua/_prelude.lua` spells the same.
KEPT_DAYS = 40
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Spent:
    """One endpoint's executionTime of one day (UTC), in milliseconds; `tenants` of those that named one."""

    day: str
    ms: int = 0
    paid_twice_ms: int = 0
    tenants: dict[str, int] = field(default_factory=dict)


def day_number(days_ago: int = 0) -> int:
    """Days since 1970, UTC."""
    return int(time.time() // _DAY_S) - days_ago


def read(ledger: Ledger, endpoint: str, *, days_ago: int = 0) -> Spent:
    """What one day has cost. Raises LedgerUnavailable."""
    number = day_number(days_ago)
    with mapped():
        found: Any = ledger.client.hgetall(ledger.names.key(f"gpu:{number}"))
    start = f"{endpoint}:"
    return Spent(
        day=(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number)).date().isoformat(),
        ms=int(found.get(endpoint, 0)),
        paid_twice_ms=int(found.get(f"{endpoint}!", 0)),
        tenants={name[len(start) :]: int(ms) for name, ms in found.items() if name.startswith(start)},
    )


def today_ms(ledger: Ledger, endpoint: str) -> int:
    """One endpoint's executionTime of today, in milliseconds. Raises LedgerUnavailable."""
    with mapped():
        return int(ledger.client.hget(ledger.names.key(f"gpu:{day_number()}"), endpoint) or 0)
