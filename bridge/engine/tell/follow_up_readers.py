"""Whether anybody reads the queues into which what follows requests is sent: without a reader a chain hangs silently.

RabbitMQ knows the consumers of a queue. Redis knows nobody who waits at a list: there a queue is unread when its
messages have not become fewer since the last look, and no Celery worker says that it reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.errors import BridgeError
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

LOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages in a queue, and who reads it; None where the broker does not know."""

    messages: int
    readers: int | None


def unread(
    found: Mapping[str, Depth], before: Mapping[str, int], said_to_be_read: Callable[[], Collection[str]]
) -> dict[str, int]:
    """Queues with messages and without a reader. `before` has those of the last look; a new queue waits for the next.

    `said_to_be_read` asks all workers, which takes a second: only where nothing else tells.
    """
    waiting = {queue: depth for queue, depth in found.items() if depth.messages}
    alone = {queue for queue, depth in waiting.items() if depth.readers == 0}
    doubtful = {
        queue
        for queue, depth in waiting.items()
        if depth.readers is None and queue in before and depth.messages >= before[queue]
    }
    if doubtful:
        alone |= doubtful - set(said_to_be_read())
    return {queue: waiting[queue].messages for queue in sorted(alone)}


@dataclass(frozen=True, slots=True)
class FollowUpReaders:
    """One engine looks for all of them. `depths` and `said_to_be_read` raise BridgeError while the broker is away."""

    ledger: Ledger
    depths: Callable[[Sequence[str]], Mapping[str, Depth]]
    said_to_be_read: Callable[[], Collection[str]]
    look_s: float = LOOK_S

    def once(self) -> float:
        """Returns seconds until the next look."""
        kept = self.ledger.follow_ups
        queues = kept.queues()
        if not queues or not kept.turn(self.look_s):
            return self.look_s
        try:
            found = self.depths(queues)
            alone = unread(found, kept.depths(), self.said_to_be_read)
        except BridgeError as error:
            tell("broker.unavailable", error=str(error), waiting=0)
            return self.look_s
        told = kept.unread()
        for queue in alone.keys() - told.keys():
            tell("followup.unread", queue=queue, waiting=alone[queue])
        for queue in told.keys() - alone.keys():
            tell("followup.read", queue=queue)
        # After the lines: whoever dies between leaves one that is told twice, not one that nobody tells.
        kept.looked({queue: depth.messages for queue, depth in found.items()}, alone)
        return self.look_s
