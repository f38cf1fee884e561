"""Fast and small enough to be nobody's bottleneck: over 2,000 calls a second on one core, 200,000 jobs held.

`pytest -m bench tests/emulator/test_speed.py -s` prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
JOBS = 200_000


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning to a core is Linux's")
def test_two_thousand_calls_a_second_on_one_core_with_two_hundred_thousand_jobs() -> None:
    """Each job in progress, its call recorded; memory told per job."""
    command = [sys.executable, "-m", "bridge.emulator", "--port", "0", "--no-limits", "--workers", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1]) as emulator:
        try:
            assert emulator.stdout is not None
            port = emulator.stdout.readline().rpartition(":")[2].partition("/")[0]
            os.sched_setaffinity(emulator.pid, {0})
            empty = resident(emulator.pid)
            load = [sys.executable, str(HERE / "load.py"), port, str(JOBS), "50", "3600"]
            done = subprocess.run(load, capture_output=True, text=True, check=True, timeout=250)
            rates = json.loads(done.stdout)
            per_job = (resident(emulator.pid) - empty) / JOBS
        finally:
            emulator.terminate()
    print(f"{rates} calls/s, {per_job:.0f} bytes a job, {empty / 2**20:.0f} MiB empty")  # noqa: T201 - the figures
    assert min(rates.values()) > 2000
    assert per_job < 3000
