"""A handler whose helpers are started by threads that end at once, as one is that loads a model."""

import multiprocessing
import subprocess
import threading
import time
from typing import Any

import runpod

helpers: list[Any] = []


def fork() -> None:
    """Start a helper that is a fork."""
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    helper.start()
    helpers.append(helper)


def program() -> None:
    """Start a helper that is a program, with something to do between its fork and its start."""
    helpers.append(subprocess.Popen(["sleep", "600"], preexec_fn=lambda: None))  # noqa: PLW1509, S607


def by_a_thread(start: Any) -> None:
    """Call `start` in a thread of its own, and wait for the thread's end."""
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()


by_a_thread(fork)


def handler(job: dict[str, Any]) -> Any:
    """Return how each helper has ended; None is one that runs."""
    if job["input"].get("program"):
        by_a_thread(program)
        time.sleep(0.5)
    return [helper.exitcode if hasattr(helper, "exitcode") else helper.poll() for helper in helpers]


runpod.serverless.start({"handler": handler})
