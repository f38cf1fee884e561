"""The whole site on this machine: Redis, RunPod (emulated), a bridge worker, the team's worker with beat, the page.

    python examples/django/start.py [--port 8000]

Ctrl-C ends all of it. Nothing is left but the pictures, in `db.sqlite3`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bridge.embedded import EmbeddedRedis, tied

HERE = Path(__file__).resolve().parent
START_S = 60.0
KEY = "demo-key"


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="of the page (default: %(default)s)")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="studio-") as folder:
        redis = EmbeddedRedis(directory=Path(folder) / "redis")
        processes = []
        try:
            redis.start()
            run(f"redis://127.0.0.1:{redis.port}/0", port, Path(folder), processes)
        except KeyboardInterrupt:
            print()
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in reversed(processes):
                process.wait(30)
            redis.stop()


def run(url, port, folder, processes):
    """Start one after the other, and wait for the end of any of them."""
    foreign = ("BRIDGE_", "CELERY_", "RUNPOD_", "DJANGO_SETTINGS")  # a shell may hold those of another project
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "PYTHONUNBUFFERED": "1"}
    for_bridge = {"BRIDGE_REDIS_URL": url, "BRIDGE_HTTP_BIND": "", "BRIDGE_DEFAULT_QUEUE": "studio"}

    def start(name, ready, *command, **more):
        log = folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                tied(sys.executable, *command), cwd=HERE, env=environment | more, stdout=out, stderr=subprocess.STDOUT
            )
        processes.append(process)
        ends = time.monotonic() + START_S
        while ready not in (said := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > ends:
                sys.exit(f"{name} did not start:\n{said[-2000:]}")
            time.sleep(0.05)
        print(f"{name} is up")
        return said

    subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=HERE, env=environment, check=True)
    emulator = ["-m", "bridge.emulator", "--port", "0", "--api-key", KEY, "--workers", "3"]
    said = start(
        "RunPod (emulated)", "RUNPOD_ENDPOINT_BASE_URL=",
        *emulator, "--endpoint", "painter", "--handler", f"painter={HERE / 'painter.py'}",
    )  # fmt: skip
    base_url = said.partition("RUNPOD_ENDPOINT_BASE_URL=")[2].split()[0].strip("'\"")
    runpod = {"RUNPOD_ENDPOINT_BASE_URL": base_url, "RUNPOD_API_KEY": KEY, "RUNPOD_ENDPOINT_ID": "painter"}
    start(
        "the bridge worker",
        "ready.",
        "-m",
        "celery",
        "-A",
        "bridge.app",
        "worker",
        "-l",
        "INFO",
        **runpod,
        **for_bridge,
    )
    beat = ("-B", "-s", str(folder / "beat"))
    start("the team's worker", "ready.", "-m", "celery", "-A", "studio", "worker", "-l", "INFO", "-c", "2", *beat)
    start("the page", "Quit the server", "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}")
    print(f"http://127.0.0.1:{port}/")
    while all(process.poll() is None for process in processes):
        time.sleep(0.2)
    sys.exit("one of them has ended")


if __name__ == "__main__":
    main()
