"""The other team's Celery app, whose tasks meet the bridge's in chains, links and chords; imports nothing of it."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chord
from kombu.utils.json import register_type

app = Celery("foreign", broker=os.environ.get("FOREIGN_BROKER"), backend=os.environ.get("FOREIGN_BACKEND"))
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    task_default_queue=os.environ.get("FOREIGN_QUEUE", "celery"),
    task_default_queue_type=os.environ.get("FOREIGN_QUEUE_TYPE", "classic"),
)


def _note(key: str, value: str) -> None:
    """Append to a list beside the results, so that a test can count what ran."""
    app.backend.client.rpush(f"noted:{key}", value)


@app.task
def make(value: Any, **more: Any) -> dict[str, Any]:
    """An input for a job."""
    return {"value": value, **more}


@app.task
def tail(result: Any) -> dict[str, Any]:
    """The end of a chain."""
    return {"tail": result}


@app.task
def collect(results: list[Any]) -> dict[str, Any]:
    """The body of a chord."""
    return {"collected": results}


@app.task
def note(result: Any, key: str) -> Any:
    """A link that counts itself."""
    _note(key, repr(result))
    return result


@app.task
def note_error(task_id: str, key: str) -> None:
    """An errback of the old form."""
    _note(key, task_id)


@app.task
def fail(_result: Any = None) -> None:
    """A member that fails."""
    message = "on purpose"
    raise ValueError(message)


class Point:
    """A type that this team alone has registered."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y


register_type(Point, "foreign.Point", lambda point: [point.x, point.y], lambda pair: Point(*pair))


@app.task(bind=True)
def what_came(self: Any, *args: Any, key: str, **kwargs: Any) -> str:
    """Which types came as arguments and as stamps; of a follow-up the first argument is the result."""
    stamps = {name: self.request.stamps[name] for name in self.request.stamped_headers or () if self.request.stamps}
    told = [type(value).__name__ for value in (*args, *kwargs.values(), *stamps.values())]
    _note(key, " ".join(told))
    return str(told)


@app.task(bind=True)
def becomes_a_job(self: Any, value: Any, **more: Any) -> Any:
    """An old task kept by name, which replaces itself by a job and what was done with its result."""
    job = app.signature("bridge.run", kwargs={"input": {"value": value, **more}}, queue="bridge.run")
    job.set(task_id=f"{self.request.id}-job")
    raise self.replace(job | tail.s())


@app.task(bind=True)
def becomes_jobs(self: Any, values: list[Any], **more: Any) -> Any:
    """An old task that replaces itself by a chord of jobs, or by a task, a job and a tail where there is one value."""
    if len(values) == 1:
        raise self.replace(make.si(values[0], **more) | app.signature("bridge.run", queue="bridge.run") | tail.s())
    jobs = [app.signature("bridge.run", kwargs={"input": {"value": v, **more}}, queue="bridge.run") for v in values]
    raise self.replace(chord(jobs, collect.s()))


@app.task(bind=True)
def becomes_a_named_job(self: Any, values: list[Any], **more: Any) -> Any:
    """The same as a task, a job and a tail, with an id of the job's that the callers know: the old one and `-job`."""
    job = app.signature("bridge.run", queue="bridge.run", task_id=f"{self.request.id}-job")
    raise self.replace(make.si(values[0], **more) | job | tail.s())


@app.task
def starts(task: str, task_id: str, value: Any, **more: Any) -> None:
    """A chain with an old task in its middle, which the process sends that will run the old task too."""
    old = app.signature(task, args=[[value]], kwargs=more, immutable=True, task_id=task_id)
    (make.si(0) | old | tail.s()).apply_async()


@app.task(bind=True)
def mark(self: Any, result: Any, key: str) -> Any:
    """A link, errback or chord body that leaves its own task id each time it runs."""
    _note(key, self.request.id)
    return result
