"""A bridge worker that kills itself at one point: before or after the n-th call that leaves the process.

    KILL_AT=17 KILL_WHEN=before python -m tests.chaos.worker ARGS

Every call that leaves is a point: a script in the ledger or the budget, a call to RunPod, a message to the broker, a
result that is stored. With KILL_AT=0 the points are only counted (POINTS_FILE gets the number).
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.runpod.client import RunPodClient

#: The rooms whose names for a script call are wrapped.
ledger_room: Any = importlib.import_module("bridge.ledger.ledger")
budget: Any = importlib.import_module("bridge.runpod.budget")
gate: Any = importlib.import_module("bridge.runpod.gate")

KILL_AT, KILL_WHEN = int(os.environ.get("KILL_AT", "0")), os.environ.get("KILL_WHEN", "before")
POINTS = os.environ.get("POINTS_FILE")
#: What an idle engine does all the time is no point: it would drown the others.
_IDLE = {"due", "timers", "stray", "beat", "stream"}
_numbers = itertools.count(1)


def point(call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
    """Count the call, and die beside it when it is the one."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        said = name(*args)
        if said in _IDLE:
            return call(*args, **kwargs)
        number = next(_numbers)
        if POINTS:
            with Path(POINTS).open("a") as out:
                out.write(f"{number} {said}\n")
        if number == KILL_AT and KILL_WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*args, **kwargs)
        if number == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return counted


def main() -> None:
    """Wrap the ways out, then run Celery's worker."""
    from celery.app.amqp import AMQP  # noqa: PLC0415
    from celery.backends.redis import RedisBackend  # noqa: PLC0415

    ledger_room.run = point(ledger_room.run, lambda _client, name, *_: name)
    ledger_room.run_many = point(ledger_room.run_many, lambda _client, name, *_: name)
    budget.run = point(budget.run, lambda _client, name, *_: f"budget {name}")
    gate.run = point(gate.run, lambda _client, name, *_: f"gate {name}")
    RunPodClient._call = point(RunPodClient._call, lambda _self, op, *_: f"runpod {op}")  # type: ignore[method-assign]
    RedisBackend._set = point(RedisBackend._set, lambda *_: "result")
    sender = AMQP.send_task_message.fget
    AMQP.send_task_message = property(lambda self: point(sender(self), lambda _producer, name, *_: f"publish {name}"))
    from celery.__main__ import main as celery_main  # noqa: PLC0415

    sys.argv = ["celery", "-A", "bridge.app", "worker", *sys.argv[1:]]
    celery_main()


if __name__ == "__main__":
    main()
