"""How long a batch from a file takes, and how much memory its command needs: `scripts/bench batch --lines 10000`.

Jobs that end at once on one endpoint of the emulator, one bridge worker. RunPod takes 100 submits a second of one
endpoint, so 10,000 lines take 100 s at least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bridge.embedded import EmbeddedRedis
from tests.support.house import ROOT, House


def main() -> None:
    """Prints one line of figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench batch")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--resume-only", action="store_true", help="every line has its result already")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as directory:
        home = Path(directory)
        redis = EmbeddedRedis(directory=home / "redis")
        redis.start()
        url = f"redis://127.0.0.1:{redis.port}/0"
        lines, out = home / "lines.jsonl", home / "out.jsonl"
        with lines.open("w") as file:
            file.writelines(json.dumps({"n": n, "prompt": "x" * 200}) + "\n" for n in range(asked.lines))
        try:
            with House(home, broker=url, redis_url=url) as house:
                if asked.resume_only:
                    told = [
                        {"id": f"lines:{n}", "status": "COMPLETED", "output": {}} for n in range(1, asked.lines + 1)
                    ]
                    out.write_text("".join(json.dumps(one) + "\n" for one in told))
                else:
                    house.worker()
                first, again = _run(house, lines, out), _run(house, lines, out)
        finally:
            redis.stop()
        figures = {
            "lines": asked.lines,
            "seconds": round(first[0], 1),
            "lines_per_s": round(asked.lines / first[0], 1),
            "peak_mib": round(first[1]),
            "second_run_s": round(again[0], 1),
            "results": len(out.read_bytes().splitlines()),
        }
        print(json.dumps(figures))  # noqa: T201


def _run(house: House, lines: Path, out: Path) -> tuple[float, float]:
    """Seconds, and the peak memory of the command in MiB."""
    command = [sys.executable, "-m", "bridge.cli", "run", "--file", str(lines), "--out", str(out), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=house.environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"the batch ended with {process.returncode}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
