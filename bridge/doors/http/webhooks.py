"""RunPod's callbacks: hints, never the truth, because RunPod does not sign them.

One is believed so far that the job is looked at now; and where a submit's answer was lost, that the job it names is
asked about. Every read that follows is an engine's: leased, so that any number of callbacks cause one, and inside the
budget.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.doors.http.problem import Problem
from bridge.errors import BridgeError
from bridge.job.enums import Phase
from bridge.job.request import REQUEST_ID
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.notifier import Notifier
    from bridge.ledger import Ledger

#: Bytes of a callback that are read at most; more is refused unread.
CALLBACK_MAX = 1024 * 1024
#: What RunPod's ids look like: anything else is evidence of nothing.
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9_-]{1,128})"')
#: What a token is compared with where there is none.
_NOBODYS = "0" * 32


class Webhooks:
    """One route."""

    def __init__(self, ledger: Ledger, notifier: Notifier) -> None:
        """Whom a callback makes due, and who hears of it."""
        self._ledger = ledger
        self._notifier = notifier

    @property
    def routes(self) -> list[Route]:
        """`POST /webhooks/runpod/<request id>/<token>`."""
        return [Route("/webhooks/runpod/{request_id}/{token}", self._webhook, methods=["POST"])]

    async def _webhook(self, request: Request) -> Response:
        """200 to every well-formed call, so that nothing can be learned from an answer.

        A body over CALLBACK_MAX (a large output comes back in it) is refused unread, and is a hint all the same.
        """
        request_id, token = request.path_params["request_id"], request.path_params["token"]
        body, whole = b"", True
        async for part in request.stream():
            body += part
            if len(body) > CALLBACK_MAX:
                whole = False
                break
        if REQUEST_ID.fullmatch(request_id):
            try:
                await run_in_threadpool(self._called_back, request_id, token, body, whole)
            except BridgeError as error:
                tell("webhook.refused", why="ledger", error=str(error), request_id=request_id)
        else:
            tell("webhook.refused", why="malformed", request_id=None)
        if whole:
            return JSONResponse({"ok": True})
        said = f"body: at most {CALLBACK_MAX} bytes are taken"
        return Problem("too_large", said, headers={"connection": "close"}).response()

    def _called_back(self, request_id: str, token: str, body: bytes, whole: bool) -> None:
        """A hint only: the record is made due, and the engines' next read, inside the budget, tells what is true."""
        held = self._ledger.load(request_id)
        expected = held.record.hook if held is not None else ""
        # As long for an unknown id as for a wrong token.
        if not hmac.compare_digest((expected or _NOBODYS).encode(), token.encode()) or not expected or held is None:
            tell("webhook.refused", why="forged" if expected else "unknown", request_id=request_id)
            return
        table, job_id = self._ledger.table, _job_id(body) if whole else _first_id(body)
        if held.record.phase in {Phase.SUBMITTING, Phase.UNANSWERED} and not held.record.job_id:
            if job_id is None:
                tell("webhook.refused", why="malformed", request_id=request_id)
                return
            change = self._ledger.change(held, lambda fresh, now: table.evidence(fresh, now, job_id))
        elif job_id is not None and table.names_another(held, job_id):
            change = self._ledger.change(held, lambda fresh, now: table.evidence(fresh, now, job_id))
        else:
            change = self._ledger.change(held, table.hinted)
        tell("webhook.received", request_id=request_id, endpoint=held.record.endpoint, result=change.verdict)
        self._notifier.changed(change)


def _job_id(body: bytes) -> str | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = told.get("id") if isinstance(told, dict) else None
    return found if isinstance(found, str) and JOB_ID.fullmatch(found) else None


def _first_id(begun: bytes) -> str | None:
    """RunPod names the job before it gives the input and the output back; whatever this finds is asked about first."""
    found = _ID.search(begun)
    return found[1].decode() if found else None
