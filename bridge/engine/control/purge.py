"""Purge: RunPod's purge-queue, and then the truth about the bridge's own requests."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.engine.control.base import Asker, Base
from bridge.engine.control.changing import told_of
from bridge.job.enums import Phase, Reason, Status
from bridge.job.record import Long
from bridge.ledger.endpoints import pause as endpoints
from bridge.ledger.queries import scan
from bridge.ledger.records.read import COMMON
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.job.document import Held

#: Seconds that an answer waits for the status reads which tell what was removed, and between looks.
SETTLE_S, LOOK_S = 5.0, 0.05


class Purging(Base):
    """Clears an endpoint's queue."""

    def purge(self, endpoint: str, asker: Asker, *, pending: bool = False) -> dict[str, Any]:
        """RunPod's purge-queue, then settles those of the bridge's own that are gone: seen by a read, not assumed.

        Answers RunPod's `{removed, status}`; `checked`: own requests that stood in RunPod's queue, or were on their way
        there, whose status is read anew; `settled`: how many ended CANCELLED (`purged`) within SETTLE_S, the pending
        ones with them; `unread`: those whose read had not come back by then: what was removed of them ends as soon as
        it does.
        """
        found = self.book.resolve(endpoint)
        queued = self._queued_ids(found.name)
        answer = self.call(found, Operation.PURGE, lambda client: client.purge_queue(found.id))
        data = told_of(found, asker, removed=answer.removed, pending=pending)
        at = self.ledger.now()
        endpoints.purged(self.ledger, found.name, data, at=at)
        settled = self._purge_pending(found.name, asker) if pending else 0
        checked = self._look_at_queued(found.name, asker)
        checked += self._purged_already(list(set(queued).difference(checked)))
        gone, unread = self._wait(checked, at)
        told = {"removed": answer.removed, "settled": settled + gone, "checked": len(checked), "unread": unread}
        tell("endpoint.purged", endpoint=found.name, **told, by=asker.by, door=asker.door)
        return {"endpoint": found.name, "status": answer.status, **told}

    def queued(self, endpoint: str) -> int:
        """How many of the bridge's own stand in RunPod's queue, as far as it has heard."""
        return len(self._queued_ids(self.book.resolve(endpoint).name))

    def _queued_ids(self, endpoint: str) -> list[str]:
        batches = scan.batches(scan.live_ids(self.ledger, endpoint))
        held = (one for batch in batches for one in scan.load_many(self.ledger, batch, wanted=(Long.ERROR,)).values())
        return [one.record.id for one in held if _in_queue(one)]

    def _purged_already(self, request_ids: list[str]) -> list[str]:
        """Those that a read of an engine has found purged before they could be made due here."""
        held = scan.load_many(self.ledger, request_ids, wanted=(Long.ERROR,)) if request_ids else {}
        return [request_id for request_id, one in held.items() if one.record.reason == Reason.PURGED]

    def _purge_pending(self, endpoint: str, asker: Asker) -> int:
        """End what has not left yet: what is due, scheduled for later, at rest, or claimed to be sent at this moment.

        The last is not sent then: its claim ends with it (I6).
        """
        count = 0
        purge = partial(self.ledger.table.purge_pending, by=asker.by, door=asker.door)
        for batch in scan.batches(scan.live_ids(self.ledger, endpoint)):
            held = scan.load_many(self.ledger, batch, wanted=COMMON).values()
            pending = [one for one in held if one.record.phase is Phase.ACCEPTED]
            for change in self.ledger.change_many([(one, purge) for one in pending]):
                self.noticed(change)
                count += change.verdict == "purged"
        return count

    def _look_at_queued(self, endpoint: str, asker: Asker) -> list[str]:
        """Make the next read of everything that may have been purged due now; whose purge it was is kept with it."""
        looked = []
        table = self.ledger.table
        look = partial(table.purge_look, by=asker.by, door=asker.door)
        for batch in scan.batches(scan.live_ids(self.ledger, endpoint)):
            held = [
                one for one in scan.load_many(self.ledger, batch, wanted=COMMON).values() if _in_queue(one, sent=True)
            ]
            for change in self.ledger.change_many([(one, look) for one in held]):
                self.noticed(change)
            looked += [one.record.id for one in held]
        return looked

    def _wait(self, request_ids: list[str], at: int) -> tuple[int, int]:
        """How many of these have been purged, and of how many nothing has been heard since."""
        ends, left, gone = time.monotonic() + SETTLE_S, request_ids, 0
        while left:
            held = scan.load_many(self.ledger, left, wanted=(Long.ERROR,))
            gone += sum(one.record.reason == Reason.PURGED for one in held.values())
            left = [
                request_id
                for request_id, one in held.items()
                if not one.record.phase.ended and one.record.observed_at <= max(at, one.record.submitted_at)
            ]
            if not left or time.monotonic() > ends:
                break
            time.sleep(LOOK_S)
        return gone, len(left)


def _in_queue(held: Held, *, sent: bool = False) -> bool:
    """`sent` counts those with them whose submit has left and is not answered yet."""
    record = held.record
    return (sent and record.phase is Phase.SUBMITTING) or (
        record.phase is Phase.TRACKED and record.status == Status.IN_QUEUE
    )
