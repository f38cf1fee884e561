"""The Celery app: `celery -A bridge.app worker` consumes the bridge's queues and runs the engine.

The engine is a step of the worker's own blueprint, so it outlives reconnects of the broker; it runs in the main
process, beside whatever pool executes the tasks.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down

from bridge import celeryconfig, wiring
from bridge.doors import hold, intake, remote, servers, tasks
from bridge.doors.finish_here import finish_here
from bridge.doors.node import Unusable
from bridge.engine.finish import QUEUE as FINISHES
from bridge.errors import (
    SETTINGS_CODE,
    UNAVAILABLE_CODE,
    LedgerUnavailable,
    SchemaTooNew,
    ServerUnavailable,
    SettingsError,
)
from bridge.settings import load
from bridge.telemetry import configure_logging, tell

if TYPE_CHECKING:
    from celery.worker import WorkController


class BridgeCelery(Celery):  # type: ignore[misc]
    """Celery, with its settings from the bridge's own: a `celeryconfig` of the working directory is never read."""

    def __init__(self) -> None:
        """Settings are read when they are first needed, so that importing this module checks nothing."""
        super().__init__("bridge", config_source=None, set_as_current=True)
        self.config_from_object(_LazyConfig())

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  (Celery's name)
        """What `celery worker` starts."""
        return self.subclass_with_self("bridge.doors.node:Node")


class _LazyConfig:
    """An object of settings that is filled at first look."""

    def __getattr__(self, name: str) -> Any:
        config = self._config()
        if name in config:
            return config[name]
        raise AttributeError(name)

    def _config(self) -> dict[str, Any]:
        found = self.__dict__.get("_found")
        if found is None:
            try:
                found = celeryconfig.build(load())
            except SettingsError as error:
                raise Unusable(*error.faults) from None
            self.__dict__["_found"] = found
        return found

    def __dir__(self) -> list[str]:
        return list(self._config())


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the engine beside the pool."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012  (Celery's form)

    def __init__(self, worker: WorkController, **_kwargs: Any) -> None:
        """Celery builds it."""
        self.bridge: wiring.Bridge | None = None
        super().__init__(worker)

    def start(self, worker: WorkController) -> None:
        """After the pool has forked, so that no connection is shared with its children."""
        hold.stopping.clear()
        try:
            self._start(worker)
        except (SettingsError, SchemaTooNew) as error:
            # Celery would show a traceback for what one sentence says.
            tell("settings.unusable", error=str(error))
            self._give_up(worker, SETTINGS_CODE)
        except LedgerUnavailable as error:
            tell("ledger.unavailable", error=f"{error}; is BRIDGE_REDIS_URL right?", waiting=0)
            self._give_up(worker, UNAVAILABLE_CODE)
        except ServerUnavailable as error:
            tell("results.unavailable", error=str(error))
            self._give_up(worker, UNAVAILABLE_CODE)

    def _give_up(self, worker: WorkController, code: int) -> NoReturn:
        """Celery stops nothing of a worker that has not started whole: neither what is begun here, nor its pool."""
        self.stop(worker)
        worker.pool.terminate()
        raise WorkerShutdown(code)

    def _start(self, worker: WorkController) -> None:
        self.bridge = wiring.current(worker.app)
        configure_logging(self.bridge.settings.bridge_log_level, as_json=self.bridge.settings.bridge_log_json)
        self.bridge.check()
        servers.open_results(worker.app)
        with suppress(ServerUnavailable):  # Celery tries on; what it would try for ever without a chance is told here
            servers.open_broker(worker.app)
        if self.bridge.settings.bridge_engine:
            reads = FINISHES in worker.app.amqp.queues.consume_from
            self.bridge.start_engine(finish_here(self.bridge, worker), reads_finishes=reads)
        self.bridge.start_doors()
        self.bridge.start_http()

    def stop(self, _worker: WorkController) -> None:
        """No new leases, calls under way ended or given back."""
        hold.stopping.set()
        if self.bridge is not None:
            if self.bridge.http is not None:
                self.bridge.http.stop()
            self.bridge.stop_doors()
            self.bridge.stop_engine()

    terminate = stop


@worker_shutting_down.connect
def _stopping(**_kwargs: Any) -> None:
    hold.stopping.set()


def create() -> BridgeCelery:
    """A new app with the bridge's tasks and steps."""
    made = BridgeCelery()
    tasks.register(made, partial(wiring.current, made))
    remote.register(partial(wiring.current, made))
    made.steps["worker"].add(EngineStep)
    made.steps["consumer"].add(intake.step(partial(wiring.current, made)))
    return made


app = create()
