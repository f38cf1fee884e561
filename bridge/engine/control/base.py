"""What every part of control works with, and its calls to RunPod: each inside the shared budget (I9)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bridge.engine.endpoint_health.why_waiting import WhyWaiting
from bridge.errors import BUSY, ApiError
from bridge.job.enums import Phase
from bridge.job.request import rejected
from bridge.ledger.queries import scan
from bridge.runpod.limits.permits import Permits
from bridge.runpod.meaning import JOB_ID

if TYPE_CHECKING:
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient
    from bridge.runpod.operations import Operation
    from bridge.settings.config_file import Endpoint, EndpointBook

T = TypeVar("T")
#: Seconds that a caller waits for a permit of the budget before it is told to come again.
PERMIT_S = 2.0
#: Where a record is not done with.
LIVE_PHASES = tuple(phase for phase in Phase if phase is not Phase.CLOSED)
#: Milliseconds after which the permit of a caller that died counts as used.
SLOT_MS = 30_000


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and through which door; both stand in the event."""

    by: str | None = None
    door: str = "celery"
    #: Whose requests it may cancel; None: everybody's.
    tenant: str | None = None


class Base:
    """The parts that control is made of; built by `bridge.process`."""

    def __init__(
        self,
        ledger: Ledger,
        book: EndpointBook,
        endpoint_health: EndpointHealth,
        client_of: Callable[[str], RunPodClient],
        noticed: Callable[[Any], None],
        inline_limit: int,
        message_limit: int = 8 * 1024 * 1024,
        whole: Callable[[Held], str | None] = lambda held: held.output,
        link: Callable[[Held], dict[str, str] | None] = lambda _held: None,
    ) -> None:
        """`noticed` hears of every change that was written.

        `whole` gives an output from wherever it is kept; `link`, the address of one in the object store.
        """
        self.ledger = ledger
        self.book = book
        self.endpoint_health = endpoint_health
        self.why = WhyWaiting(ledger, book, endpoint_health)
        self.client_of = client_of
        self.noticed = noticed
        self.inline_limit = inline_limit
        self.message_limit = message_limit
        self.whole = whole
        self.link = link

    def job_of(self, job_id: str | None, endpoint: str | None) -> Endpoint:
        """The endpoint of a bare job. Raises JobRejected when either is missing, or the endpoint is not allowed."""
        if not job_id or not endpoint:
            raise rejected("id", "id: is required, or job_id together with endpoint")
        if not JOB_ID.fullmatch(job_id):
            raise rejected("job_id", "job_id: must be 1 to 200 of A-Z a-z 0-9 _ -")
        return self.book.resolve(endpoint)

    def in_use(self, name: str) -> bool:
        """Whether an endpoint is named in the settings, has ever answered with success, or has work that is not done.

        All others are names that somebody has misspelt: they are no trouble of anybody's.
        """
        if name in self.book.all():
            return True
        state = self.endpoint_health.gate.state(name)
        if state.ever_succeeded or state.paused:
            return True
        counts = self.ledger.counts(name)
        return any(counts.get(phase.value, 0) > 0 for phase in LIVE_PHASES)

    def named(self, endpoint: str) -> Endpoint:
        """The endpoint that a command is about. Raises JobRejected for one that nobody uses: see `in_use`."""
        found = self.book.resolve(endpoint)
        self.endpoint_health.gate.forget(found.name)
        if not self.in_use(found.name):
            known = {*self.book.all(), *filter(self.in_use, self.ledger.endpoints())}
            said = f"known are {', '.join(sorted(known)[:20])}" if known else "none is known yet"
            raise rejected(
                "endpoint",
                f"endpoint: {found.name!r} is not known: no setting names it, and no request has used it; {said}",
            )
        return found

    def held_by(self, endpoint: Endpoint, job_id: str) -> str | None:
        """The request of a job that was named by RunPod's id: what the bridge holds is its own to change."""
        return scan.of_job(self.ledger, endpoint.name, job_id)

    def call(self, endpoint: Endpoint, op: Operation, call: Callable[[RunPodClient], T]) -> T:
        """One call with a permit. Raises JobRejected when there is none for PERMIT_S, else what the client raises."""
        permits = self._permit(endpoint, op)
        with permits.spend():
            try:
                answer = call(self.client_of(endpoint.name))
            except ApiError as error:
                self.endpoint_health.failed(endpoint.name, endpoint.id, op, error)
                raise
        self.endpoint_health.ok(endpoint.name)
        return answer

    def _permit(self, endpoint: Endpoint, op: Operation) -> Permits:
        ends = time.monotonic() + PERMIT_S
        while True:
            permits = Permits.take(self.endpoint_health.budget, endpoint.id, op, slot_ms=SLOT_MS, kind="small")
            if permits.count:
                return permits
            wait = permits.retry_after_ms / 1000
            if time.monotonic() + wait > ends:
                after_s = max(1, math.ceil(wait))
                said = f"endpoint: {op.value} is busy; try again in {after_s} s"
                raise rejected("endpoint", said, reason=BUSY, retry_after_s=after_s)
            time.sleep(wait)
