"""Keeps bridge workers alive by forking them from a warm parent: what takes seconds to import is there already.

    python -m tests.chaos.zygote COUNTERS LOG CHILDREN SEED

A child is Celery's own worker with the bridge's app and engine, as `celery -A bridge.app worker` starts it; it differs
in that it dies at its points (`tests/chaos/points.py`). For each that dies another is forked at once, until SIGTERM.
A child that ends in any other way is told in the log.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from bridge.engine.submit import batch as submit_batch
from bridge.engine.tell import publish
from bridge.engine.watch import batch as watch_batch
from tests.chaos.points import Points, _scripts, install
from tests.support.warm import BRIDGE, dies_with_its_parent

#: Of so many children one dies at a call that names no request.
_PROCESS_PLANS = 5
#: ... among its first so many of those.
_UNNAMED = 120


def _warm() -> None:
    """Import and build everything that a worker needs and that opens nothing."""
    for name in BRIDGE:
        importlib.import_module(name)
    from bridge.app import app  # noqa: PLC0415

    app.finalize()
    _scripts()
    assert app.conf.broker_url
    assert app.tasks


def _child(number: int, points: Points, chance: random.Random) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    dies_with_its_parent()
    if chance.randrange(_PROCESS_PLANS) == 0:
        points.process_at, points.process_when = chance.randint(1, _UNNAMED), chance.choice("ba")
    options = ["-P", "threads", "-c", "4", "-l", "WARNING", "--without-gossip", "--without-mingle"]
    sys.argv = ["celery", "-A", "bridge.app", "worker", *options, "-n", f"doomed{number}@test"]
    from celery.__main__ import main  # noqa: PLC0415

    try:
        main()
    finally:
        sys.stdout.flush()
        os._exit(1)


def main() -> None:
    """Fork, wait, fork again."""
    counters, log, children, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    points = Points(counters, log)
    _warm()
    install(points)
    chance = random.Random(seed)
    alive: dict[int, float] = {}
    number = 0
    # So long a dead process leaves behind what no setting is for: the turn to tell RabbitMQ; the requests of a draft,
    # and the draft itself; the turn to look at a batch.
    publish.LEASE_MS = 1_500
    submit_batch.LEASE_MS, submit_batch.FILL_S, submit_batch.SEND_S = 7_600, 3.0, 3.0
    watch_batch.LEASE_MS = 2_000
    submit_batch.UNHEARD_MS = 8_000
    points.write(zygote="ready")
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    while not told:
        while len(alive) < children:
            number += 1
            plan = random.Random(chance.random())
            pid = os.fork()
            if pid == 0:
                _child(number, points, plan)
            alive[pid] = time.monotonic()
        time.sleep(0.01)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            lived = time.monotonic() - alive.pop(pid)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                points.write(died=pid, lived=round(lived, 3))
            else:
                points.write(crashed=pid, status=status, lived=round(lived, 3))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    for pid in alive:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
