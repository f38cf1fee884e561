"""All consumers of plain JSON in one process: a loop for each queue and stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bridge.errors import LedgerError
from bridge.runtime.loop import Loop
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.doors.json.consumer import Consumer


class Consumers:
    """Built after any fork; `closers` are called once nothing is taken any more."""

    def __init__(self, consumers: Mapping[str, Consumer], closers: tuple[Callable[[], None], ...]) -> None:
        """By the queue or stream that each reads."""
        self._consumers = consumers
        self._closers = closers
        self._loops = [Loop(name, consumer.once) for name, consumer in consumers.items()]

    def start(self) -> None:
        """Begin taking."""
        for loop in self._loops:
            loop.start()

    def stop(self, grace_s: float) -> bool:
        """Take nothing more, end what is under way, and leave. Whether all of it was done in time."""
        ends = time.monotonic() + grace_s
        for loop in self._loops:
            loop.stop()
        clean = sum(not loop.join(max(0.1, ends - time.monotonic())) for loop in self._loops) == 0
        for name, consumer in self._consumers.items():
            try:
                consumer.close()
            except LedgerError as error:  # what it holds is adopted by another one
                tell("door.held", error=str(error), door=name)
        for close in self._closers:
            close()
        return clean

    @property
    def healthy(self) -> bool:
        """Whether every loop turns."""
        return all(loop.healthy for loop in self._loops)
