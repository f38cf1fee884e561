"""Asking: nothing here changes a record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bridge.engine.control.base import Base
from bridge.errors import JobUnknown
from bridge.job.document import document, remembered, unpack_error
from bridge.job.enums import Phase, Status, is_end
from bridge.job.lenient_json import spelled
from bridge.job.record import Long
from bridge.job.request import check_request_id, rejected
from bridge.ledger.queries import scan
from bridge.ledger.records.read import ALL
from bridge.runpod.answers import ABSENT
from bridge.runpod.operations import Operation

if TYPE_CHECKING:
    from bridge.job.document import Held
    from bridge.settings.config_file import Endpoint


class Asking(Base):
    """Status of one request, and which requests there are."""

    def status(
        self,
        *,
        id: str | None = None,
        job_id: str | None = None,
        endpoint: str | None = None,
        refresh: bool = False,
        content: bool = False,
    ) -> dict[str, Any]:
        """The document of a request, or what RunPod says of a bare job. Raises JobRejected when neither is known.

        `id` may be that of a Celery task which has replaced itself by the request. `content` asks for a large output
        itself, up to BRIDGE_MESSAGE_LIMIT, and for the link to a larger one in the object store; raises
        OutputUnavailable when the store does not answer.
        """
        if id is None:
            found = self.job_of(job_id, endpoint)
            known = self.held_by(found, job_id or "")
            return self.status(id=known, refresh=refresh, content=content) if known else self._job(found, job_id or "")
        held = self.ledger.load(check_request_id(id), wanted=ALL, output=True)
        if held is None:
            tomb = self.ledger.tombstone(id)
            if tomb is None and (replacing := self.ledger.replacing(id)):
                return self.status(id=one_of(id, replacing), refresh=refresh, content=content)
            if tomb is None:
                raise rejected("id", f"id: the bridge knows no request {id}", id=id, unknown=True)
            return remembered(id, tomb)
        if refresh and held.record.phase is Phase.TRACKED:
            self.look_now(held)
        return self.document(held, content=content)

    def find(self, metadata: Mapping[str, Any]) -> list[str]:
        """Requests that have not ended and whose metadata says so, those that are free to cancel first."""
        wanted = {name: _spellings(value) for name, value in metadata.items()}

        def says_so(said: Mapping[str, Any]) -> bool:
            # A name that is missing says nothing: not even "None".
            return all(name in said and not words.isdisjoint(_spellings(said[name])) for name, words in wanted.items())

        return scan.find(self.ledger, Long.METADATA, says_so)

    def find_group(self, group: str) -> list[str]:
        """Requests that have not ended and belong to this Celery group (a chord's header is one)."""
        return scan.find(self.ledger, Long.CANVAS, lambda canvas: canvas.get("group") == group)

    def find_stamped(self, stamps: Mapping[str, Any]) -> list[str]:
        """Requests that have not ended and carry one of these stamps; each is a value, or a list of values."""
        wanted = {name: _all_spellings(values) for name, values in stamps.items()}
        return scan.find(self.ledger, Long.CANVAS, lambda canvas: _stamped(canvas, wanted))

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """Requests that have not ended: id, endpoint, phase, status, job_id."""
        found = []
        for held in scan.live(self.ledger, limit):
            record = held.record
            found.append({name: getattr(record, name) for name in ("id", "endpoint", "status", "job_id", "attempt")})
            found[-1]["phase"] = record.phase.value
        return found

    def records(self, request_ids: Sequence[str]) -> dict[str, Held]:
        """Those that are known, by id, in few round trips."""
        return scan.load_many(self.ledger, request_ids)

    def document(self, held: Held, *, content: bool = False) -> dict[str, Any]:
        """The whole document, with large outputs as references."""
        size = (held.json(Long.OUTPUT_REF) or {}).get("size", 0)
        if content and held.output is None and size <= self.message_limit:  # a larger one could not be told anyway
            held = held._replace(output=self.whole(held))
        limit = self.message_limit if content else self.inline_limit
        told = document(held, inline_limit=limit, clock_offset=self.ledger.clock.offset)
        if content and "output_ref" in told and (link := self.link(held)):
            told["output_ref"] = {**told["output_ref"], "link": link}
        waiting = self.why.of(held)
        return told | waiting.told() if waiting else told

    def look_now(self, held: Held) -> None:
        """Make the next status read of a request due now."""
        change = self.ledger.change(held, self.ledger.table.hinted)
        self.noticed(change)

    def _job(self, endpoint: Endpoint, job_id: str) -> dict[str, Any]:
        try:
            heard = self.call(endpoint, Operation.STATUS, lambda client: client.status(endpoint.id, job_id))
        except JobUnknown:
            fault = f"job_id: RunPod knows no job {job_id} of {endpoint.name}"
            raise rejected("job_id", fault, job_id=job_id, unknown=True) from None
        told: dict[str, Any] = {
            "id": None,
            "endpoint": endpoint.name,
            "endpoint_id": endpoint.id,
            "job_id": heard.job_id,
            "status": heard.status,
            "completed": is_end(heard.status),
            "succeeded": heard.status == Status.COMPLETED,
            "delayTime": heard.delay_time,
            "executionTime": heard.execution_time,
            "workerId": heard.worker_id,
            "error": unpack_error(heard.error),
        }
        if heard.odd:
            told["left_out"] = list(heard.odd)
        if heard.output is not ABSENT:
            text, nonfinite = spelled(heard.output)
            told |= {"output": json.loads(text), **({"nonfinite": nonfinite} if nonfinite else {})}
        return told


def one_of(task_id: str, replacing: Sequence[str]) -> str:
    """The request by which a task has replaced itself. Raises JobRejected where there are several."""
    if len(replacing) > 1:
        named = ", ".join(replacing[:20])
        raise rejected("id", f"id: {task_id} has replaced itself by {len(replacing)} requests; ask for one: {named}")
    return replacing[0]


def _stamped(canvas: Mapping[str, Any], wanted: Mapping[str, set[str]]) -> bool:
    carried = (canvas.get("options") or {}).get("stamps") or {}
    return any(not words.isdisjoint(_all_spellings(carried.get(name))) for name, words in wanted.items())


def _all_spellings(values: object) -> set[str]:
    """Of a stamp, which Celery lets be a value of any type, or several."""
    several = values if isinstance(values, list | tuple | set) else [values]
    return {word for value in several if value is not None for word in _spellings(value)}


def _spellings(value: object) -> set[str]:
    """How a value is written: in Python, in JSON (as on a command line), a whole number with a point and without."""
    match value:
        case None:
            return {"null"}
        case bool():
            return {str(value), str(value).lower()}
        case float() if value.is_integer():
            return {str(value), str(int(value))}
        case _:
            return {str(value)}
