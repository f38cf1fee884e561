"""Why a request waits: the true reason, and the same in every process (it lies in Redis)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.engine.endpoint_health import Waiting
from bridge.errors import JobRejected, SettingsError
from bridge.job.document import stamp
from bridge.job.enums import Phase, Step
from bridge.job.record import Long
from bridge.runpod.batches import ACTIVE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.settings.config_file import EndpointBook

#: Seconds that a used-up cap is believed.
CACHE_S = 0.05


class WhyWaiting:
    """One per process."""

    def __init__(self, ledger: Ledger, book: EndpointBook, endpoint_health: EndpointHealth) -> None:
        """Asks the gate first, which all requests of an endpoint share."""
        self._ledger, self._book, self._endpoint_health = ledger, book, endpoint_health
        self._known: dict[tuple[str, str], tuple[float, int]] = {}

    def of(self, held: Held) -> Waiting | None:
        """Of one request: until it is submitted, and where its job runs and cannot be looked at."""
        record = held.record
        if record.phase is Phase.ACCEPTED:
            return self._of_accepted(held)
        if record.unread_told and not record.phase.ended:
            return Waiting("unreadable")
        return self._endpoint_health.waiting(record.endpoint, reads=True) if record.phase is Phase.TRACKED else None

    def _of_accepted(self, held: Held) -> Waiting:
        """`budget`, in the batch lane `batch`, is what remains: its turn has not come."""
        record = held.record
        if record.due == Step.SCHEDULED:
            return Waiting("not_before", f"its time is {stamp(record.not_before, self._ledger.clock.offset)}")
        shared = self._endpoint_health.waiting(record.endpoint)
        if shared is not None and (shared.reason == "paused" or not record.denials):
            return shared
        denied = held.json(Long.DENIED) if record.denied_at else None
        if isinstance(denied, dict):
            tried = f" ({record.denials} tries)" if record.denials else ""
            return Waiting(str(denied.get("reason")), f"{denied.get('says')}{tried}", record.id)
        found = shared or self._cap(record.endpoint, record.tenant)
        return found or (self._batch(record.endpoint) if record.lane else Waiting("budget"))

    def of_endpoint(self, name: str) -> Waiting | None:
        """What stands in the way of all requests of an endpoint."""
        return self._endpoint_health.waiting(name) or self._cap(name, "")

    def _cap(self, name: str, tenant: str) -> Waiting | None:
        """The limit on jobs in flight that is used up: the endpoint's, or the tenant's over all endpoints."""
        try:
            most = self._book.resolve(name).max_in_flight
        except (JobRejected, SettingsError):  # taken off the list: the next turn refuses it
            return None
        if most is not None and self._flying(("endpoint", name), most, self._jobs) >= most:
            return Waiting("cap", f"max_in_flight: {most} jobs of {name} are in flight")
        most = self._book.tenant_cap(tenant) if tenant else None
        if most is not None and self._flying(("tenant", tenant), most, self._ledger.flying) >= most:
            return Waiting("cap", f"max_in_flight: {most} jobs of tenant {tenant} are in flight")
        return None

    def _batch(self, name: str) -> Waiting:
        """What the next batch of an endpoint waits for."""
        try:
            whose = ("batches", self._book.resolve(name).id)
            full = self._flying(whose, ACTIVE_MAX, self._ledger.batches.active) >= ACTIVE_MAX
        except (JobRejected, SettingsError):  # taken off the list: the next turn refuses it
            full = False
        if full:
            return Waiting("batch", f"{ACTIVE_MAX} batches of {name} are under way, the most that RunPod takes")
        return Waiting("batch", f"a batch of {name} is gathered, or RunPod's Batch API takes none now")

    def _jobs(self, name: str) -> int:
        return self._ledger.counts(name).get("flying", 0)

    def _flying(self, whose: tuple[str, str], most: int, count: Callable[[str], int]) -> int:
        """Jobs or batches in flight. A limit that is used up is believed for a moment: many are told of it at once."""
        at, known = self._known.get(whose, (0.0, 0))
        if known < most or time.monotonic() - at >= CACHE_S:
            known = count(whose[1])
            self._known[whose] = time.monotonic(), known
        return known
