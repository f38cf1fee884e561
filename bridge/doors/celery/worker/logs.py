"""Celery's own lines in the bridge's form: from the first one of a worker to its last."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.apps import worker as celery_worker

from bridge.runtime import library_logs
from bridge.telemetry import configure_logging, tell


def connect(logging_of: Callable[[], tuple[str, bool]]) -> None:
    """`logging_of` gives the level, and whether lines are JSON; asked when a worker starts."""

    def begin(instance: Any = None, **_kwargs: Any) -> None:
        level, as_json = logging_of()
        configure_logging(level, as_json=as_json)
        library_logs.configure(as_json=as_json)
        if as_json:
            celery_worker.safe_say = _say
            if instance is not None:
                instance.quiet = True  # its banner is no JSON; `worker.started` says the same

    def dress(**_kwargs: Any) -> None:
        library_logs.configure(as_json=logging_of()[1])

    def started(instance: Any = None, **_kwargs: Any) -> None:
        app = instance.app
        tell(
            "worker.started",
            worker=instance.hostname,
            broker=app.connection().as_uri(),
            results=app.backend.as_uri(),
            pool=getattr(instance.pool_cls, "__module__", str(instance.pool_cls)).rpartition(".")[2],
            concurrency=instance.concurrency,
            queues=sorted(app.amqp.queues.consume_from),
        )

    signals.celeryd_init.connect(begin, weak=False)
    signals.after_setup_logger.connect(dress, weak=False)
    signals.after_setup_task_logger.connect(dress, weak=False)
    signals.celeryd_after_setup.connect(started, weak=False)


def _say(text: str, stream: Any = None) -> None:
    """What Celery says as it is told to stop, from within a handler of signals."""
    descriptor = sys.stderr.fileno() if stream is None else stream.fileno()
    library_logs.write_line(text.strip(), "warning", "celery.apps.worker", descriptor)
