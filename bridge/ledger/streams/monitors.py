"""The turn of the process that tells others what the event stream holds: Celery's monitors, OpenTelemetry.

Methods raise LedgerUnavailable.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge.ledger.scripts import run
from bridge.ledger.streams.repair import on_streams

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: A worker that dies with the turn is followed by another one after this long.
LEASE_MS = 5_000
#: How long nobody may listen before what was told meanwhile is left untold.
KEPT_MS = 600_000
#: Entries read at once: each may carry an output.
BATCH = 50
#: Told in large numbers, and nothing to a monitor of tasks.
_PASSED_OVER = ("job.chunk.", "job.progress.")


@dataclass(slots=True)
class Monitors:
    """One per process."""

    client: redis.Redis
    names: Names
    #: Whom it tells; each has a turn and a cursor of its own.
    told_to: str = "monitors"
    _token: str = field(default_factory=lambda: secrets.token_hex(8), init=False)

    def take(self) -> str | None:
        """The cursor, when the turn is ours; None while another process has it."""
        return self._turn(LEASE_MS, "")

    def told(self, cursor: str) -> bool:
        """Everything up to this entry was sent. False when the turn was lost, and then nothing is written."""
        return self._turn(LEASE_MS, cursor) is not None

    def give_back(self) -> None:
        """Another process may go on at once."""
        self._turn(0, "")

    def behind(self, cursor: str) -> list[tuple[str, dict[str, Any] | None]]:
        """What follows the cursor: each entry's id, and its event, None for what a monitor need not know."""
        found: Any = on_streams(
            self.client,
            self.names.prefix,
            [self.names.events],
            lambda: self.client.xrange(self.names.events, min=f"({cursor}", count=BATCH),
        )
        return list(_read(found))

    def _turn(self, lease_ms: int, cursor: str) -> str | None:
        keys = [self.names.prefix, self.names.events]
        answer = run(self.client, "event_reader_turn", keys, [self._token, lease_ms, KEPT_MS, cursor, self.told_to])
        return str(answer[1]) if answer[0] else None


def _read(entries: Any) -> Iterator[tuple[str, dict[str, Any] | None]]:
    for entry_id, entry in entries:
        event: Any = None
        if not entry.get("key", "").startswith(_PASSED_OVER):
            try:
                event = json.loads(entry["data"])
            except (KeyError, ValueError, RecursionError):  # somebody else has written there
                event = None
        event = event if isinstance(event, dict) and isinstance(event.get("data"), dict) else {}
        yield entry_id, event if isinstance(event.get("subject"), str) else None
