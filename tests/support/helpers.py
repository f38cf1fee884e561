"""What every test may use: waiting without sleeping, and free ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

T = TypeVar("T")
#: How many times as long as on a quiet machine is waited for what must come. A test judges promises, not the machine:
#: more patience only delays the news that something hangs.
PATIENCE = 6
#: Seconds that a command may take which ends by itself.
COMMAND_S = 30.0 * PATIENCE


def eventually(check: Callable[[], T], timeout: float = 10.0, every: float = 0.02) -> T:
    """Call `check` until it returns a truthy value, and return that value.

    An exception of `check` counts as not yet. After `timeout` seconds of a quiet machine (see PATIENCE) AssertionError
    tells the last value or exception; `check` is called at least once, also when `timeout` is 0.
    """
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        cause: Exception | AssertionError | None = None
        try:
            value = check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may pass; the last one is told
            cause, last = error, f"raised {error!r}"
        else:
            if value:
                return value
            last = f"returned {value!r}"
        if time.monotonic() >= deadline:
            what = getattr(check, "__name__", repr(check))
            raise AssertionError(f"not within {timeout * PATIENCE} s: {what} last {last}") from cause
        time.sleep(every)


def free_port() -> int:
    """Return a loopback port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that are free now; held together, so that none comes twice."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
