"""The ledger of one process: records, and everything that is kept beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.ledger.records.lease import Leases
from bridge.ledger.stores.batches import Batches
from bridge.ledger.stores.callbacks import Callbacks
from bridge.ledger.stores.engines import Engines
from bridge.ledger.stores.follow_up_queues import FollowUps
from bridge.ledger.stores.run_times import Runs
from bridge.ledger.stores.scheduled_commands import Later
from bridge.ledger.stores.stored_outputs import BlobList
from bridge.ledger.streams.dead_letters import DeadLetters
from bridge.ledger.streams.made_ids import MadeIds
from bridge.ledger.streams.monitors import Monitors
from bridge.ledger.streams.outbox import Outbox
from bridge.ledger.streams.repair import take_asides
from bridge.ledger.streams.replies import Replies

if TYPE_CHECKING:
    import redis

    from bridge.job.change import Rules
    from bridge.ledger.keys import Names


class Ledger(Leases):
    """Every method is one script, or one read. All may be repeated (I15).

    All raise LedgerUnavailable, and LedgerFault (`bridge.redis.outage`).
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        rules: Rules,
        *,
        wishes_max: int = 100_000,
        dead_max: int = 10_000,
        dead_originals: bool = True,
        relayed: bool = False,
    ) -> None:
        """The client is shared by threads; nothing is sent before the first call."""
        super().__init__(client, names, rules, wishes_max=wishes_max)
        self.engines = Engines(self)
        self.runs = Runs(client, names)
        self.blobs = BlobList(client, names, self.now)
        self.batches = Batches(client, names, self.now)
        self.outbox = Outbox(client, names, self.now, relayed=relayed)
        self.monitors = Monitors(client, names)
        self.tracer = Monitors(client, names, "tracer")
        self.replies = Replies(client, names)
        self.made_ids = MadeIds(client, names)
        self.follow_ups = FollowUps(client, names, self.now)
        self.later = Later(client, names, self.now)
        self.callbacks = Callbacks(client, names)
        self.dead = DeadLetters(client, names, self.now, self.wall, dead_max, dead_originals)

    def asides(self) -> dict[str, str]:
        """Public keys that were set aside since somebody asked, and why (`lua/_prelude.lua`)."""
        return take_asides(self.client, self.names.key("asides"))
