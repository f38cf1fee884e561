"""A whole house for a test: emulator, a bridge worker as a real process, a foreign Celery app, the ledger.

The foreign app imports nothing of the bridge, as a producer in another team would. Its own tasks run in a second real
worker process (`tests/foreign.py`), so that chains, links and chords cross from the bridge to it and back.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from celery import Celery
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult

from bridge.embedded import tied
from bridge.emulator import Emulator
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.records.write import Build
from bridge.redis.address import as_celery_has_it
from tests.support import warm
from tests.support.helpers import PATIENCE, eventually
from tests.support.warm import BRIDGE, CELERY, Child, forked

ROOT = Path(__file__).parents[2]
API_KEY = "test-key"


class Process:
    """One real process of the house, its output in a file."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path, *, modules: tuple[str, ...] = ()
    ) -> None:
        """Started at once; dies with the test run. It may be forked from a parent that has `modules`."""
        self.name = name
        self.log = log
        self._process: Child | subprocess.Popen[bytes]
        with log.open("ab") as out, Path(os.devnull).open("rb") as nothing:
            if modules and (child := forked(command, environment, (nothing, out, out), modules)):
                self._process = child
                return
            self._process = subprocess.Popen(
                tied(*command),
                cwd=ROOT,
                env=dict(environment),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def said(self) -> str:
        """Everything it has written."""
        return self.log.read_text(errors="replace")

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """A signal to the whole group, so that a prefork worker's children get it too."""
        if self.running:
            os.killpg(self.pid, sig)

    def stop(self, timeout: float = 30.0 * PATIENCE) -> int:
        """SIGTERM to the main process; what it returned."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait(30)


class House:
    """Everything started by a test is killed with it: nobody looks any more. A test about ends has `Process.stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        broker: str,
        redis_url: str,
        backend: str | None = None,
        emulator: Emulator | None = None,
        **settings: str,
    ) -> None:
        """`settings` are BRIDGE_* variables without the prefix, in small letters."""
        self.directory = directory
        self._stack = ExitStack()
        self.emulator = emulator or self._stack.enter_context(Emulator(endpoints=["demo"], api_keys=[API_KEY]))
        self.broker, self.backend = broker, backend or redis_url
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "BRIDGE_", "CELERY_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_API_KEY": API_KEY,
            "RUNPOD_ENDPOINT_ID": "demo",
            "RUNPOD_ENDPOINT_BASE_URL": self.emulator.base_url,
            "CELERY_BROKER_URL": broker,
            "CELERY_RESULT_BACKEND": self.backend,
            "BRIDGE_REDIS_URL": redis_url,
            "BRIDGE_HTTP_BIND": "",
            **{f"BRIDGE_{name.upper()}": value for name, value in settings.items()},
        }
        self.client = connect(redis_url)
        self.ledger = Ledger(self.client, Names(), Rules())
        self.app = foreign_app(broker, self.backend)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        hang_up(self.app)
        self.client.close()

    def start(self, name: str, *command: str, **more: str) -> Process:
        """A process of the house; `more` are further variables."""
        return self._start(name, list(command), more)

    def fork(self, name: str, *command: str, **more: str) -> Process:
        """The same, from a warm parent where that can be; for one that is not a test's subject."""
        return self._start(name, list(command), more, BRIDGE)

    def _start(self, name: str, command: list[str], more: Mapping[str, str], modules: tuple[str, ...] = ()) -> Process:
        self._count += 1
        log = self.directory / f"{name}-{self._count}.log"
        process = Process(name, command, {**self.environment, **more}, log, modules=modules)
        self._stack.callback(process.stop)
        self._stack.callback(process.kill)
        return process

    def worker(self, *args: str, pool: str = "threads", ready: bool = True, **more: str) -> Process:
        """A bridge worker."""
        process = self._start("worker", self._celery("bridge.app", "bridge", pool, *args), more, BRIDGE)
        if ready:
            _await_ready(process)
        return process

    def engine(self, *, ready: str = "", **more: str) -> Process:
        """`bridge engine`; with `ready` once it has said so."""
        process = self.fork("engine", sys.executable, "-m", "bridge.cli", "engine", **more)
        if ready:
            _await_ready(process, ready)
        return process

    def bridge(self, *words: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """One run of the command to its end; `given` is what it reads."""
        return warm.bridge(*words, environment={**self.environment, **more}, given=given)

    def foreign_worker(self, *args: str, python: str = sys.executable) -> Process:
        """A worker of the other team's app, on its default queue; `python` may have another Celery."""
        _, *words = self._celery("tests.foreign", "tests.foreign", "threads", *args)
        command = [python, *words]
        more = {"FOREIGN_BROKER": self.broker, "FOREIGN_BACKEND": self.backend}
        process = self._start("foreign", command, more, CELERY)
        _await_ready(process)
        return process

    def _celery(self, app: str, name: str, pool: str, *args: str) -> list[str]:
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-P", pool, "-c", "4", *args]
        return [*command, "-n", f"{name}{self._count}@test", "--without-gossip", "--without-mingle"]

    def send(self, input: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """`bridge.run` as any producer sends it; `task_id`, `link` and the like are Celery's options."""
        names = (
            "task_id",
            "link",
            "link_error",
            "expires",
            "ignore_result",
            "priority_",
            "headers",
            "soft_time_limit",
            "countdown",
            "eta",
        )
        options = {name.rstrip("_"): kwargs.pop(name) for name in names if name in kwargs}
        if input is not None:
            kwargs["input"] = dict(input)
        return self.app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", **options)

    def ask(self, task: str, timeout: float = 10.0, **kwargs: Any) -> Any:
        """The answer of a control task."""
        return self.app.send_task(f"bridge.{task}", kwargs=kwargs, queue="bridge.control").get(timeout=timeout)

    def events(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """What the event stream holds, in order."""
        entries: Any = self.client.xrange(self.ledger.names.events)
        told = [json.loads(entry["data"]) for _, entry in entries]
        return [event for event in told if request_id in (None, event["subject"])]

    def names_of(self, request_id: str) -> list[str]:
        """The events of one request by name."""
        return [event["type"].rpartition(".")[2] for event in self.events(request_id)]

    def phase(self, request_id: str) -> str | None:
        """Where the record stands."""
        held = self.ledger.load(request_id)
        return held.record.phase.value if held else None

    def submits(self) -> int:
        """How many POST /run and /runsync the emulator has taken."""
        return sum(1 for call in self.emulator.calls() if call["op"] in {"run", "runsync"} and call["code"] == 200)


def born(name: str, ledger: Ledger) -> Build:
    """A request of endpoint `demo` as `Ledger.accept_many` takes it, whom nobody waits for."""
    record = Record(id=name, endpoint="demo", endpoint_id="demo", door="json", sinks="", fingerprint="f")
    return lambda now, wish: ledger.table.accept(Held(record, {Long.INPUT: '{"a":1}'}), now, wish)


def _await_ready(process: Process, says: str = "ready.") -> None:
    eventually(lambda: says in process.said() or not process.running, timeout=30)
    assert process.running, process.said()[-3000:]


def hang_up(app: Celery) -> None:
    """Close a producer, with its pools and its result backend: Celery leaves their sockets to the garbage collector."""
    for held in app.backend._pending_results:  # results that nobody has read to their end
        held.clear()
    gc.collect()  # results in cycles (of a traceback, say) unsubscribe as they go: while there is somebody to hear it
    backend = app.backend
    if isinstance(backend, RedisBackend):
        backend.result_consumer.stop()
        backend.client.connection_pool.disconnect()
    app.amqp.producer_pool.force_close_all()
    app.pool.force_close_all()
    app.close()


class _Result(AsyncResult):  # type: ignore[misc]
    def get(self, timeout: float | None = None, **options: Any) -> Any:
        """As patient as `eventually`."""
        return super().get(timeout=timeout and timeout * PATIENCE, **options)


def foreign_app(broker: str, backend: str) -> Celery:
    """A producer that knows the bridge by its queue's name alone."""
    broker, broker_options, _ = as_celery_has_it(broker)
    backend, backend_options, _ = as_celery_has_it(backend)
    app = Celery("foreign", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        broker_transport_options=broker_options,
        result_backend_transport_options=backend_options,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        result_backend_thread_safe=True,  # one for all threads, so that `hang_up` finds all that is open
    )
    app.AsyncResult = app.subclass_with_self(_Result, name="AsyncResult")
    return app
