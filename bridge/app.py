"""The Celery app: `celery -A bridge.app worker` consumes the bridge's queues and runs the engine.

The engine is a step of the worker's own blueprint, so it outlives reconnects of the broker; it runs in the main
process, beside whatever pool executes the tasks.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, bootsteps
from celery.app.backends import by_url
from celery.exceptions import WorkerShutdown
from celery.signals import worker_init, worker_process_init, worker_shutting_down

from bridge import celeryconfig
from bridge.doors.celery import send_follow_ups, servers, tasks
from bridge.doors.celery.consumer import pause_consuming, refuse
from bridge.doors.celery.consumer.queues import use_as_found
from bridge.doors.celery.finish.in_process import in_process_finish
from bridge.doors.celery.follow_up_queues import BridgeAMQP, Noticing
from bridge.doors.celery.results import known_ids
from bridge.doors.celery.results.backend import used_by_tasks
from bridge.doors.celery.wait_for_ledger import stopping
from bridge.doors.celery.worker import child_ends, child_metrics, logs, remote_control
from bridge.doors.celery.worker.node import Unusable
from bridge.doors.celery.worker.task_events import task_events_of
from bridge.doors.json.amqp_frames import reading_frames
from bridge.engine.tell import kombu_json
from bridge.engine.tell.finish import QUEUE as FINISHES
from bridge.errors import (
    SETTINGS_CODE,
    UNAVAILABLE_CODE,
    LedgerUnavailable,
    SchemaTooNew,
    ServerUnavailable,
    SettingsError,
)
from bridge.process import components
from bridge.process.build_doors import plain_ends, refusal_uses, task_uses
from bridge.process.process import Process
from bridge.redis.outage import with_remedy
from bridge.settings import load
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery.worker import WorkController


#: Names of tasks that hold no code of a user's.
_OWN_TASKS = ("bridge.", "celery.")


class BridgeCelery(Celery):  # type: ignore[misc]
    """Celery, with its settings from the bridge's own: a `celeryconfig` of the working directory is never read."""

    def __init__(self) -> None:
        """Settings are read when they are first needed, so that importing this module checks nothing."""
        super().__init__("bridge", config_source=None, set_as_current=True, amqp=BridgeAMQP)
        self.config_from_object(_LazyConfig())

    def _get_backend(self) -> Any:
        """From the setting, which is the address in Celery's words; `conf.result_backend` prefers the variable."""
        named = self.backend_cls or self.conf["result_backend"]
        servers.django_ready(str(named))
        made, url = by_url(named, self.loader)
        return used_by_tasks(made(app=self, url=url), lambda: components.current(self).ledger)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  (Celery's name)
        """What `celery worker` starts."""
        return self.subclass_with_self("bridge.doors.celery.worker.node:Node")

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Celery's own; while the end of a request is told, what cannot be sent behind it ends by itself.

        A queue of the bridge's own is used as it is found here too: by `bridge run`, say, which consumes nothing.
        """
        if isinstance(queue := options.get("queue"), str):
            use_as_found(self, queue)
        return send_follow_ups.send_task(self, super().send_task, name, args, kwargs, options)


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
        self.process: Process | None = None
        app = worker.app
        self.counts = child_metrics.of_worker(worker)
        self.noticing = Noticing(lambda: components.current(app).ledger.follow_ups, app.conf.task_default_queue)
        super().__init__(worker)

    def start(self, worker: WorkController) -> None:
        """After the pool has forked, so that no connection is shared with its children."""
        stopping.clear()
        try:
            self._start(worker)
        except (SettingsError, SchemaTooNew) as error:
            # Celery would show a traceback for what one sentence says.
            tell("settings.unusable", error=str(error))
            self._give_up(worker, SETTINGS_CODE)
        except LedgerUnavailable as error:
            variable = components.current(worker.app).settings.ledger_variable
            tell("ledger.unavailable", error=with_remedy(str(error), f"is {variable} right?"), waiting=0)
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
        has = components.current(worker.app)
        self.process = Process(has)
        self.process.check()
        servers.open_results(worker.app)
        for says in servers.broker_doubts(worker.app):
            tell("settings.doubtful", setting=servers.BROKER, says=says)
        with suppress(ServerUnavailable):  # Celery tries on; what it would try for ever without a chance is told here
            servers.open_broker(worker.app)
        self.process.start(
            engine=has.settings.bridge_engine,
            in_process_finish=in_process_finish(worker, plain_ends(has)),
            reads_finishes=FINISHES in worker.app.amqp.queues.consume_from,
            task_events=task_events_of(worker, has.ledger),
            others_code=not all(name.startswith(_OWN_TASKS) for name in worker.app.tasks),
        )

    def stop(self, _worker: WorkController) -> None:
        """No new leases, calls under way ended or given back."""
        stopping.set()
        if self.process is not None:
            self.process.stop()

    terminate = stop


@worker_init.connect
def _starting(**_kwargs: Any) -> None:
    kombu_json.use_here()


@worker_shutting_down.connect
def _stopping(**_kwargs: Any) -> None:
    stopping.set()


def _logging() -> tuple[str, bool]:
    try:
        settings = load()
    except SettingsError:  # told by who needs them next, in its own words
        return "info", False
    return settings.bridge_log_level, settings.bridge_log_json


worker_process_init.connect(child_ends.ends_in_time)
logs.connect(_logging)


def create() -> BridgeCelery:
    """A new app with the bridge's tasks and steps."""
    made = BridgeCelery()
    made.task_cls = known_ids.base_of_others(lambda: components.current(made).ledger)
    tasks.register(made, lambda: task_uses(components.current(made)))
    remote_control.register(lambda: components.current(made).control)
    made.steps["worker"].add(EngineStep)
    made.steps["consumer"].add(refuse.step(lambda: refusal_uses(components.current(made)), reading_frames))
    made.steps["consumer"].add(pause_consuming.step(lambda: components.current(made).pressure))
    return made


app = create()
