"""How much the ledger carries, in a few round trips: what the doors look at before they take more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.job.enums import Step
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Load:
    """Accepted requests that wait to be submitted, by endpoint: how many, and the bytes of all inputs held.

    `scheduled` ones, whose time has not come, are none of them.
    """

    waiting: Mapping[str, int]
    waiting_bytes: Mapping[str, int]
    scheduled: Mapping[str, int]
    memory_ratio: float  # used part of maxmemory; 0.0 when there is no limit
    outbox: int  # events that AMQP has not confirmed; 0 where nobody relays


def measure(ledger: Ledger) -> Load:
    """Read it. Raises LedgerUnavailable."""
    client, names = ledger.client, ledger.names
    behind = ledger.outbox.lag().entries
    with mapped(), client.pipeline(transaction=False) as pipe:
        endpoints: list[str] = sorted(client.smembers(names.key("endpoints")))  # type: ignore[arg-type]
        pipe.info("memory")
        for endpoint in endpoints:
            pipe.hmget(names.count(endpoint), ("ACCEPTED", "waiting_bytes"))
            pipe.zcard(names.due(endpoint, Step.SCHEDULED.value))
        memory, *found = pipe.execute()
    limit = int(memory.get("maxmemory", 0))
    counts: list[Any] = [[max(0, int(value or 0)) for value in values] for values in found[::2]]
    scheduled = dict(zip(endpoints, map(int, found[1::2]), strict=True))
    return Load(
        waiting={name: max(0, values[0] - scheduled[name]) for name, values in zip(endpoints, counts, strict=True)},
        waiting_bytes={name: values[1] for name, values in zip(endpoints, counts, strict=True)},
        scheduled=scheduled,
        memory_ratio=int(memory.get("used_memory", 0)) / limit if limit else 0.0,
        outbox=behind,
    )
