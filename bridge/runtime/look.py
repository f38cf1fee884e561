"""A look at a server that may hang: whoever asks is answered in time, by what the look has found or by nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Look(Generic[T]):
    """Thread-safe. One look at a time serves all who ask meanwhile."""

    def __init__(self, call: Callable[[], T], wait_s: float, *, keep_s: float = 0.0) -> None:
        """`call` may block for as long as it likes; nobody waits longer than `wait_s` for it.

        What it found serves for `keep_s` from its beginning.
        """
        self._call, self._wait_s, self._keep_s = call, wait_s, keep_s
        self._lock = threading.Lock()
        self._under_way: Flight[T] | None = None

    def begin(self) -> Flight[T]:
        """The look that is under way, or a new one."""
        with self._lock:
            flight = self._under_way
            if flight is None or (flight.done.is_set() and time.monotonic() - flight.begun >= self._keep_s):
                flight = Flight(self._call)
                threading.Thread(target=flight, name="bridge-look", daemon=True).start()
                self._under_way = flight  # it is: one that no thread was started for would be waited for without end
            return flight

    def found(self, flight: Flight[T] | None = None) -> T | None:
        """What it found; None when that takes too long. Raises what it raised."""
        flight = flight or self.begin()
        if not flight.done.wait(self._wait_s):
            return None
        if flight.error is not None:
            raise flight.error
        return flight.value

    def fault(self, flight: Flight[T] | None = None) -> str:
        """Why a server that raises OSError does not answer, or that it takes too long; "" when it does."""
        flight = flight or self.begin()
        try:
            self.found(flight)
        except OSError as error:
            return str(error) or type(error).__name__
        return "" if flight.done.is_set() else f"no answer within {self._wait_s:g} s"


class Flight(Generic[T]):
    """One look, and what came of it."""

    def __init__(self, call: Callable[[], T]) -> None:
        """Nothing is called yet."""
        self._call, self.begun = call, time.monotonic()
        self.done = threading.Event()
        self.value: T | None = None
        self.error: Exception | None = None

    def __call__(self) -> None:
        """In a thread of its own."""
        try:
            self.value = self._call()
        except Exception as error:  # noqa: BLE001  (raised where it is asked for)
            self.error = error
        finally:
            self.done.set()
