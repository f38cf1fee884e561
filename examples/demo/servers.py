"""The processes of the demo: Redis, RunPod, a bridge worker, the demo's own worker. Each ends with this process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from bridge.embedded import EmbeddedRedis, tied

ROOT = Path(__file__).resolve().parent.parent.parent
HANDLERS = ROOT / "examples" / "handlers"
START_S = 30.0


class Servers:
    """`with Servers(...)`: everything is up inside, and gone after it."""

    def __init__(self, *, live: bool = False) -> None:
        """`live` leaves the emulator out: RunPod itself is called."""
        self._folder = tempfile.TemporaryDirectory(prefix="bridge-demo-")
        self.folder = Path(self._folder.name)
        self._redis = EmbeddedRedis(directory=self.folder / "redis")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.live = live
        self.url = ""
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._redis.start()
        self.url = f"redis://127.0.0.1:{self._redis.port}/0"
        self.environment = {
            **clean(os.environ, live=self.live),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "CELERY_BROKER_URL": self.url,
            "CELERY_RESULT_BACKEND": self.url,
            "BRIDGE_REDIS_URL": self.url,
            "BRIDGE_HTTP_BIND": "",
        }
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._redis.stop()
        self._folder.cleanup()

    def emulator(self) -> None:
        """RunPod, with real handlers behind two endpoints."""
        command = ["-m", "bridge.emulator", "--port", "0", "--api-key", "demo-key", "--workers", "2"]
        for name, file in (("tiles", "mandelbrot.py"), ("story", "storyteller.py")):
            command += ["--endpoint", name, "--handler", f"{name}={HANDLERS / file}"]
        log = self._start("emulator", *command)
        line = self._wait_for(log, "RUNPOD_ENDPOINT_BASE_URL=")
        base_url = line.partition("RUNPOD_ENDPOINT_BASE_URL=")[2].split()[0].strip("'\"")
        self.environment |= {
            "RUNPOD_ENDPOINT_BASE_URL": base_url,
            "RUNPOD_API_KEY": "demo-key",
            "BRIDGE_ENDPOINTS": "tiles,story",
        }

    def bridge_worker(self) -> None:
        """`celery -A bridge.app worker`: the door and the engine."""
        log = self._start(
            "bridge-worker", "-m", "celery", "-A", "bridge.app", "worker", "-l", "INFO", "-n", "bridge@demo"
        )
        self._wait_for(log, "ready.")

    def own_worker(self) -> None:
        """The demo's own app, for the task that joins the tiles."""
        app = "examples.demo.joiner"
        log = self._start(
            "own-worker", "-m", "celery", "-A", app, "worker", "-l", "INFO", "-P", "solo", "-n", "own@demo"
        )
        self._wait_for(log, "ready.")

    def _start(self, name: str, *arguments: str) -> Path:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603  (our own programs)
                tied(sys.executable, *arguments),
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return log

    def _wait_for(self, log: Path, text: str) -> str:
        process = self._processes[-1]
        ends = time.monotonic() + START_S
        while time.monotonic() < ends and process.poll() is None:
            for line in log.read_text(errors="replace").splitlines():
                if text in line:
                    return line
            time.sleep(0.05)
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{log.stem} did not start:\n{last}")


def clean(environment: Mapping[str, str], *, live: bool) -> dict[str, str]:
    """Without what a shell may hold for another bridge, another Celery app, or (all is on loopback) a proxy."""
    foreign = ("BRIDGE_", "CELERY_", "FLOWER_") if live else ("BRIDGE_", "CELERY_", "FLOWER_", "RUNPOD_")
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(foreign) and (live or not name.lower().endswith("_proxy"))
    }


def keep_only(environment: Mapping[str, str]) -> None:
    """Drop everything else from this process' own environment."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
