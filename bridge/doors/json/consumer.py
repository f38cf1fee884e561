"""One door: takes a batch, has it held, sends what is to be answered, and only then lets go of it (I1).

`once()` is one turn of a loop. While the ledger is away the batch stays where it is, unacked, and is tried again with
growing pauses; when the broker goes, the batch is forgotten, because the broker has it still.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.doors.json.command_order import WAITING_MAX
from bridge.doors.json.handler import Answer, Delivery, Handler, Item
from bridge.errors import LedgerUnavailable
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.ledger import Ledger

#: Messages held in one round trip, and bytes of them in memory at a time.
BATCH, BATCH_BYTES = 250, 32 * 1024 * 1024
#: Seconds a door waits for a message before it looks at everything else.
WAIT_S = 0.5
#: Seconds between two looks at a door that is closed by back-pressure, and at calls under way.
CLOSED_S, CALLING_S = 0.1, 0.02


class Consumer(ABC):
    """What AMQP and streams have in common."""

    def __init__(self, handler: Handler, ledger: Ledger, pressure: Pressure) -> None:
        self._handler = handler
        self._ledger = ledger
        self._pressure = pressure
        self._batch: list[Item] = []
        self._calling: list[Item] = []
        self._tries = 0
        self._closed: str | None = None

    # What a door has to bring

    @abstractmethod
    def _receive(self, wait_s: float) -> Sequence[Delivery]:
        """What has come; waits for the first one alone. Raises a `broken` error when the broker is away."""

    @abstractmethod
    def _answer(self, answers: Sequence[Answer]) -> None:
        """Send them; what nobody can take becomes a dead letter."""

    @abstractmethod
    def _release(self, items: Sequence[Item]) -> None:
        """All of it is held and answered: the broker may forget it."""

    @abstractmethod
    def _pause(self) -> None:
        """Take nothing until the next `_receive`; what was taken and not held goes back."""

    def _hurt(self, error: Exception) -> bool:
        """Whether the error means that the broker is away; then everything of the connection is forgotten."""
        del error
        return False

    @abstractmethod
    def _pulse(self) -> None:
        """Keep the connection alive while nothing is read from it."""

    @abstractmethod
    def close(self) -> None:
        """Leave in good order."""

    # A turn

    def once(self) -> float:
        """Seconds until the next turn."""
        try:
            wait = self._turn()
        except LedgerUnavailable as error:
            self._tries += 1
            tell("door.held", error=str(error), waiting=len(self._batch) + len(self._calling))
            self._pulse_gently()
            return backoff(self._tries, 0.1, 2.0)
        except Exception as error:
            if not self._hurt(error):
                raise
            self._forget()
            self._tries += 1
            tell("broker.unavailable", error=f"{type(error).__name__}: {error}", door=self._handler.source)
            return backoff(self._tries, 0.2, 5.0)
        self._tries = 0
        return wait

    def _turn(self) -> float:
        self._called()
        if not self._batch:
            if self._shut():
                return CLOSED_S
            deliveries = self._receive(CALLING_S if self._calling else WAIT_S)
            if not deliveries:
                return 0.0
            self._batch = self._handler.take(deliveries)
        self._handler.room = WAITING_MAX - sum(item.wait is not None for item in self._calling)
        self._handler.hold(self._batch)
        self._finish([item for item in self._batch if not item.under_way])
        self._calling += [item for item in self._batch if item.under_way]
        self._batch = []
        return 0.0

    def _shut(self) -> bool:
        """Whether back-pressure keeps this door closed. Commands always come in: a cancel makes room."""
        reason = self._pressure.closed() if self._handler.kind == "requests" else None
        if reason and not self._closed:
            tell("door.closed", reason=reason, door=self._handler.source)
        elif self._closed and not reason:
            tell("door.opened", door=self._handler.source)
        self._closed = reason
        if reason:
            self._pause()
        return bool(reason)

    def _called(self) -> None:
        """Commands whose calls to RunPod have ended, and those whose requests have come."""
        self._handler.look_again([item for item in self._calling if item.wait is not None])
        ended = [item for item in self._calling if item.done]
        for item in ended:
            if item.call is None:
                continue
            if isinstance(item.call.exception(), LedgerUnavailable):
                item.call, item.held = None, False  # asked again, once the ledger is back
            elif self._handler.lacks(item, item.call.exception()):
                continue
            elif not item.answers:
                item.answers = item.call.result()
        self._handler.hold([item for item in self._calling if not item.held])
        finished = [item for item in ended if item.done]
        self._finish(finished)
        self._calling = [item for item in self._calling if item.tag not in {other.tag for other in finished}]

    def _finish(self, items: Sequence[Item]) -> None:
        if not items:
            return
        answers = [answer for item in items for answer in item.answers]
        if answers:
            self._answer(answers)
            for item in items:
                item.answers, item.call = [], None
        self._release(items)

    def _forget(self) -> None:
        self._batch, self._calling = [], []

    def _pulse_gently(self) -> None:
        try:
            self._pulse()
        except Exception as error:  # noqa: BLE001  (the next turn meets it again, and knows what it means)
            if self._hurt(error):
                self._forget()


def undeliverable(handler: Handler, ledger: Ledger, answer: Answer, fault: str) -> None:
    """An answer that nobody takes is kept, never silent (I12)."""
    tell("reply.returned", reply_to=answer.to, error=fault)
    ledger.dead.keep(
        "undeliverable",
        door=handler.door,
        source=answer.to,
        body=answer.body,
        detail=f"reply_to {answer.to}: {fault}",
        headers={"correlation_id": answer.correlation_id} if answer.correlation_id else None,
    )
