"""The HTTP door: health for orchestrators, metrics for Prometheus, and RunPod's callbacks.

A callback is a hint, never the truth: RunPod does not sign it. It is believed so far that the job is looked at now; and
where a submit's answer was lost, that the job it names is asked about. Every read that follows is an engine's: leased,
so that any number of callbacks cause one, and inside the budget.
"""

from __future__ import annotations

import hmac
import json
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bridge import files
from bridge.doors.http_bounds import HEAD_MAX, bounded, bounded_protocol
from bridge.errors import BridgeError, LedgerUnavailable, SettingsError
from bridge.job.request import REQUEST_ID
from bridge.job.words import Phase
from bridge.telemetry import REGISTRY, tell

if TYPE_CHECKING:
    from bridge.wiring import Bridge

#: Bytes of a callback that are read at most; more is refused unread.
CALLBACK_MAX = 1024 * 1024
#: What RunPod's ids look like: anything else is evidence of nothing.
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9_-]{1,128})"')
#: What a token is compared with where there is none.
_NOBODYS = "0" * 32
START_S = 5.0


class HttpDoor:
    """Serves from a thread of its own until `stop`."""

    def __init__(self, bridge: Bridge) -> None:
        """Nothing is bound before `start`."""
        self._bridge = bridge
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []
        self.ports: list[int] = []

    def start(self) -> None:
        """Bind and serve. Raises SettingsError when an address that was set by hand is taken."""
        settings = self._bridge.settings
        webhook = Route("/webhooks/runpod/{request_id}/{token}", self._webhook, methods=["POST"])
        apart = bool(settings.bridge_webhook_bind)
        routes = [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            *([] if apart else [webhook]),
        ]
        self._serve("bridge_http_bind", settings.bridge_http_bind, routes)
        if apart:
            self._serve("bridge_webhook_bind", settings.bridge_webhook_bind, [webhook])

    def _serve(self, name: str, bind: str, routes: list[Route]) -> None:
        if not bind:
            return
        host, _, port = bind.rpartition(":")
        try:
            listener = socket.create_server((host.strip("[]") or "0.0.0.0", int(port)))  # noqa: S104  (as it was set)
        except OSError as error:
            if name in self._bridge.settings.model_fields_set:
                raise SettingsError(f"{name.upper()}: {bind}: {error.strerror}") from error
            tell("http.taken", bind=bind)
            return
        # uvloop would block the one thread of a gevent pool; asyncio's own loop goes through gevent's patched select.
        options: dict[str, Any] = {"loop": "asyncio", "log_level": "critical", "access_log": False, "lifespan": "off"}
        # No more than a quarter of what the process may open: the rest is for ledger, broker and RunPod.
        most = max(1, min(self._bridge.settings.bridge_http_connections_max, files.limit() // 4))
        protocol = bounded_protocol(most)
        config = uvicorn.Config(
            bounded(Starlette(routes=routes)), http=protocol, h11_max_incomplete_event_size=HEAD_MAX, **options
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), name=f"bridge-{name}", daemon=True)
        thread.start()
        ends = time.monotonic() + START_S
        while not server.started and thread.is_alive() and time.monotonic() < ends:
            time.sleep(0.01)
        self._servers.append((server, thread))
        self.ports.append(listener.getsockname()[1])
        tell("http.started", bind=f"{host}:{self.ports[-1]}")

    def stop(self) -> None:
        """Answer what is under way, and close."""
        for server, _ in self._servers:
            server.should_exit = True
        for _, thread in self._servers:
            thread.join(START_S)
        self._servers.clear()

    # Health

    async def _healthz(self, _request: Request) -> Response:
        """Whether this process' loops turn, whatever else is down."""
        engine, entrance = self._bridge.engine, self._bridge.entrance
        well = (engine is None or engine.healthy) and (entrance is None or entrance.healthy)
        return JSONResponse({"ok": well}, 200 if well else 503)

    async def _readyz(self, _request: Request) -> Response:
        """Whether broker and ledger answer and an engine lives. RunPod's trouble is `degraded`, and still ready."""
        told = await run_in_threadpool(self._ready)
        return JSONResponse(told, 200 if told["ready"] else 503)

    def _ready(self) -> dict[str, Any]:
        bridge = self._bridge
        told: dict[str, Any] = {"ledger": "ok", "broker": "ok", "engines": 0, "degraded": []}
        try:
            told["engines"] = bridge.ledger.engines()
            told["intake"] = bridge.pressure.closed() or "open"
            told["degraded"] = [
                {"endpoint": name, "waiting_for": why}
                for name in filter(bridge.control.in_use, bridge.ledger.endpoints())
                if (why := bridge.vitals.waiting_for(name))
            ]
            if few := files.few_left():
                told["degraded"].append(few)
            if rollbacks := bridge.ledger.rolled_back():
                told["degraded"].append({"ledger_rolled_back": rollbacks})
            behind = bridge.ledger.outbox.lag()
            if behind.entries > bridge.settings.bridge_outbox_max:
                told["degraded"].append({"outbox": behind.entries, "seconds": behind.seconds})
        except LedgerUnavailable as error:
            told["ledger"] = str(error)
        try:
            bridge.broker_answers()
        except OSError as error:
            told["broker"] = str(error)
        told["ready"] = told["ledger"] == told["broker"] == "ok" and told["engines"] > 0
        return told

    async def _metrics(self, _request: Request) -> Response:
        body = await run_in_threadpool(generate_latest, REGISTRY)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    # Callbacks

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
        return (
            JSONResponse({"ok": True})
            if whole
            else PlainTextResponse("too large", 413, headers={"connection": "close"})
        )

    def _called_back(self, request_id: str, token: str, body: bytes, whole: bool) -> None:
        """A hint only: the record is made due, and the engines' next read, inside the budget, tells what is true."""
        bridge = self._bridge
        held = bridge.ledger.load(request_id)
        expected = held.record.hook if held is not None else ""
        # As long for an unknown id as for a wrong token.
        if not hmac.compare_digest((expected or _NOBODYS).encode(), token.encode()) or not expected or held is None:
            tell("webhook.refused", why="forged" if expected else "unknown", request_id=request_id)
            return
        table, job_id = bridge.ledger.table, _job_id(body) if whole else _first_id(body)
        if held.record.phase in {Phase.SUBMITTING, Phase.UNANSWERED} and not held.record.job_id:
            if job_id is None:
                tell("webhook.refused", why="malformed", request_id=request_id)
                return
            change = bridge.ledger.change(held, lambda fresh, now: table.evidence(fresh, now, job_id))
        elif job_id is not None and table.names_another(held, job_id):
            change = bridge.ledger.change(held, lambda fresh, now: table.evidence(fresh, now, job_id))
        else:
            change = bridge.ledger.change(held, table.hinted)
        tell("webhook.received", request_id=request_id, endpoint=held.record.endpoint, result=change.verdict)
        bridge.noticed(change)


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
