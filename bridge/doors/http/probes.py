"""Health for orchestrators, and metrics for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.errors import LedgerUnavailable, SettingsError
from bridge.ledger import run_a_script
from bridge.runtime.open_files import few_left
from bridge.telemetry.metrics import REGISTRY

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.ledger import Ledger

#: Seconds. A server that hangs is one that does not answer, and whoever asks hears of it in time.
READY_S = 8.0


class Health:
    """`/healthz`, `/readyz` and `/metrics`."""

    def __init__(
        self,
        ledger: Ledger,
        pressure: Pressure,
        control: Control,
        endpoint_health: EndpointHealth,
        *,
        outbox_max: int,
        loops_turn: Callable[[], bool],
        broker_answers: Callable[[], None],
    ) -> None:
        """`broker_answers` raises OSError when it does not; more than `outbox_max` events behind is told."""
        self._ledger = ledger
        self._pressure = pressure
        self._control = control
        self._endpoint_health = endpoint_health
        self._outbox_max = outbox_max
        self._loops_turn = loops_turn
        self._broker_answers = broker_answers
        self._asking: asyncio.Future[dict[str, Any]] | None = None

    @property
    def routes(self) -> list[Route]:
        """The three of them."""
        return [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
        ]

    async def _healthz(self, _request: Request) -> Response:
        """Whether this process' loops turn, whatever else is down."""
        well = self._loops_turn()
        return JSONResponse({"ok": well}, 200 if well else 503)

    async def _readyz(self, _request: Request) -> Response:
        """Whether broker and ledger answer and an engine lives. RunPod's trouble is `degraded`, and still ready."""
        if self._asking is None or self._asking.done():  # one look for all who ask meanwhile
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._ready))
        try:
            told = await asyncio.wait_for(asyncio.shield(self._asking), READY_S)
        except TimeoutError:
            told = {"ready": False, "error": f"ledger or broker has not answered for {READY_S:.0f} s"}
        return JSONResponse(told, 200 if told["ready"] else 503)

    def _ready(self) -> dict[str, Any]:
        told: dict[str, Any] = {"ledger": "ok", "broker": "ok", "engines": 0, "degraded": []}
        try:
            run_a_script(self._ledger.client, self._ledger.names.key("probe"))
            told["engines"] = self._ledger.engines.count()
            told["intake"] = self._pressure.closed() or "open"
            told["degraded"] = [
                {"endpoint": name, "waiting_for": why}
                for name in filter(self._control.in_use, self._ledger.endpoints())
                if (why := self._endpoint_health.waiting_for(name))
            ]
            if fault := self._control.book.fault:
                told["degraded"].append({"settings": fault})
            if few := few_left():
                told["degraded"].append(few)
            if rollbacks := self._ledger.engines.rollbacks():
                told["degraded"].append({"ledger_rolled_back": rollbacks})
            behind = self._ledger.outbox.lag()
            if behind.entries > self._outbox_max:
                told["degraded"].append({"outbox": behind.entries, "seconds": behind.seconds})
        except (LedgerUnavailable, SettingsError) as error:
            told["ledger"] = str(error)
        try:
            self._broker_answers()
        except OSError as error:
            told["broker"] = str(error)
        told["ready"] = told["ledger"] == told["broker"] == "ok" and told["engines"] > 0
        return told

    async def _metrics(self, _request: Request) -> Response:
        body = await run_in_threadpool(generate_latest, REGISTRY)
        return Response(body, media_type=CONTENT_TYPE_LATEST)
