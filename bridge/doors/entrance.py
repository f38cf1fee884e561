"""All doors for plain JSON of one process: a loop for each queue and stream, and the pool for commands that call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.doors.desk import Callers, Desk
from bridge.doors.streams import StreamDoor
from bridge.errors import LedgerError
from bridge.ledger import connect
from bridge.loop import Loop
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.doors.door import Door
    from bridge.doors.messages import Kind
    from bridge.wiring import Bridge


class Entrance:
    """Built after any fork. Streams whatever the broker is; AMQP only where the broker speaks it."""

    def __init__(self, bridge: Bridge) -> None:
        """Connects to nothing yet."""
        self._callers = Callers()
        self._client = connect(bridge.settings.ledger_url, decode=False)
        names = bridge.names
        self._doors: dict[str, Door] = {}
        kinds: tuple[tuple[Kind, str], ...] = (("requests", names.requests), ("commands", names.commands))
        for kind, stream in kinds:
            desk = Desk(bridge, "stream", stream, kind, self._callers)
            self._doors[stream] = StreamDoor(bridge, desk, self._client)
        if bridge.settings.amqp:
            from bridge.doors.amqp import QUEUES, AmqpDoor  # noqa: PLC0415  (only where the broker speaks AMQP)

            for kind, _ in kinds:
                queue = QUEUES[kind][0]
                self._doors[queue] = AmqpDoor(bridge, Desk(bridge, "amqp", queue, kind, self._callers))
        self._loops = [Loop(name, door.once) for name, door in self._doors.items()]

    def start(self) -> None:
        """Begin taking."""
        for loop in self._loops:
            loop.start()

    def stop(self, grace_s: float) -> bool:
        """Take nothing more, end what is under way, and leave. Whether all of it was done in time."""
        for loop in self._loops:
            loop.stop()
        clean = sum(not loop.join(grace_s) for loop in self._loops) == 0
        self._callers.close()
        for name, door in self._doors.items():
            try:
                door.close()
            except LedgerError as error:  # what it holds is adopted by another one
                tell("door.held", error=str(error), door=name)
        self._client.close()
        return clean

    @property
    def healthy(self) -> bool:
        """Whether every loop turns."""
        return all(loop.healthy for loop in self._loops)
