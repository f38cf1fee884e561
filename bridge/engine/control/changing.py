"""Changing: cancel, retry, stream, pause, resume. The ledger alone; a bare job (`job_id` + `endpoint`) calls RunPod."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.engine.control.asking import Asking, one_of
from bridge.engine.control.base import Asker
from bridge.errors import BUSY, JobUnknown, Refused
from bridge.job.enums import Outcome, Status, Wish, is_end
from bridge.job.request import check_request_id, rejected
from bridge.job.strict_json import TEXT_MAX, plain
from bridge.ledger.endpoints import pause as endpoints
from bridge.ledger.queries import scan
from bridge.ledger.records.read import ALL
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.settings.config_file import Endpoint

#: Seconds that a retry waits for the last end to have been told.
TOLD_S, TOLD_LOOK_S = 2.0, 0.05
#: Requests cancelled in one round trip.
BATCH = 200
_OUTCOMES = {"cancelled": Outcome.CANCELLED, "already_ended": Outcome.ALREADY_ENDED, "unknown": Outcome.UNKNOWN}
_WHY_NOT = {
    "try_again": "its end is still being told; try again",
    "in_a_batch": "RunPod's Batch API has no retry; send it again, under another id",
    "expired": "RunPod has forgotten its job (it keeps an ended job 30 minutes, one of sync=True 1 minute)",
}


class Changing(Asking):
    """Every change says who asked, and by which door."""

    def cancel(
        self, *, id: str | None = None, job_id: str | None = None, endpoint: str | None = None, asker: Asker
    ) -> dict[str, Any]:
        """Cancel in whatever phase the request is. Answers `{id, job_id, status, outcome}`."""
        if id is None:
            found = self.job_of(job_id, endpoint)
            known = self.held_by(found, job_id or "")
            return self.cancel(id=known, asker=asker) if known else self._cancel_job(found, job_id or "", asker)
        return next(self.cancel_many([id], asker))

    def cancel_many(self, request_ids: Sequence[str], asker: Asker) -> Iterator[dict[str, Any]]:
        """The same for many, a round trip for a batch: the answers come as they are made, in the order of the ids.

        Those that nobody has sent yet end at once and cost nothing; put them first (`find` does). To an asker of one
        tenant another's requests are ones that nobody has sent.
        """
        for request_id in request_ids:
            check_request_id(request_id)
        for batch in scan.batches(request_ids, BATCH):
            held = scan.load_many(self.ledger, batch)
            known = [held[request_id] for request_id in batch if request_id in held and _may(asker, held[request_id])]
            wish = partial(self._wish, asker)
            changes = {c.record.id: c for c in self.ledger.change_many([(one, wish) for one in known])}
            for change in changes.values():
                self.noticed(change)
            for request_id in batch:
                found = changes.get(request_id) or self._wish_unknown(request_id, asker)
                yield self._cancelled(request_id, found, asker)

    def cancel_all(
        self, asker: Asker, *, where: Mapping[str, Any] | None = None, group: str | None = None
    ) -> dict[str, int]:
        """Cancel all that has not ended of a Celery group, or whose metadata says so: how many, of each outcome."""
        found = self.find_group(group) if group else self.find(where or {})
        outcomes = [answer["outcome"] for answer in self.cancel_many(found, asker)]
        return {"found": len(found), **{outcome.value: outcomes.count(outcome.value) for outcome in Outcome}}

    def _wish(self, asker: Asker, held: Held, now: int) -> Change:
        return self.ledger.table.wish(held, now, Wish.CANCEL, by=asker.by, door=asker.door)

    def _wish_unknown(self, request_id: str, asker: Asker) -> Change | str:
        """Kept for a request that has not come in yet (HARDENING 7), or carried out on those that have replaced it."""
        kept = self.ledger.wish(request_id, {"by": asker.by, "door": asker.door}, asker.tenant)
        if kept == "replaced":
            return self._wish_replaced(request_id, asker)
        if kept == "known":
            held = self.ledger.load(request_id, output=True)
            if held is not None and _may(asker, held):
                change = self.ledger.change(held, partial(self._wish, asker))
                self.noticed(change)
                return change
        return "already_ended" if kept == "ended" else "unknown"

    def _wish_replaced(self, task_id: str, asker: Asker) -> Change | str:
        """The change that speaks for all: one that is asked for before one that is done."""
        held = scan.load_many(self.ledger, self.ledger.replacing(task_id))
        changes = self.ledger.change_many([(one, partial(self._wish, asker)) for one in held.values()])
        for change in changes:
            self.noticed(change)
        ended = ("already_ended", "cancelled")
        return max(changes, key=lambda c: (c.verdict not in ended, c.verdict == ended[1]), default=ended[0])

    @staticmethod
    def _cancelled(request_id: str, change: Change | str, asker: Asker) -> dict[str, Any]:
        verdict = change if isinstance(change, str) else change.verdict
        record = None if isinstance(change, str) else change.record
        outcome = _OUTCOMES.get(verdict, Outcome.REQUESTED)
        tell(
            "cancel.asked",
            request_id=request_id,
            endpoint=record.endpoint if record else None,
            outcome=outcome.value,
            by=asker.by,
            door=asker.door,
        )
        return {
            "id": request_id,
            "job_id": (record.job_id or None) if record else None,
            "status": record.status if record else None,
            "outcome": outcome.value,
        }

    def _cancel_job(self, endpoint: Endpoint, job_id: str, asker: Asker) -> dict[str, Any]:
        try:
            heard = self.call(endpoint, Operation.CANCEL, lambda client: client.cancel(endpoint.id, job_id))
        except JobUnknown:
            status, outcome = None, Outcome.UNKNOWN
        else:
            status = heard.status
            outcome = Outcome.ALREADY_ENDED if is_end(status) else Outcome.REQUESTED
            outcome = Outcome.CANCELLED if status == Status.CANCELLED else outcome
        tell("cancel.asked", endpoint=endpoint.name, outcome=outcome.value, by=asker.by, door=asker.door)
        return {"id": None, "job_id": job_id, "status": status, "outcome": outcome.value}

    def retry(
        self, *, id: str | None = None, job_id: str | None = None, endpoint: str | None = None, asker: Asker
    ) -> dict[str, Any]:
        """Another round of a FAILED or TIMED_OUT request. Raises JobRejected for any other."""
        if id is None:
            found = self.job_of(job_id, endpoint)
            known = self.held_by(found, job_id or "")
            return self.retry(id=known, asker=asker) if known else self._retry_job(found, job_id or "")
        nonce, ends = secrets.token_hex(8), time.monotonic() + TOLD_S
        ask = partial(self.ledger.table.ask_retry, nonce=nonce, by=asker.by, door=asker.door)
        check_request_id(id)
        while True:
            held = self.ledger.load(id, wanted=ALL, output=True)
            if held is None:
                fault = f"id: the bridge knows no request {id}, or its retention is over"
                if replacing := self.ledger.replacing(id):
                    fault = (
                        f"id: {id} is a task that has replaced itself, and what follows the job is not run again; "
                        f"retry the job alone, by its own id: {', '.join(replacing[:20])}"
                    )
                raise rejected("id", fault, id=id, unknown=True)
            change = self.ledger.change(held, ask)
            # Whoever heard the end a moment ago may ask before the ledger has heard that it was told.
            if change.verdict != "try_again" or time.monotonic() > ends:
                break
            time.sleep(TOLD_LOOK_S)
        if change.verdict != "retrying":
            status = change.record.status
            why = _WHY_NOT.get(change.verdict, f"it ended {status}; only FAILED and TIMED_OUT can be retried")
            why = f"it is {status}, not ended" if change.verdict == "not_ended" else why
            more = {"reason": BUSY} if change.verdict == "try_again" else {}
            raise rejected("id", f"id: {id} cannot be retried: {why}", id=id, **more)
        self.noticed(change)
        return self.document(change.after)

    def _retry_job(self, endpoint: Endpoint, job_id: str) -> dict[str, Any]:
        try:
            heard = self.call(endpoint, Operation.RETRY, lambda client: client.retry(endpoint.id, job_id))
        except (JobUnknown, Refused) as error:
            fault = f"job_id: RunPod does not retry job {job_id} of {endpoint.name}: {error.message}"
            raise rejected("job_id", fault, job_id=job_id, unknown=isinstance(error, JobUnknown)) from None
        return {
            "id": None,
            "job_id": heard.job_id,
            "endpoint": endpoint.name,
            "endpoint_id": endpoint.id,
            "status": heard.status,
        }

    def stream(self, *, id: str) -> dict[str, Any]:
        """Turn streaming on for a request that is under way. Raises JobRejected when there is none."""
        held = self.ledger.load(check_request_id(id), wanted=ALL, output=True)
        if held is None and (replacing := self.ledger.replacing(id)):
            return self.stream(id=one_of(id, replacing))
        if held is None:
            raise rejected("id", f"id: the bridge knows no request {id}", id=id, unknown=True)
        if held.record.lane:
            fault = f"id: {id} cannot be streamed: RunPod's Batch API has no streams"
            raise rejected("id", fault, id=id)
        change = self.ledger.change(held, self.ledger.table.stream_on)
        self.noticed(change)
        return {"id": id, "status": change.record.status, "outcome": change.verdict}

    def pause(self, endpoint: str, reason: str | None, asker: Asker) -> dict[str, Any]:
        """No submit leaves for the endpoint in any process within a second."""
        _check_reason(reason)
        found = self.named(endpoint)
        data = told_of(found, asker, reason=reason)
        if endpoints.pause(self.ledger, found.name, data, reason=reason or "", by=asker.by or ""):
            tell("endpoint.paused", endpoint=found.name, reason=reason, by=asker.by, door=asker.door)
        self.endpoint_health.gate.forget(found.name)
        self.ledger.engines.wake()
        return {"endpoint": found.name, "paused": True, "reason": reason}

    def resume(self, endpoint: str, asker: Asker, reason: str | None = None) -> dict[str, Any]:
        """Submits leave again."""
        _check_reason(reason)
        found = self.named(endpoint)
        if endpoints.resume(self.ledger, found.name, told_of(found, asker, reason=reason)):
            tell("endpoint.resumed", endpoint=found.name, by=asker.by, door=asker.door)
        self.endpoint_health.gate.forget(found.name)
        self.ledger.engines.wake()
        return {"endpoint": found.name, "paused": False}


def _check_reason(reason: str | None) -> None:
    """It is told with every request that waits."""
    if reason is not None and not (len(reason) <= TEXT_MAX and plain(reason)):
        raise rejected("reason", f"reason: must be at most {TEXT_MAX} characters, without control characters")


def _may(asker: Asker, held: Held) -> bool:
    return asker.tenant is None or held.record.tenant == asker.tenant


def told_of(endpoint: Endpoint, asker: Asker, **more: Any) -> dict[str, Any]:
    """The `data` of an endpoint's event."""
    return {"endpoint": endpoint.name, "endpoint_id": endpoint.id, "by": asker.by, "door": asker.door, **more}
