"""The bridge's tasks in a team's own tests: no worker, no broker and no Redis.

    from bridge.testing import bridge_tasks

    with bridge_tasks(app, run=lambda input, **_: {"image": "heron.png"}):
        ...  # what the team's own code sends to the bridge runs here and now, and fails as it would

See docs/testing.md. With pytest: `pytest_plugins = ["bridge.testing.pytest_plugin"]`, and the fixture `bridge_tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

from celery import Celery, Task
from celery.exceptions import Ignore
from celery.result import allow_join_result

from bridge.doors.celery import eager
from bridge.doors.celery.tasks import bind_input
from bridge.doors.commands import COMMANDS
from bridge.job.request import parse_run
from bridge.process.components import Components
from bridge.settings import load

RUN = "bridge.run"


@dataclass(frozen=True)
class BridgeTasks:
    """What was sent to the bridge meanwhile: task names and arguments, in order."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@contextmanager
def bridge_tasks(app: Celery, run: Callable[..., Any] | None = None, **commands: Any) -> Iterator[BridgeTasks]:
    """Register the bridge's task names in `app`, which runs everything here and now meanwhile.

    `run` gets the arguments of `bridge.run` by name and returns the job's output, or raises `bridge.errors.JobFailed`;
    without it jobs run at RUNPOD_ENDPOINT_BASE_URL, which is meant to be the emulator's. Arguments that the bridge
    refuses are refused here too. `commands` are stubs of the others by short name: `cancel=lambda id: {...}`.
    Raises TypeError for a command that there is not.
    """
    known = {name.removeprefix("bridge."): name for name in COMMANDS}
    for name in commands.keys() - known.keys():
        raise TypeError(f"{name}: is no command of the bridge; there are {', '.join(sorted(known))}")
    told = BridgeTasks()
    bodies = {name: _command(name, commands.get(short)) for short, name in known.items()} | {RUN: _job(app, run)}
    with ExitStack() as undo:
        undo.enter_context(mock.patch.dict(app.tasks))
        for name, body in bodies.items():
            app.tasks.pop(name, None)
            app.task(_noted(told, name, body), name=name, shared=False, typing=False, lazy=False)
        before = app.conf.task_always_eager
        undo.callback(setattr, app.conf, "task_always_eager", before)
        app.conf.task_always_eager = True
        undo.enter_context(mock.patch.object(app, "send_task", _sending(app, bodies)))
        undo.enter_context(mock.patch.object(Task, "replace", _replace))
        undo.enter_context(mock.patch.object(Task, "__call__", _call))
        yield told


def _noted(told: BridgeTasks, name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    def task(*args: Any, **kwargs: Any) -> Any:
        arguments = bind_input(args, kwargs) if name == RUN else kwargs | ({"id": args[0]} if args else {})
        told.calls.append((name, arguments))
        return body(**arguments)

    return task


def _job(app: Celery, run: Callable[..., Any] | None) -> Callable[..., Any]:
    @cache
    def has() -> Components:
        return Components(load(), app)

    def job(**arguments: Any) -> Any:
        if run is None:
            return eager.run(has().book, has().client_of, arguments)
        parse_run(arguments)
        return run(**arguments)

    return job


def _command(name: str, stub: Callable[..., Any] | None) -> Callable[..., Any]:
    def command(**arguments: Any) -> Any:
        if stub is None:
            short = name.removeprefix("bridge.")
            raise NotImplementedError(
                f"{name}: a job that runs here and now has ended before anything can be asked of it; "
                f"say what is answered: bridge_tasks(app, {short}=lambda **arguments: ...)"
            )
        return stub(**arguments)

    return command


class _Replaced(Ignore):  # type: ignore[misc]
    """A task has replaced itself: Celery's own end of such a task, with what came of the other."""

    def __init__(self, value: Any, error: Exception | None) -> None:
        super().__init__("Replaced by new task")
        self.value = value
        self.error = error


_celerys_replace, _celerys_call = Task.replace, Task.__call__


def _replace(task: Task, sig: Any) -> Any:
    """As in a worker, nothing of the task runs after it. Celery's own returns here, and waits where it forbids it."""
    request = task.request
    if not request.is_eager:
        return _celerys_replace(task, sig)
    follows = request.callbacks, request.errbacks
    request.callbacks = request.errbacks = None  # of the task, whose end this is: they would follow both
    value, fault = None, None
    try:
        with allow_join_result():
            value = _celerys_replace(task, sig)
    except Exception as error:  # noqa: BLE001  (no error of the task's own: it must not retry it)
        fault = error
    finally:
        request.callbacks, request.errbacks = follows
    raise _Replaced(value, fault)


def _call(task: Task, *args: Any, **kwargs: Any) -> Any:
    """A task's body; it ends as what has replaced it."""
    if not task.request.is_eager:
        return _celerys_call(task, *args, **kwargs)
    try:
        return task.run(*args, **kwargs)
    except _Replaced as replaced:
        if replaced.error is not None:
            raise replaced.error from None
        return replaced.value


def _sending(app: Celery, bodies: Mapping[str, Any]) -> Callable[..., Any]:
    """Celery's `send_task` is never eager; that of a task of ours is here."""
    celerys = app.send_task

    def send_task(name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        if name not in bodies:
            return celerys(name, args, kwargs, *more, **options)
        return app.tasks[name].apply(args=args, kwargs=kwargs, **options)

    return send_task
