"""All figures of docs/performance.md, one bench after the other, on a machine that does nothing else meanwhile.

    scripts/bench all [--quick] [--only road,chord] [--out docs/performance/figures.json]

Writes what was found to `--out` and prints it, and makes tables and plots of it as `scripts/bench report` does.
`--quick` takes some ten minutes on two cores. `--only` measures these again and keeps the others' figures; each has a
date.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bridge.embedded import find_server
from tests.bench import report
from tests.support.house import ROOT

#: Seconds that one bench may take.
LONGEST_S = 3600


@dataclass(frozen=True)
class Run:
    """A bench: its command, how often, and both for `--quick`."""

    command: str
    times: int
    quick: str
    quick_times: int = 1


#: `--backlog`: what is measured is the worker's, not how fast the bench sends. 12 endpoints carry 1,200 jobs a second.
RUNS = {
    "road": Run("road --backlog --jobs 6000 --plain-jobs 300", 5, "road --backlog --jobs 4000 --plain-jobs 200", 3),
    "ways": Run(
        "road --backlog --peers plain,requests,gevent,prefork,asyncio",
        3,
        "road --backlog --jobs 4000 --peers plain,requests,gevent,prefork,asyncio",
    ),
    "two": Run(
        "road --backlog --processes 2 --endpoints 12 --plain-jobs 0",
        3,
        "road --backlog --jobs 4000 --processes 2 --endpoints 12 --plain-jobs 0",
    ),
    "four": Run(
        "road --backlog --processes 4 --endpoints 12 --plain-jobs 0",
        3,
        "road --backlog --jobs 4000 --processes 4 --endpoints 12 --plain-jobs 0",
    ),
    "rabbitmq": Run(
        "road --backlog --broker rabbitmq", 3, "road --backlog --jobs 4000 --plain-jobs 200 --broker rabbitmq"
    ),
    "result": Run("result --jobs 200", 1, "result --jobs 24"),
    "idle": Run("latency --known --webhook --jobs 100", 3, "latency --known --webhook --jobs 25"),
    "beside": Run(
        "latency --known --webhook --jobs 100 --beside 100", 5, "latency --known --webhook --jobs 25 --beside 100"
    ),
    "cancel": Run("cancel --where ledger --cancels 100", 1, "cancel --where ledger --cancels 40"),
    "chord": Run("chord --jobs 1000", 3, "chord --jobs 1000"),
    "intake": Run("intake --requests 20000", 3, "intake --requests 10000"),
    "flight": Run("flight --jobs 100000", 1, "flight --jobs 10000 --passing 150 --rest 4"),
    "start": Run("start --times 10", 1, "start --times 6"),
}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    server = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "server": f"{server.split()[0]} {server.split('v=')[-1].split()[0]}",
        **{name: version(name) for name in ("celery", "kombu", "redis", "runpod", "aiohttp", "gevent")},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--out", type=Path, default=report.FIGURES)
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(RUNS):
        sys.exit(f"scripts/bench all: --only takes {', '.join(RUNS)}, not {', '.join(sorted(unknown))}")
    kept = json.loads(asked.out.read_text())["runs"] if asked.out.exists() else {}
    told: dict[str, Any] = {"machine": machine(), "runs": kept}
    failed = []
    for name in names:
        run = RUNS[name]
        command, times = (run.quick, run.quick_times) if asked.quick else (run.command, run.times)
        began, load, found = time.monotonic(), os.getloadavg()[0], []
        for _ in range(times):
            one = subprocess.run(
                [sys.executable, "-m", *f"tests.bench.{command} --json".split()],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                timeout=LONGEST_S,
                check=False,
            )
            if one.returncode == 0:
                found.append(json.loads(one.stdout.splitlines()[-1]))
            else:
                failed.append(name)
        took = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name:10}{took:8} s\n")
        if found:
            told["runs"][name] = {
                "command": f"scripts/bench {command}",
                "date": time.strftime("%Y-%m-%d"),
                "load_before": round(load, 1),
                "took_s": took,
                "cpu": told["machine"]["cpu"],
                "found": found,
            }
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(told, indent=1) + "\n")  # each at once: a later bench may fail
    if asked.out == report.FIGURES:
        report.write(told)
    print(json.dumps(told))  # noqa: T201
    if failed:
        sys.exit(f"scripts/bench all: failed, their figures are the old ones: {', '.join(failed)}")


if __name__ == "__main__":
    main()
