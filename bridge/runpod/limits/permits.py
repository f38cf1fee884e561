"""The permits of one grant: each is spent by one call or given back, once (I9)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bridge.errors import LedgerError
from bridge.redis.pipelined import Work, alone
from bridge.runpod.limits.budget import Budget, Kind
from bridge.runpod.limits.scripts import WHAT
from bridge.runpod.operations import Operation


@dataclass(frozen=True, slots=True)
class Permits:
    """`count` permits for one operation of one endpoint; none, and the milliseconds to wait, when the budget is out."""

    budget: Budget
    endpoint_id: str
    op: Operation
    token: str
    count: int
    retry_after_ms: int

    @classmethod
    def take(
        cls, budget: Budget, endpoint_id: str, op: Operation, wanted: int = 1, *, slot_ms: int, kind: Kind = ""
    ) -> Permits:
        """Up to `wanted` permits; see `Budget.acquire` for `slot_ms` and `kind`. Raises LedgerError."""
        return alone(budget.client, cls.taking(budget, endpoint_id, op, wanted, slot_ms=slot_ms, kind=kind), WHAT)

    @classmethod
    def taking(
        cls, budget: Budget, endpoint_id: str, op: Operation, wanted: int = 1, *, slot_ms: int, kind: Kind = ""
    ) -> Work[Permits]:
        """The same, in step with others' work."""
        token = secrets.token_hex(8)
        grant = yield from budget.acquiring(endpoint_id, op, wanted, token=token, slot_ms=slot_ms, kind=kind)
        return cls(budget, endpoint_id, op, token, grant.count, grant.retry_after_ms)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """One call, however it ends: its permit is out until then, and counts for the window that follows."""
        try:
            yield
        finally:
            self.budget.release(self.endpoint_id, self.op, self.token, used=1, unused=0)

    def give_back(self, unused: int) -> None:
        """Calls that will not be made."""
        if unused:
            self.budget.release(self.endpoint_id, self.op, self.token, used=0, unused=unused)

    @contextmanager
    def unused_if_away(self, count: int) -> Iterator[None]:
        """So many calls will not be made if the ledger goes away inside: what they were for is not known."""
        try:
            yield
        except LedgerError:
            self.give_back(count)
            raise

    def halted(self) -> bool:
        """Whether RunPod has just answered 429 to a call of this operation: calls that have not left yet stay."""
        return self.budget.halted(self.endpoint_id, self.op)
