"""Submits accepted requests: leases as many as there are permits and threads, and lets one POST leave for each.

A record moves to SUBMITTING only as its POST leaves (`sending`), so that a crash before that costs nothing and a
crash after it is told apart (I6, HARDENING 1). Never sends twice by itself: what an answer leaves open is the table's.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from bridge.engine.calls.endpoint_isolation import apart_in_step
from bridge.engine.calls.hurried import Hurried, permitted
from bridge.engine.calls.threads import Planned
from bridge.engine.calls.write_queue import FULL_S
from bridge.engine.watch.observation import observation_of
from bridge.errors import (
    ApiError,
    EndpointPaused,
    EndpointTrouble,
    JobRejected,
    KeyUnusable,
    LedgerError,
    LedgerUnavailable,
    Refused,
    SettingsError,
    Throttled,
    Unreachable,
)
from bridge.job.enums import Step, is_end
from bridge.job.record import Long
from bridge.job.request import (
    BODY_START,
    RUN_BODY_MAX,
    RUNSYNC_BODY_MAX,
    SYNC_WAIT_MAX_MS,
    callback_url,
    rest_of_body,
    too_large,
)
from bridge.ledger import Claimed
from bridge.ledger.records.read import COMMON
from bridge.redis.pipelined import Work, in_step
from bridge.runpod.limits.circuit_breaker import Denied
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.engine.submit.spending import Spending
    from bridge.engine.watch.poll_pace import Pace
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.job.observation import Observation
    from bridge.ledger import Due, Ledger
    from bridge.runpod.answers import JobState
    from bridge.runpod.client import RunPodClient, Told
    from bridge.settings.config_file import Endpoint, EndpointBook

#: Seconds between looks when nothing is due; new work wakes the loop.
IDLE_S = 1.0
#: How often a request is tried that is not taken while others are, and how many ms it rests between two tries.
DENIALS_MAX, REST_MS = 3, 5_000


@dataclass(frozen=True, slots=True)
class Submit:
    """One `once()` claims, marks and dispatches a batch for every endpoint that has something to submit."""

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth
    book: EndpointBook
    callers: Callers
    sync_callers: Callers
    pace: Pace
    client_of: Callable[[str], RunPodClient]
    lease_ms: int
    slot_ms: int
    observed: Callable[[Held, Observation, int], None]
    webhook_base: str | None = None
    spending: Spending | None = None
    #: Endpoints whose cap, or whose tenants' caps, held work back: an end makes room there.
    capped: set[str] = field(default_factory=set)
    #: Requests that have come alone.
    hurried: Hurried = field(default_factory=Hurried, init=False)
    #: Leases of records that may have been marked, and whose POST did not leave: see `_take_back`.
    _unsent: list[Claimed] = field(default_factory=list, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        self._take_back()
        self.hurried.forget()
        # Who has least to do comes first: a flood of one endpoint costs another no turn.
        dues = sorted(self.ledger.due(Step.SUBMIT, Step.SUBMIT_SYNC), key=lambda due: due.ready)
        count = Counter(due.step for due in dues)
        free = {
            Step.SUBMIT: Planned(self.callers, count[Step.SUBMIT]),
            Step.SUBMIT_SYNC: Planned(self.sync_callers, count[Step.SUBMIT_SYNC]),
        }
        turns = [
            apart_in_step(f"submit {due.endpoint}", self._endpoint(due.endpoint, due.step, due.ready, free[due.step]))
            for due in dues
        ]
        return min([IDLE_S, *in_step(self.ledger.client, turns)])

    def at_once(self) -> float:
        """What came alone, without a look at what is due; seconds until that must follow."""
        self._take_back()
        return self.hurried.work(self._one_at_once)

    def _one_at_once(self, due: Due) -> None:
        """As far as it can be; what is left is due."""
        try:
            endpoint = self.book.resolve(due.endpoint)
        except (JobRejected, SettingsError):
            return
        wanted, _ = self._wanted(endpoint, due.step, due.ready, self._callers(due.step).free_for(due.endpoint))
        if wanted <= 0:
            return
        permits, claimed = permitted(
            self.ledger, self._permits(endpoint, due.step, wanted), self._claim(endpoint, due.step, wanted)
        )
        self._send(endpoint, claimed, permits)

    def _endpoint(self, name: str, step: Step, ready: int, free: Planned) -> Work[float]:
        try:
            endpoint = self.book.resolve(name)
        except (JobRejected, SettingsError):
            return self._refuse_all(name, step, ready, f"endpoint: {name!r} is no longer allowed")
        part = free.free_for(name)
        wanted, wait = self._wanted(endpoint, step, ready, part)
        if wanted <= 0:
            return min(wait, FULL_S) if self._callers(step).free_for(name) > part else wait
        free.take(wanted)
        permits = yield from self._permits(endpoint, step, wanted)
        if permits.count == 0:
            return permits.retry_after_ms / 1000
        with permits.unused_if_away(permits.count):
            claimed = yield from self._claim(endpoint, step, permits.count)
        unused = permits.count - len(claimed.records)
        permits.give_back(unused)
        self._send(endpoint, claimed, permits)
        if unused and self.book.shares(endpoint) and ready > len(claimed.records):
            return self._held_back(name)
        self.capped.discard(name)
        return 0.0 if ready > len(claimed.records) and claimed.records else IDLE_S

    def _callers(self, step: Step) -> Callers:
        return self.sync_callers if step is Step.SUBMIT_SYNC else self.callers

    def _permits(self, endpoint: Endpoint, step: Step, wanted: int) -> Work[Permits]:
        sync = step is Step.SUBMIT_SYNC
        op, slot_ms = (Operation.RUNSYNC, SYNC_WAIT_MAX_MS) if sync else (Operation.RUN, 0)
        budget, slot_ms = self.endpoint_health.budget, self.slot_ms + slot_ms
        return Permits.taking(budget, endpoint.id, op, wanted, slot_ms=slot_ms, kind="paced")

    def _claim(self, endpoint: Endpoint, step: Step, wanted: int) -> Work[Claimed]:
        lease_ms = self.lease_ms + (SYNC_WAIT_MAX_MS if step is Step.SUBMIT_SYNC else 0)
        long, shares = (*COMMON, Long.INPUT, Long.S3CONFIG), self.book.shares(endpoint)
        return self.ledger.claiming(step, {endpoint.name: wanted}, lease_ms=lease_ms, long=long, shares=shares)

    def _wanted(self, endpoint: Endpoint, step: Step, ready: int, free: int) -> tuple[int, float]:
        """How many may be submitted as far as threads, caps and the gate go; else the seconds until another look."""
        room = self.writes.room()
        if room <= 0:  # what is with RunPod must reach the ledger before more is sent there
            return 0, FULL_S
        wanted = min(ready, free, room, self._room(endpoint))
        if wanted <= 0:
            return 0, self._held_back(endpoint.name) if free else IDLE_S
        ceiling = self.spending.over(endpoint) if self.spending is not None else None
        if ceiling is not None:
            return 0, self._refuse_all(endpoint.name, step, ready, ceiling)
        allowed, wait = self.endpoint_health.may_call(endpoint.name, submitting=True)
        if allowed is not None:
            wanted = min(wanted, allowed)
        trouble = self.endpoint_health.closed_too_long(endpoint.name)
        if wanted <= 0 and self.endpoint_health.to_be_asked(endpoint.name):
            self.callers.start(self.endpoint_health.ask_for_life, endpoint.name, endpoint.id, owner=endpoint.name)
        if wanted <= 0 and trouble is not None:  # one at a time still tries: it may be over
            message = f"endpoint: {endpoint.name} has answered {trouble} for too long"
            return 0, self._refuse_all(endpoint.name, step, ready, message)
        return wanted, wait or IDLE_S

    def _send(self, endpoint: Endpoint, claimed: Claimed, permits: Permits) -> None:
        """Mark those whose POST leaves now, in one round trip, and let it leave."""
        records = claimed.records
        if not records:
            return
        client = self.client_of(endpoint.name)
        hooks = {held.record.id: self._hook(held) for held in records}
        bodies = {held.record.id: self._body(held, hooks[held.record.id]) for held in records}
        wanted = [
            (
                held,
                self._sending(claimed.token, endpoint, client.base_url, bodies[held.record.id], hooks[held.record.id]),
            )
            for held in records
        ]
        try:
            with permits.unused_if_away(len(records)):
                changes = self.ledger.change_many(wanted, durable=True)
        except LedgerUnavailable:
            self._unsent.append(claimed)
            raise
        callers = self._callers(claimed.step)
        unused = 0
        for held, change in zip(records, changes, strict=True):
            if change.verdict == "sending":
                body = bodies[held.record.id]
                assert isinstance(body, bytes)  # noqa: S101  (a refused body changes to `refused`)
                if not self._begin(change.after, body, client, endpoint, permits):
                    callers.start(self._post, change.after, body, client, endpoint, permits, owner=endpoint.name)
            else:
                unused += 1
                self.writes.notice(change)
        permits.give_back(unused)

    def _take_back(self) -> None:
        """The ledger's answer to `sending` was lost, or its disk was slow: no POST has left, and this process knows it.

        Without this their leases would end, and each would count as a submit that nobody answered.
        """
        while self._unsent:
            claimed = self._unsent.pop()
            try:
                found = self.ledger.load_many([held.record.id for held in claimed.records])
                marked = [held for held in found.values() if held.record.lease == claimed.token]
                for change in self.ledger.change_many([(held, self.ledger.table.deferred) for held in marked]):
                    self.writes.notice(change)
                self.ledger.give_back(claimed, claimed.records)
            except LedgerUnavailable:
                self._unsent.append(claimed)
                raise

    def _sending(
        self, lease: str, endpoint: Endpoint, base_url: str, body: bytes | str, hook: str
    ) -> Callable[[Held, int], Change]:
        def make(held: Held, now: int) -> Change:
            if isinstance(body, str):
                return self.ledger.table.refused(held, now, body)
            return self.ledger.table.sending(held, now, lease, endpoint_id=endpoint.id, base_url=base_url, hook=hook)

        return make

    def _hook(self, held: Held) -> str:
        """The token of the request's callback address; a second submit keeps the first one's."""
        return held.record.hook or (secrets.token_hex(16) if self.webhook_base else "")

    def _body(self, held: Held, hook: str) -> bytes | str:
        """The body of the POST, or why there is none."""
        record = held.record
        arguments = held.json(Long.ARGUMENTS) or {}
        text = held.long.get(Long.INPUT)
        if text is None:
            return "input: is no longer there"
        callback = callback_url(self.webhook_base, record.id, hook) if self.webhook_base and hook else None
        rest = rest_of_body(arguments.get("policy"), held.json(Long.S3CONFIG), callback)
        body = (BODY_START + text + ("," + rest[1:] if rest else "}")).encode()
        limit = RUNSYNC_BODY_MAX if record.sync_wait_ms else RUN_BODY_MAX  # the endpoint's policy may have grown
        return body if len(body) <= limit else too_large(len(body), limit)

    def _begin(self, held: Held, body: bytes, client: RunPodClient, endpoint: Endpoint, permits: Permits) -> bool:
        """Let the POST leave at once, over a connection that is open; False where a thread must see to it."""
        if permits.op is Operation.RUNSYNC or permits.halted():
            return False
        leave = partial(client.begin_run, endpoint.id, body)
        return self.callers.begin(leave, self._answered, held, endpoint, permits, owner=endpoint.name)

    def _answered(self, held: Held, endpoint: Endpoint, permits: Permits, told: Told) -> None:
        with permits.spend():
            self._hear(held, endpoint, permits.op, told.answer)

    def _post(self, held: Held, body: bytes, client: RunPodClient, endpoint: Endpoint, permits: Permits) -> None:
        if permits.halted():  # RunPod has just said 429 to a call that left with this one
            permits.give_back(1)
            self.writes.put(held, self.ledger.table.deferred)
            return
        if permits.op is Operation.RUNSYNC:
            call = partial(client.runsync, endpoint.id, body, held.record.sync_wait_ms)
        else:
            call = partial(client.run, endpoint.id, body)
        with permits.spend():
            self._hear(held, endpoint, permits.op, call)

    def _hear(self, held: Held, endpoint: Endpoint, op: Operation, call: Callable[[], JobState]) -> None:
        """What comes of the POST: `call` makes it, or tells the answer of one that has left."""
        try:
            answer = call()
        except ApiError as error:
            self._not_taken(held, endpoint, op, error)
        else:
            self.endpoint_health.ok(endpoint.name, submitted=True)
            heard = observation_of(answer, held.record.attempt) if is_end(answer.status) else None

            def ended(change: Change) -> None:  # /runsync brought the end too: written behind the job id
                if heard is not None:
                    self.observed(change.after, heard, 1_000)

            self.writes.put(held, self._taken(answer), ended)

    def _taken(self, answer: JobState) -> Callable[[Held, int], Change]:
        status = answer.status if not is_end(answer.status) else "IN_PROGRESS"

        def make(held: Held, now: int) -> Change:
            poll_ms = self.pace.first_ms(held.record.endpoint)
            return self.ledger.table.submitted(held, now, answer.job_id, status, poll_ms=poll_ms)

        return make

    def _not_taken(self, held: Held, endpoint: Endpoint, op: Operation, error: ApiError) -> None:
        table = self.ledger.table
        if isinstance(error, Refused) and not error.foreign:
            message = f"input: RunPod refused the request: {error.message}"
            self.endpoint_health.ok(endpoint.name, submitted=True)
            self.writes.put(held, lambda fresh, now: table.refused(fresh, now, message))
            return
        if isinstance(error, EndpointTrouble | Refused):
            try:
                if self._turned_away(held, endpoint, op, error):
                    return
            except LedgerError:  # whose trouble it is cannot be asked now; it was not taken, whosever it is
                self.writes.put(held, table.deferred)
                return
        self.endpoint_health.failed(endpoint.name, endpoint.id, op, error)
        if isinstance(error, EndpointTrouble | Throttled | Unreachable):  # nothing was done
            self.writes.put(held, table.deferred)
            return
        tell("submit.unanswered", request_id=held.record.id, endpoint=endpoint.name, error=error.logged)
        self.writes.put(held, lambda fresh, now: table.unanswered(fresh, now, seen=True))

    def _turned_away(self, held: Held, endpoint: Endpoint, op: Operation, error: EndpointTrouble | Refused) -> bool:
        """The request is refused, or waits because it was not taken; False where it is the key that cannot be used."""
        if self._refuses_at_once(endpoint, op, error):
            too_long = self.endpoint_health.closed_too_long(endpoint.name)
            why = "is still in trouble" if too_long else "has never answered with success"
            message = f"endpoint: {endpoint.name} ({endpoint.id}) {why}: {error.message}"
            self.writes.put(held, partial(self.ledger.table.refused, message=message, field="endpoint"))
            return True
        if isinstance(error, KeyUnusable):
            return False
        self._denied(held, endpoint, error)
        return True

    def _refuses_at_once(self, endpoint: Endpoint, op: Operation, error: ApiError) -> bool:
        too_long = self.endpoint_health.closed_too_long(endpoint.name) is not None
        if too_long:
            self.endpoint_health.failed(endpoint.name, endpoint.id, op, error)  # spaces the next try
        if isinstance(error, EndpointPaused):  # no typing error: the endpoint and its key are known
            return too_long
        # Where /health answers, name and key are right.
        return too_long or (
            self.endpoint_health.refuses_at_once(endpoint.name)
            and self.endpoint_health.is_whole(endpoint.name, endpoint.id) is not False
        )

    def _denied(self, held: Held, endpoint: Endpoint, error: ApiError) -> None:
        """It was not taken: by the endpoint, then it waits; or it alone was not, then it ends when it was tried enough.

        However that is, the next try is another request's.
        """
        table, record = self.ledger.table, held.record
        verdict, reason = self.endpoint_health.denied(
            endpoint.name, endpoint.id, record.id, error, before_ms=record.denied_at
        )
        says = (error.answered or error.message)[:300]
        denials = 0 if verdict is Denied.SHARED else record.denials + 1
        if denials >= DENIALS_MAX:
            message = f"input: not taken in {denials} tries, while the endpoint answers others: {says}"
            self.writes.put(held, lambda fresh, now: table.refused(fresh, now, message))
            return
        if verdict is not Denied.SHARED:
            tell(
                "submit.denied",
                request_id=record.id,
                endpoint=endpoint.name,
                reason=reason,
                error=error.logged,
                tries=denials,
            )
        put = partial(table.denied, denials=denials, reason=reason, says=says, rest_ms=REST_MS)
        self.writes.put(held, put)

    def _room(self, endpoint: Endpoint) -> int:
        """About how many more jobs of this endpoint may be in flight; the claim itself is exact, over all processes."""
        if endpoint.max_in_flight is None:
            return 1 << 30
        return max(0, endpoint.max_in_flight - self.ledger.counts(endpoint.name).get("flying", 0))

    def _held_back(self, name: str) -> float:
        """An end wakes this loop from now on; one that came just before is found by another look, soon."""
        if name in self.capped:
            return IDLE_S
        self.capped.add(name)
        return FULL_S

    def _refuse_all(self, name: str, step: Step, ready: int, message: str) -> float:
        """Requests that waited will never be submitted: each is told so, once."""
        claimed = self.ledger.claim(step, {name: min(ready, 50)}, lease_ms=self.lease_ms)
        refused = partial(self.ledger.table.refused, message=message, field="endpoint")
        for change in self.ledger.change_many([(held, refused) for held in claimed.records]):
            self.writes.notice(change)
        return 0.0 if claimed.records else IDLE_S
