"""Every error of the HTTP door: problem+json (RFC 9457), in the words of the other doors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from bridge.errors import (
    BUSY,
    ApiError,
    BridgeError,
    JobError,
    JobRejected,
    LedgerUnavailable,
    OutputUnavailable,
    Throttled,
)
from bridge.telemetry import tell

CONTENT_TYPE = "application/problem+json"
#: Seconds after which it is worth asking again, where nothing better is known.
AGAIN_S = 2

#: reason -> (HTTP status, title)
REASONS: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "This cannot be read"),
    "unknown_kind": (400, "This is no request"),
    "unauthorised": (401, "A token is needed"),
    "forbidden": (403, "This is not allowed"),
    "unknown": (404, "There is nothing of this name"),
    "no_output": (404, "The request has no output"),
    "method_not_allowed": (405, "This address does not take this method"),
    "timeout": (408, "This came too slowly"),
    "id_conflict": (409, "The id has been used for another request"),
    "not_ended": (409, "The request has not ended"),
    "not_retryable": (409, "The request cannot be retried"),
    "not_retained": (410, "The output is no longer kept"),
    "changed": (412, "The output is another one"),
    "too_large": (413, "This is too large"),
    "unsupported_media_type": (415, "This content type is not taken"),
    "range": (416, "The output has no such part"),
    "rejected": (422, "A rule is broken"),
    "rate": (429, "Too many requests"),
    "head_too_large": (431, "The request's head is too large"),
    "failed": (500, "The bridge has failed"),
    "runpod": (502, "RunPod did not do it"),
    "busy": (503, "The bridge is busy"),
    "full": (503, "The bridge is full"),
    "ledger_unavailable": (503, "The ledger is away"),
    "output_unavailable": (503, "The output cannot be read now"),
}  # fmt: skip
#: Where what a setting switches on is served.
_SWITCHED = {"BRIDGE_API": "/v1", "BRIDGE_CONSOLE": "/console"}
_WAITS = frozenset({"busy", "full", "ledger_unavailable", "output_unavailable", "rate", "not_ended"})


class Problem(Exception):
    """One of REASONS, with what it says of this request."""

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """`field` is the argument at fault; `more` are further members of the document."""
        super().__init__(reason, detail)
        self.reason = reason
        self.status, self.title = REASONS[reason]
        self._told = {"detail": detail, "field": field, **more}
        self._headers = dict(headers or {})
        if reason in _WAITS:
            self._headers["retry-after"] = str(AGAIN_S if retry_after_s is None else retry_after_s)

    def response(self) -> Response:
        """The answer."""
        told = {"type": f"urn:bridge:problem:{self.reason}", "title": self.title, "status": self.status}
        told |= {"reason": self.reason, **{name: value for name, value in self._told.items() if value is not None}}
        body = json.dumps(told, ensure_ascii=True)
        return Response(body, self.status, headers=self._headers, media_type=CONTENT_TYPE)


def unknown(request_id: str) -> Problem:
    """The same for a request that nobody has sent and for one that is none of the caller's."""
    return Problem("unknown", f"id: the bridge knows no request {request_id}", field="id")


def problem_of(error: Exception) -> Problem:  # noqa: C901, PLR0911  (a table)
    """Whatever was raised, as its answer."""
    match error:
        case Problem():
            return error
        case JobRejected():
            return _of_rejected(error)
        case LedgerUnavailable():
            return Problem("ledger_unavailable", "the ledger does not answer; send it again")
        case OutputUnavailable():
            return Problem("output_unavailable", str(error))
        case Throttled():
            after_s = max(1, math.ceil(error.delay_s or AGAIN_S))
            return Problem("busy", f"RunPod is busy: {error}; try again in {after_s} s", retry_after_s=after_s)
        case ApiError():
            return Problem("runpod", f"{type(error).__name__}: {error}")
        case BridgeError() | JobError():
            return Problem("failed", str(error))
        case ClientDisconnect():  # nobody hears it
            return Problem("timeout", "the body has not come to its end")
        case HTTPException(status_code=405):
            said = f"this address takes {(error.headers or {}).get('Allow', 'other methods')}"
            return Problem("method_not_allowed", said, headers=error.headers)
        case HTTPException(status_code=404):
            return Problem("unknown", "there is nothing at this address; docs/http-api.md lists those of the API")
        case HTTPException():
            return Problem("malformed", str(error.detail))
    tell("api.failed", error=f"{type(error).__name__}: {error}")
    return Problem("failed", f"{type(error).__name__}; the bridge's log has more")


def _of_rejected(fault: JobRejected) -> Problem:
    told, field = fault.document, str(fault.document.get("field", "arguments"))
    if told.get("unknown"):
        return Problem("unknown", fault.message, field=field)
    if told.get("reason") == BUSY:
        return Problem("busy", fault.message, field=field, retry_after_s=told.get("retry_after_s"))
    return Problem("rejected", fault.message, field=field)


async def http_error(_request: Request, error: Exception) -> Response:
    """What the routes themselves refuse, an address or a method, as a problem document: an app's exception handler."""
    return problem_of(error).response()


async def not_served(request: Request, error: Exception) -> Response:
    """The 404 of the whole server: what is switched off names its switch."""
    served = [str(getattr(route, "path", "")) for route in request.app.routes]
    for switch, at in _SWITCHED.items():
        if request.url.path.startswith(at) and not any(path.startswith(at) for path in served):
            said = f"there is nothing at this address: BRIDGE_HTTP_BIND serves it where {switch} is on"
            return Problem("unknown", said).response()
    return problem_of(error).response()
