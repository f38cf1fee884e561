"""`POST /v1/requests`: 202 means that the ledger holds the request (I1), and nothing else does."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.doors.http.api.guard import DOOR, Guard
from bridge.doors.http.api.tokens import Caller
from bridge.doors.http.problem import Problem
from bridge.doors.parse import RefusedMessage, Request, take
from bridge.engine.accept.accept import Origin, Prepared, Verdict
from bridge.job.request import REQUEST_ID, RunRequest, rejected

if TYPE_CHECKING:
    from bridge.doors.http.api.reading import Reading
    from bridge.engine.accept.accept import Accept
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.notifier import Notifier
    from bridge.ledger import Ledger

_JSON = re.compile(r"application/(json|cloudevents\+json)\s*(;|$)", re.IGNORECASE)
_TAKEN = {"accept-post": "application/json, application/cloudevents+json"}
_QUOTED = re.compile(r'".*"')
#: What a refusal says of the bytes themselves, as HTTP has it.
_OF_TYPE = ("content_type:", "content_encoding:")


class Submitting:
    """One route."""

    def __init__(
        self,
        guard: Guard,
        ledger: Ledger,
        accept: Accept,
        pressure: Pressure,
        notifier: Notifier,
        reading: Reading,
        *,
        replies_via: str,
    ) -> None:
        """`replies_via` (amqp, redis) is how `reply_to` is told, where a request names one."""
        self._guard = guard
        self._ledger = ledger
        self._accept = accept
        self._pressure = pressure
        self._notifier = notifier
        self._reading = reading
        self._via = replies_via

    @property
    def routes(self) -> list[Route]:
        """`POST /v1/requests`."""
        return [self._guard.route("/requests", self._submit, "POST", "submit")]

    async def _submit(self, http: HttpRequest, caller: Caller) -> Response:
        if not _JSON.match(http.headers.get("content-type", "").strip()):
            said = "content_type: send application/json or application/cloudevents+json, one request at a time"
            raise Problem("unsupported_media_type", said, field="content_type", headers=_TAKEN)
        body = await self._guard.body(http)
        told, ended = await self._guard.asked(lambda: self._held(http, body, caller))
        headers = {"location": f"/v1/requests/{told['id']}"}
        return JSONResponse(told, 200 if ended else 202, headers=headers)

    def _held(self, http: HttpRequest, body: bytes, caller: Caller) -> tuple[dict[str, Any], bool]:
        """Blocks. The document, and whether it was there before and has ended."""
        request, key = self._read(http, body), _key(http)
        if key and request.id != key:
            raise rejected("id", "id: differs from the header Idempotency-Key; give one of them, or the same")
        if request.id in {".", ".."}:
            raise rejected("id", "id: no address can be made of it; give another, or none")
        run = self._of_tenant(request.run, caller)
        origin = Origin(door=DOOR, via=self._via, correlation_id=request.correlation_id, trace=request.trace)
        prepared = self._accept.prepare(request.id or str(uuid.uuid4()), run, origin)
        self._room(prepared)
        verdict = self._accept.many([prepared])[0]
        self._notifier.accepted(verdict)
        fault = verdict.fault
        if fault is not None and fault.document.get("field") == "callback" and self._may_hear(verdict, caller):
            raise fault
        if verdict.kind == "conflict" or not self._may_hear(verdict, caller):
            # The same sentence where it is another tenant's: an id is everybody's.
            said = f"id: {verdict.request_id} has been used for another request (endpoint, input or policy differ)"
            raise Problem("id_conflict", said, field="id")
        told = self._reading.document(verdict.request_id)
        return told, verdict.kind == "repeat" and bool(told["completed"])

    @staticmethod
    def _read(http: HttpRequest, body: bytes) -> Request:
        headers = http.headers
        properties = {
            "content_type": headers.get("content-type"),
            "content_encoding": headers.get("content-encoding"),
            "message_id": _key(http),
        }
        taken = take(body, dict(headers), DOOR, {name: value for name, value in properties.items() if value})
        if isinstance(taken, Request):
            return taken
        assert isinstance(taken, RefusedMessage)  # noqa: S101  (commands are not asked for)
        if taken.message.startswith(_OF_TYPE):
            raise Problem("unsupported_media_type", taken.message, field=taken.message.partition(":")[0])
        if taken.reason == "unknown_kind" and taken.op:
            said = "op: this is a command; over HTTP it is POST /v1/requests/{id}/cancel and the like"
            raise Problem("unknown_kind", said, field="op")
        raise Problem(taken.reason, taken.message, field=taken.field, id=taken.id)

    @staticmethod
    def _of_tenant(run: RunRequest, caller: Caller) -> RunRequest:
        """A token speaks for its tenant alone."""
        if not caller.tenant:
            return run
        if run.reply_to is not None:
            raise rejected("reply_to", "reply_to: a tenant's token may not write to queues; follow .../events instead")
        if run.metadata.get("tenant", caller.tenant) != caller.tenant:
            raise rejected("metadata.tenant", f"metadata.tenant: must be {caller.tenant}, or left out")
        return run.model_copy(update={"metadata": {**run.metadata, "tenant": caller.tenant}})

    def _room(self, prepared: Prepared) -> None:
        """One that is known already needs none."""
        record = prepared.held.record
        why = self._pressure.closed(record.endpoint)
        if why is not None and not self._ledger.knows(record.id):
            raise Problem("full", f"the bridge takes no more requests now ({why}); nothing was kept: send it again")

    def _may_hear(self, verdict: Verdict, caller: Caller) -> bool:
        if verdict.kind == "accepted":
            return True
        accepted = verdict.accepted
        tenant = accepted.held.record.tenant if accepted.held else str((accepted.tombstone or {}).get("tn", ""))
        return caller.owns(tenant) or caller.may("read_all")


def _key(http: HttpRequest) -> str:
    """The header, as it is or as the string of a structured field. Raises JobRejected where it names none, or two."""
    given = http.headers.getlist("idempotency-key")
    found = {text[1:-1] if _QUOTED.fullmatch(text) else text for text in map(str.strip, given)}
    if len(found) > 1 or not all(map(REQUEST_ID.fullmatch, found)):
        said = "idempotency_key: must be one id (1 to 200 of A-Z a-z 0-9 . _ : -), or left out"
        raise rejected("idempotency_key", said)
    return found.pop() if found else ""
