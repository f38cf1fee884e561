"""Why an accepted request waits: the true reason, and the same in every process (it lies in Redis)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.engine.vitals import Waiting
from bridge.errors import JobRejected, SettingsError
from bridge.job.record import Long

if TYPE_CHECKING:
    from bridge.endpoints import EndpointBook
    from bridge.engine.vitals import Vitals
    from bridge.job.document import Held
    from bridge.ledger import Ledger


class WhyWaiting:
    """One per process."""

    def __init__(self, ledger: Ledger, book: EndpointBook, vitals: Vitals) -> None:
        """Asks the gate first, which all requests of an endpoint share."""
        self._ledger, self._book, self._vitals = ledger, book, vitals

    def of(self, held: Held) -> Waiting:
        """Of one request; `budget` is what remains: its turn has not come."""
        record = held.record
        shared = self._vitals.waiting(record.endpoint)
        if shared is not None and (shared.reason == "paused" or not record.denials):
            return shared
        denied = held.json(Long.DENIED) if record.denied_at else None
        if isinstance(denied, dict):
            tried = f" ({record.denials} tries)" if record.denials else ""
            return Waiting(str(denied.get("reason")), f"{denied.get('says')}{tried}", record.id)
        return shared or self._cap(record.endpoint, record.tenant) or Waiting("budget")

    def of_endpoint(self, name: str) -> Waiting | None:
        """What stands in the way of all requests of an endpoint."""
        return self._vitals.waiting(name) or self._cap(name, "")

    def _cap(self, name: str, tenant: str) -> Waiting | None:
        """The limit on jobs in flight that is used up: the endpoint's, or the tenant's over all endpoints."""
        try:
            shares = self._book.shares(self._book.resolve(name))
        except (JobRejected, SettingsError):  # taken off the list: the next turn refuses it
            return None
        most = shares.get("endpoints", {}).get(name)
        if most is not None and self._ledger.counts(name).get("flying", 0) >= most:
            return Waiting("cap", f"max_in_flight: {most} jobs of {name} are in flight")
        most = shares.get("tenants", {}).get(tenant, {}).get("cap") if tenant else None
        if most is not None and self._ledger.flying(tenant) >= most:
            return Waiting("cap", f"max_in_flight: {most} jobs of tenant {tenant} are in flight")
        return None
