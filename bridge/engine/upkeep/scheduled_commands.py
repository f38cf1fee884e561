"""Sends commands on whose time has come (control tasks with an ETA); then a worker takes each like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.errors import ServerUnavailable
from bridge.job.enums import DeadReason
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds between two looks at most.
LOOK_S = 0.5
BATCH = 100


@dataclass(frozen=True, slots=True)
class CommandsLater:
    """Any number of engines may do it. `send` raises ServerUnavailable while the broker is away."""

    ledger: Ledger
    send: Callable[[str], None]

    def once(self) -> float:
        """Returns seconds until the next look."""
        due, wait_ms = self.ledger.later.take(BATCH)
        for task_id, message in due:
            try:
                self.send(message)
            except ServerUnavailable as error:  # the rest come again when their lease ends
                tell("broker.unavailable", error=str(error), waiting=len(due))
                return LOOK_S
            except Exception as error:  # noqa: BLE001  (of this one: the others leave, I12)
                detail = f"cannot be sent at its time: {type(error).__name__}: {error}"
                reason = DeadReason.MALFORMED
                self.ledger.dead.keep(reason, door="celery", body=message, request_id=task_id, detail=detail)
            self.ledger.later.sent(task_id)
        return 0.0 if len(due) == BATCH else LOOK_S if wait_ms < 0 else min(LOOK_S, wait_ms / 1000)
