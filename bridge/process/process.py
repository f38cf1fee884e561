"""What runs in one process: started in the order in which it is written here, stopped in the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bridge.doors.http.server import HttpServer
from bridge.errors import SettingsError
from bridge.process.build_doors import gauges_of, http_parts, json_consumers, webhook_part
from bridge.process.build_engine import build_engine
from bridge.runtime import library_logs
from bridge.runtime.loop import Loop
from bridge.runtime.one_cpu import OneCpu
from bridge.telemetry import configure_logging
from bridge.telemetry.logs import trace_all
from bridge.telemetry.metrics import register_snapshot

if TYPE_CHECKING:
    from bridge.doors.celery.worker.task_events import TaskEvents
    from bridge.doors.json.loops import Consumers
    from bridge.engine.engine import Engine
    from bridge.engine.tell.finish import LocalFinish
    from bridge.process.components import Components
    from bridge.settings import Settings


class Process:
    """`start` once; `stop` may be called at any time, and again."""

    def __init__(self, has: Components) -> None:
        """Nothing runs before `start`."""
        self._has = has
        self.engine: Engine | None = None
        self._consumers: Consumers | None = None
        self._http: HttpServer | None = None
        self._task_events: tuple[TaskEvents, Loop] | None = None
        #: Loops that serve the process itself, and what closes each; stopped last.
        self._beside: list[tuple[Loop, Callable[[], None]]] = []

    def check(self) -> None:
        """Raises SettingsError, SchemaTooNew or LedgerUnavailable where nothing should start."""
        settings = self._has.settings
        configure_logging(settings.bridge_log_level, as_json=settings.bridge_log_json)
        library_logs.configure(as_json=settings.bridge_log_json)
        check_export(settings)
        self._has.check()

    def start(
        self,
        *,
        engine: bool,
        in_process_finish: LocalFinish | None = None,
        reads_finishes: bool = False,
        task_events: TaskEvents | None = None,
        others_code: bool = True,
    ) -> None:
        """The engine, the doors for plain JSON, HTTP; `check` comes first.

        `in_process_finish` tells ends in this process, where Celery's tasks run in it; `reads_finishes` where it is a
        worker that takes `bridge.finish`; `task_events` tells Celery's monitors; `others_code` says that more than the
        bridge may run here. Raises SettingsError.
        """
        has, settings = self._has, self._has.settings
        if engine:
            self.engine = build_engine(has, in_process_finish, reads_finishes=reads_finishes)
            has.notifier.engine = self.engine
            self.engine.start()
        if settings.bridge_json_doors:
            self._consumers = json_consumers(has)
            self._consumers.start()
        if task_events is not None:
            task_events.begin()
            self._task_events = task_events, Loop("task_events", task_events.once)
            self._task_events[1].start()
        register_snapshot(gauges_of(has))
        if settings.bridge_otel:
            from bridge.engine.otel.export import exporting  # noqa: PLC0415  (an extra, and heavy)

            self._beside += exporting(has.ledger)
        self._http = HttpServer(settings.bridge_http_connections_max)
        self._listen(self._http)
        # What stands now stands for good. To look at all of it for garbage stops every thread for 50 to 100 ms.
        gc.freeze()
        wanted = settings.bridge_one_cpu == "on" or (settings.bridge_one_cpu == "auto" and not others_code)
        if engine and wanted and OneCpu.possible():
            cpu = OneCpu()
            self._beside.append((Loop("one_cpu", cpu.once), cpu.let_go))
        for loop, _ in self._beside:
            loop.start()

    def _listen(self, http: HttpServer) -> None:
        settings = self._has.settings
        webhooks, apart, by_hand = webhook_part(self._has), settings.bridge_webhook_bind, settings.model_fields_set
        parts = http_parts(self._has, self._loops_turn) if settings.bridge_http_bind else []
        http.listen(
            "bridge_http_bind",
            settings.bridge_http_bind,
            parts if apart else [*parts, webhooks],
            by_hand="bridge_http_bind" in by_hand,
        )
        http.listen("bridge_webhook_bind", apart, [webhooks], by_hand="bridge_webhook_bind" in by_hand)

    def _loops_turn(self) -> bool:
        """Whether this process' loops turn, whatever else is down."""
        engine, consumers = self.engine, self._consumers
        return (engine is None or engine.healthy) and (consumers is None or consumers.healthy)

    def stop(self) -> bool:
        """No new leases, calls under way ended or given back. Whether all of it was done in time."""
        grace_s = self._has.settings.bridge_stop_grace_s
        http, self._http = self._http, None
        consumers, self._consumers = self._consumers, None
        engine, self.engine = self.engine, None
        events, self._task_events = self._task_events, None
        if http is not None:
            http.stop()
        held = consumers.stop(grace_s) if consumers is not None else True
        self._has.notifier.engine = None
        ended = engine.stop(grace_s) if engine is not None else True
        if events is not None:  # last: what has ended meanwhile is told too
            task_events, loop = events
            loop.stop()
            if loop.join(grace_s):
                task_events.close()
        beside, self._beside = self._beside, []
        for loop, close in beside:
            loop.stop()
            if loop.join(grace_s):
                close()
        return held and ended


def check_export(settings: Settings) -> None:
    """Raises SettingsError where OpenTelemetry is asked for and not installed."""
    if not settings.bridge_otel:
        return
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingsError("BRIDGE_OTEL: needs OpenTelemetry: pip install 'runpod-bridge[otel]'")
    trace_all()
