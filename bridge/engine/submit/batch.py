"""Submits requests of the batch lane: fills a draft of RunPod's Batch API, one request at a time, and finalizes it.

Nothing of a draft is run or paid, so everything up to `finalize` may be done twice, given up, or die. Each request is
appended alone and the draft is read after it: RunPod gives ids of its own and names no caller, and a job that is taken
for another's would be a wrong result. What is known of the draft is in the ledger before `finalize` leaves, so that a
lost answer to it is looked up (`watch/batch.py`), never guessed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bridge.engine.calls.endpoint_isolation import apart
from bridge.errors import (
    ApiError,
    EndpointTrouble,
    JobRejected,
    JobUnknown,
    Refused,
    SettingsError,
    Throttled,
    Unreachable,
)
from bridge.job.enums import Status, Step
from bridge.job.record import Long
from bridge.job.request import BODY_START, RUN_BODY_MAX, rest_of_body, too_large
from bridge.ledger import Claimed
from bridge.ledger.records.read import COMMON
from bridge.ledger.stores.batches import Batch
from bridge.runpod import batches as api
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.engine.submit.spending import Spending
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient
    from bridge.settings.config_file import Endpoint, EndpointBook

T = TypeVar("T")

IDLE_S = 1.0
#: Requests claimed at once; each is appended alone.
CLAIM = 20
#: A draft is filled for so long at most, and its requests are leased for longer: whoever dies with it delays them.
FILL_S, LEASE_MS = 240.0, 600_000
#: Until a draft is tried again where RunPod takes none now (too many are active, or the API is not there).
REST_S = 5.0
#: So often in a row the Batch API must be missing, while the endpoint's health answers.
MISSING_MAX = 2
#: A record of the lane is looked at again after so long; its batch is watched apart.
NET_MS = 15 * 60_000
#: Requests on a page of the draft; seconds between looks for the one that was appended last.
PAGE, LOOKS_S = 50, (0.1, 0.4, 1.0)
#: So many requests that are not taken, or tries of one, while no other is: then the draft is given up, or the request.
DENIED_MAX = 3
#: A create that is not heard of for so long will not be; and so much RunPod's clock and the ledger's may differ, in ms.
UNHEARD_MS, SKEW_MS = 120_000, 600_000
#: Seconds beside FILL_S for what must be done once a draft is full.
SEND_S = 60.0


@dataclass(slots=True)
class _Draft:
    """A batch that is being filled."""

    batch: Batch
    endpoint: Endpoint
    client: RunPodClient
    ends_at: float  # monotonic
    #: Job ids to the requests that they are, and the lease of each.
    placed: dict[str, tuple[Held, str]] = field(default_factory=dict)
    #: Whether it may hold a job that is nobody's.
    tainted: bool = False


class _EnoughError(Exception):
    """No time, or no permit, for more of this draft."""


@dataclass(frozen=True, slots=True)
class BatchSubmit:
    """One `once()` begins a draft for every endpoint that has requests of the lane, one at a time in each process."""

    ledger: Ledger
    endpoint_health: EndpointHealth
    book: EndpointBook
    callers: Callers
    client_of: Callable[[str], RunPodClient]
    noticed: Callable[[Change], None]
    slot_ms: int
    gather_s: float
    spending: Spending | None = None
    _filling: set[str] = field(default_factory=set, init=False)
    _rests: dict[str, float] = field(default_factory=dict, init=False)
    _missing: dict[str, int] = field(default_factory=dict, init=False)
    _refusals: dict[str, int] = field(default_factory=dict, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        wait = IDLE_S
        for due in self.ledger.due(Step.SUBMIT_BATCH):
            if due.endpoint not in self._filling and due.ready:
                wait = min(wait, apart(f"batch {due.endpoint}", partial(self._endpoint, due.endpoint, due.ready)))
        return wait

    def _endpoint(self, name: str, ready: int) -> float:
        try:
            endpoint = self.book.resolve(name)
        except (JobRejected, SettingsError):
            return self._refuse_all(name, ready, f"endpoint: {name!r} is no longer allowed", "endpoint")
        ceiling = self.spending.over(endpoint) if self.spending is not None else None
        if ceiling is not None:
            return self._refuse_all(name, ready, ceiling, "endpoint")
        rest = self._rests.get(name, 0.0) - time.monotonic()
        allowed, wait = self.endpoint_health.may_call(name, submitting=True)
        if allowed == 0 and self.endpoint_health.to_be_asked(name):  # where all wait in the lane nobody else does
            self.callers.start(self.endpoint_health.ask_for_life, name, endpoint.id, owner=name)
        if rest > 0 or allowed == 0:
            return max(rest, wait) or IDLE_S
        if self.callers.free == 0 or self.callers.closing:
            return IDLE_S
        if self.ledger.batches.active(endpoint.id) >= api.ACTIVE_MAX:
            return IDLE_S
        self._filling.add(name)
        self.callers.start(self._fill, endpoint, ready, owner=name)
        return IDLE_S

    def _fill(self, endpoint: Endpoint, ready: int) -> None:
        try:
            draft = self._begin(endpoint, ready)
            if draft is not None:
                self._complete(draft)
        finally:
            self._filling.discard(endpoint.name)

    # A draft

    def _begin(self, endpoint: Endpoint, ready: int) -> _Draft | None:
        """An empty draft. It is made before anything is claimed: what RunPod does not take costs no request a try."""
        client = self.client_of(endpoint.name)
        ends_at = time.monotonic() + FILL_S
        try:
            batch = self._create(endpoint, client, ends_at)
        except _EnoughError:
            return None
        except JobUnknown as error:
            self._is_missing(endpoint, ready, error)
            return None
        except ApiError as error:
            self._rest(endpoint, error)
            self._misnamed(endpoint, ready, error)
            if isinstance(error, Refused | Throttled):
                self._clear_away(endpoint, client, ends_at)
            return None
        self._missing.pop(endpoint.name, None)
        return _Draft(batch, endpoint, client, ends_at)

    def _create(self, endpoint: Endpoint, client: RunPodClient, ends_at: float) -> Batch:
        """Raises what `_call` does. That it leaves is noted before, for a draft whose id is never heard."""
        token = secrets.token_hex(8)
        self.ledger.batches.creating(endpoint.id, token, at=self._epoch_ms())
        try:
            batch_id = self._call(endpoint, ends_at, partial(api.create, client, endpoint.id))
        except (_EnoughError, JobUnknown, Refused, Throttled, EndpointTrouble, Unreachable):  # there is no draft
            self.ledger.batches.created(endpoint.id, token)
            raise
        batch = Batch(batch_id, endpoint.name, endpoint.id, client.base_url)
        # Whoever finds it after this process has died throws it away; not while a lease of its requests may last.
        self.ledger.batches.watch(batch, in_ms=LEASE_MS + int((FILL_S + SEND_S) * 1000))
        self.ledger.batches.created(endpoint.id, token)
        return batch

    def _clear_away(self, endpoint: Endpoint, client: RunPodClient, ends_at: float) -> None:
        """Cancel the empty drafts whose create was not answered: a few of them, and RunPod takes no more batches.

        Each create that nobody heard of accounts for one: unknown here, and made when the create left.
        """
        unheard = self.ledger.batches.unheard(endpoint.id)
        over = {token: at for token, at in unheard.items() if self._epoch_ms() - at > UNHEARD_MS}
        if not over:
            return
        try:
            drafts = self._call(endpoint, ends_at, partial(api.empty_drafts, client, endpoint.id))
            known = self.ledger.batches.known(endpoint.id)
            drafts = [draft for draft in drafts if draft[0] not in known]
            for token, at in over.items():
                ours = [draft for draft in drafts if abs(draft[1] - at) < SKEW_MS]
                if ours:
                    draft = min(ours, key=lambda one: abs(one[1] - at))
                    drafts.remove(draft)
                    self._call(endpoint, ends_at, partial(api.cancel, client, endpoint.id, draft[0]))
                self.ledger.batches.created(endpoint.id, token)
        except (_EnoughError, ApiError) as error:
            self._rest(endpoint, error)

    def _epoch_ms(self) -> int:
        return self.ledger.now() - self.ledger.clock.offset

    def _complete(self, draft: _Draft) -> None:
        """Fill it, and let it go; or throw it away."""
        gone = False
        try:
            self._gather(draft)
            gone = bool(draft.placed) and not draft.tainted and not self.callers.closing and self._send(draft)
        finally:
            if not gone:
                self._throw_away(draft)

    def _gather(self, draft: _Draft) -> None:
        """Append what is due, until there is no more of it for a while, or the draft is full."""
        name = draft.endpoint.name
        idle_since: float | None = None
        shares = self.book.shares(draft.endpoint)
        while len(draft.placed) < api.REQUESTS_MAX and not self._over(draft):
            wanted = min(CLAIM, api.REQUESTS_MAX - len(draft.placed))
            long = (*COMMON, Long.INPUT, Long.S3CONFIG)
            step = Step.SUBMIT_BATCH
            claimed = self.ledger.claim(step, {name: wanted}, lease_ms=LEASE_MS, long=long, shares=shares)
            if not claimed.records:
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since >= self.gather_s:
                    return
                time.sleep(min(0.2, self.gather_s))
                continue
            idle_since = None
            if not self._place_all(draft, claimed):
                return

    def _place_all(self, draft: _Draft, claimed: Claimed) -> bool:
        """Append claimed requests; those that find no place are given back. Whether there may be more."""
        left, unplaced = list(claimed.records), []
        try:
            while left and not self._over(draft):
                held = left[0]
                if self.ledger.begins(claimed.token, held.record.id):
                    try:
                        placed = self._place(draft, held, claimed.token)
                    finally:
                        self.ledger.survived(claimed.token, held.record.id)
                    if not placed:
                        unplaced.append(held)
                left.pop(0)
                if len(unplaced) >= DENIED_MAX and not draft.placed:
                    return False
        except (_EnoughError, ApiError) as error:
            self._rest(draft.endpoint, error)
            return False
        finally:
            if left or unplaced:
                self.ledger.give_back(claimed, [*left, *unplaced])
        return True

    def _place(self, draft: _Draft, held: Held, token: str) -> bool:
        """Append one request, and learn which job it is. False where it alone finds no place now; raises ApiError.

        A draft that may hold a job of nobody's is `tainted`: it is thrown away, whatever else is in it.
        """
        body = _element(held)
        if isinstance(body, str):
            self._refuse(held, body)
            return True
        where = draft.client, draft.endpoint.id, draft.batch.id
        draft.tainted = True
        try:
            self._call(draft.endpoint, draft.ends_at, partial(api.append, *where, body))
        except Refused as error:
            draft.tainted = False
            return self._denied(draft, held, error)
        except (_EnoughError, Throttled, EndpointTrouble, Unreachable):  # nothing was done
            draft.tainted = False
            raise
        except ApiError:  # no answer: the draft tells whether it is in
            pass
        job_id = self._new_job(draft)
        if job_id is None:
            raise _EnoughError
        self.ledger.batches.placed(draft.batch, job_id, held.record.id)
        draft.placed[job_id] = held, token
        draft.tainted = False
        self._refusals.pop(held.record.id, None)
        return True

    def _denied(self, draft: _Draft, held: Held, error: Refused) -> bool:
        """It is refused where others are taken, or when it was tried often enough; else others go first.

        Not for a draft that takes nobody any more: another process has given it up, while this one stood still.
        """
        if not self._is_open(draft):
            draft.tainted = True
            raise _EnoughError
        tries = self._refusals[held.record.id] = self._refusals.get(held.record.id, 0) + 1
        if not draft.placed and tries < DENIED_MAX:
            return False
        self._refusals.pop(held.record.id, None)
        self._refuse(held, f"RunPod's Batch API refused the request: {error.message}")
        return True

    def _is_open(self, draft: _Draft) -> bool:
        where = draft.client, draft.endpoint.id, draft.batch.id
        try:
            state = self._call(draft.endpoint, draft.ends_at + SEND_S, partial(api.summary, *where))
        except JobUnknown:
            return False
        return state.status == api.DRAFT

    def _new_job(self, draft: _Draft) -> str | None:
        """The one job of the draft that is nobody's yet; None when none is seen within a few looks."""
        for pause_s in (*LOOKS_S, None):
            page = self._page(draft, len(draft.placed))  # its end, where the list is in the order of coming
            new = [job.job_id for job in page.jobs if job.job_id not in draft.placed]
            if not new and page.total > len(draft.placed):  # it is in another order: all of it
                new = self._all_new(draft)
            if page.total > len(draft.placed) + 1 or len(set(new)) > 1:
                return None  # somebody else writes here: nobody can tell whose each job is
            if new or pause_s is None:
                return new[0] if new else None
            time.sleep(pause_s)
        return None

    def _all_new(self, draft: _Draft) -> list[str]:
        new: list[str] = []
        offset, more = 0, True
        while more:
            page = self._page(draft, offset)
            new += [job.job_id for job in page.jobs if job.job_id not in draft.placed]
            offset += len(page.jobs)
            more = page.more and bool(page.jobs)
        return new

    def _page(self, draft: _Draft, offset: int) -> api.BatchPage:
        where = draft.client, draft.endpoint.id, draft.batch.id
        return self._call(draft.endpoint, draft.ends_at + SEND_S, partial(api.requests, *where, offset, PAGE))

    # The submit

    def _send(self, draft: _Draft) -> bool:
        """Mark all whose finalize leaves now, take the others out, and let it leave. Whether it may have."""
        table, batch = self.ledger.table, draft.batch
        if self.endpoint_health.waiting_for(draft.endpoint.name) == "paused":
            return False
        placed = list(draft.placed.items())
        wanted = [
            (
                held,
                partial(
                    table.sending,
                    lease=token,
                    endpoint_id=batch.endpoint_id,
                    base_url=batch.base_url,
                    batch_id=batch.id,
                ),
            )
            for _, (held, token) in placed
        ]
        changes = self.ledger.change_many(wanted, durable=True)
        going = {}
        for (job_id, _), change in zip(placed, changes, strict=True):
            if change.verdict == "sending":
                going[job_id] = change.after
            else:  # cancelled meanwhile, or the lease has ended: another draft has it
                self.noticed(change)
        if not going or not self._taken_out(draft, [job_id for job_id, _ in placed if job_id not in going]):
            self._change(going, table.deferred)
            return False
        return self._finalize(draft, going)

    def _taken_out(self, draft: _Draft, job_ids: list[str]) -> bool:
        """Whether these are no part of the draft any more."""
        where = draft.client, draft.endpoint.id, draft.batch.id
        for job_id in job_ids:
            try:
                self._call(draft.endpoint, draft.ends_at + SEND_S, partial(api.remove, *where, job_id))
            except JobUnknown:
                pass
            except (ApiError, _EnoughError):
                return False
        self.ledger.batches.dropped(draft.batch, job_ids)
        return True

    def _finalize(self, draft: _Draft, going: dict[str, Held]) -> bool:
        """The one call after which jobs run."""
        table = self.ledger.table
        where = draft.client, draft.endpoint.id, draft.batch.id
        try:
            self._call(draft.endpoint, draft.ends_at + SEND_S, partial(api.finalize, *where))
        except (_EnoughError, Throttled, EndpointTrouble, Unreachable) as error:  # nothing was done
            self._rest(draft.endpoint, error)
            self._change(going, table.deferred)
            return False
        except ApiError as error:
            tell("batch.unanswered", endpoint=draft.endpoint.name, batch=draft.batch.id, error=error.logged)
            self._change(going, partial(table.unanswered, seen=True))
        else:
            self.endpoint_health.ok(draft.endpoint.name, submitted=True)
            tell("batch.finalized", endpoint=draft.endpoint.name, batch=draft.batch.id, requests=len(going))
            makes = [
                (held, partial(table.submitted, job_id=job_id, status=Status.IN_QUEUE.value, poll_ms=NET_MS))
                for job_id, held in going.items()
            ]
            for change in self.ledger.change_many(makes):
                self.noticed(change)
        self.ledger.batches.watch(draft.batch, in_ms=500)
        return True

    def _throw_away(self, draft: _Draft) -> None:
        """Requests that are leased wait again; the draft is cancelled, here or by whoever looks at it next."""
        by_lease: dict[str, list[Held]] = {}
        for held, token in draft.placed.values():
            by_lease.setdefault(token, []).append(held)
        for token, records in by_lease.items():
            self.ledger.give_back(Claimed(token, Step.SUBMIT_BATCH, records), records)
        self.ledger.batches.watch(draft.batch, in_ms=0)

    # Calls and changes

    def _over(self, draft: _Draft) -> bool:
        return self.callers.closing or time.monotonic() >= draft.ends_at

    def _call(self, endpoint: Endpoint, ends_at: float, call: Callable[[], T]) -> T:
        """One call inside the budget (I9), which is waited for. Raises ApiError, noted; _EnoughError without time."""
        while True:
            op = Operation.BATCH
            permits = Permits.take(self.endpoint_health.budget, endpoint.id, op, slot_ms=self.slot_ms, kind="paced")
            if permits.count:
                break
            if self.callers.closing or time.monotonic() >= ends_at:
                raise _EnoughError
            time.sleep(min(1.0, max(0.02, permits.retry_after_ms / 1000)))
        with permits.spend():
            try:
                answer = call()
            except (JobUnknown, Refused):
                raise
            except ApiError as error:
                self.endpoint_health.failed(endpoint.name, endpoint.id, op, error)
                raise
        self.endpoint_health.ok(endpoint.name)
        return answer

    def _change(self, going: dict[str, Held], make: Callable[[Held, int], Change]) -> None:
        for change in self.ledger.change_many([(held, make) for held in going.values()]):
            self.noticed(change)

    def _refuse(self, held: Held, message: str, field: str = "input") -> None:
        refused = partial(self.ledger.table.refused, message=f"{field}: {message}", field=field)
        self.noticed(self.ledger.change(held, refused))

    def _refuse_all(self, name: str, ready: int, message: str, field: str) -> float:
        claimed = self.ledger.claim(Step.SUBMIT_BATCH, {name: min(ready, 50)}, lease_ms=LEASE_MS)
        refused = partial(self.ledger.table.refused, message=message, field=field)
        for change in self.ledger.change_many([(held, refused) for held in claimed.records]):
            self.noticed(change)
        return 0.0 if claimed.records else IDLE_S

    # Where RunPod takes none

    def _rest(self, endpoint: Endpoint, error: Exception) -> None:
        self._rests[endpoint.name] = time.monotonic() + REST_S
        said = error.logged if isinstance(error, ApiError) else "the draft could not be filled"
        tell("batch.denied", endpoint=endpoint.name, error=said)

    def _is_missing(self, endpoint: Endpoint, ready: int, error: ApiError) -> None:
        """404 of the API itself: refused in words where the endpoint is well, and only the Batch API is not there."""
        times = self._missing[endpoint.name] = self._missing.get(endpoint.name, 0) + 1
        well = self.endpoint_health.is_whole(endpoint.name, endpoint.id) is False
        if times < MISSING_MAX or not well:
            self._rests[endpoint.name] = time.monotonic() + IDLE_S
            return
        message = (
            f"lane: endpoint {endpoint.name} ({endpoint.id}) has no Batch API: RunPod answered 404 ({error.message}) "
            "while its health answers; send it without lane"
        )
        while self._refuse_all(endpoint.name, ready, message, "lane") == 0.0:
            pass
        tell("batch.missing", endpoint=endpoint.name, error=error.logged)

    def _misnamed(self, endpoint: Endpoint, ready: int, error: ApiError) -> None:
        """An endpoint that has never answered with success is a typing error: told, not waited for (as for /run)."""
        name = endpoint.name
        if not isinstance(error, EndpointTrouble) or not self.endpoint_health.refuses_at_once(name):
            return
        if self.endpoint_health.is_whole(name, endpoint.id) is not False:
            message = f"endpoint: {name} ({endpoint.id}) has never answered with success: {error.message}"
            self._refuse_all(name, ready, message, "endpoint")


def _element(held: Held) -> bytes | str:
    """The request as an element of a batch, in the form of a /run call; or why there is none."""
    text = held.long.get(Long.INPUT)
    if text is None:
        return "is no longer there"
    rest = rest_of_body((held.json(Long.ARGUMENTS) or {}).get("policy"), held.json(Long.S3CONFIG), None)
    body = (BODY_START + text + ("," + rest[1:] if rest else "}")).encode()
    most = RUN_BODY_MAX - len(api.APPEND_START) - len(api.APPEND_END)
    return body if len(body) <= most else too_large(len(body), most).removeprefix("input: ")
