"""What every test may use: waiting without sleeping, and free ports."""

from __future__ import annotations

import itertools
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
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


#: Below the ports that Linux and macOS give to connections and to `bind` with 0: nobody takes one of these by chance
#: between the probe and the server's start, or while a test relies on it that nobody listens there.
_FIRST_PORT, _PORTS = 12_000, 20_000
_numbers = itertools.count(secrets.randbelow(_PORTS))


def free_port() -> int:
    """Return a loopback port that is free now, and that this process has not given away before."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return `count` different ones."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port, probe = _FIRST_PORT + next(_numbers) % _PORTS, held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        return found
