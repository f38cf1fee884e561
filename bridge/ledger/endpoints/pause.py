"""What the ledger keeps of an endpoint, changed together with the event that tells it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bridge.errors import LedgerError
from bridge.job.document import endpoint_event, stamp
from bridge.job.enums import EventName
from bridge.job.transitions.watching import Purge
from bridge.ledger.records.write import TRIES
from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger


def pause(ledger: Ledger, endpoint: str, data: Mapping[str, Any], *, reason: str, by: str) -> bool:
    """Stop submits in every process; survives restarts. False when it was so already: nothing is told then."""
    put = {"paused": "1", "pause_reason": reason, "paused_by": by, "paused_at": "@now"}
    return _change(ledger, endpoint, EventName.PAUSED, data, put=put)


def resume(ledger: Ledger, endpoint: str, data: Mapping[str, Any]) -> bool:
    """Let submits leave again. False when they did."""
    drop = ("paused", "pause_reason", "paused_by", "paused_at")
    return _change(ledger, endpoint, EventName.RESUMED, data, drop=drop)


def purged(ledger: Ledger, endpoint: str, data: Mapping[str, Any], *, at: int) -> None:
    """Remember that the bridge itself has cleared the endpoint's queue, in ledger ms, and whose purge it was."""
    put = {"purged_at": str(at), "purged_by": data.get("by") or "", "purged_door": data.get("door") or ""}
    _change(ledger, endpoint, EventName.PURGED, data, put=put)


def last_purge(ledger: Ledger, endpoint: str) -> Purge:
    """The endpoint's last purge; `Purge()` when there was none."""
    with mapped():
        found: Any = ledger.client.hmget(ledger.names.gate(endpoint), ["purged_at", "purged_by", "purged_door"])
    return Purge(int(found[0] or 0), found[1] or None, found[2] or None)


def _change(
    ledger: Ledger,
    endpoint: str,
    name: EventName,
    data: Mapping[str, Any],
    *,
    put: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
) -> bool:
    token, sequence = secrets.token_hex(8), 0
    values = [part for item in (put or {}).items() for part in item]
    for _ in range(TRIES):
        time = stamp(ledger.now(), ledger.clock.offset) or ""
        body = endpoint_event(name, data, endpoint=endpoint, sequence=sequence + 1, time=time)
        args = [endpoint, sequence, token, len(values) // 2, len(drop), *values, *drop]
        args += [body, f"job.{name.value}.{endpoint}", "", "", "", ""]
        answer = run(ledger.client, "endpoint", [ledger.names.prefix, ledger.names.events], args)
        if answer[0] != 0:
            return bool(answer[0] == 1)
        sequence = int(answer[2])
    fault = f"events of endpoint {endpoint} were numbered {TRIES} times while one was told"
    raise LedgerError(fault)
