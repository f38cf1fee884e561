"""How long it takes to start: `bridge --help`, and a bridge worker until it is ready, beside Celery's own.

    scripts/bench start [--times 10] [--json]

Seconds by the clock and of CPU. A worker has started when it says "ready.".
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.processes import cpu_s
from tests.bench.road import Bench, named
from tests.support.helpers import eventually


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench start")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told = {
        "bridge --help": [_command("bridge.cli", "--help") for _ in range(asked.times)],
        "celery --help": [_command("celery", "--help") for _ in range(asked.times)],
    }
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory, ExitStack() as stack:
        bench = Bench(stack, Path(directory), named(1))
        for app, name in (("bridge.app", "bridge worker"), ("tests.bench.plain", "plain Celery worker")):
            told[name] = [_worker(bench, app) for _ in range(max(1, asked.times // 3))]
    figures = {
        name: {
            "seconds": round(statistics.median(took for took, _ in found), 2),
            "cpu_s": round(statistics.median(cpu for _, cpu in found), 2),
        }
        for name, found in told.items()
    }
    sys.stdout.write((json.dumps(figures) if asked.json else "\n".join(map(str, figures.items()))) + "\n")


def _command(*words: str) -> tuple[float, float]:
    began, before = time.monotonic(), _children_s()
    subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, env=dict(os.environ), check=True)
    return time.monotonic() - began, _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _worker(bench: Bench, app: str) -> tuple[float, float]:
    with ExitStack() as stack:
        began = time.monotonic()
        process = bench.process(
            stack, f"{app}-{began}", sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO"
        )
        eventually(lambda: "ready." in process.said(), timeout=30)
        return time.monotonic() - began, cpu_s(process.pid)


if __name__ == "__main__":
    main()
