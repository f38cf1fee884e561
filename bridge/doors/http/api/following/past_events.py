"""What the event stream still holds of a request. One walk serves all who have just begun to follow."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.doors.http.api.following.followers import place_of, subject_of

if TYPE_CHECKING:
    from bridge.doors.http.api.guard import Guard
    from bridge.ledger import Ledger

#: Entries of one read; bytes of events that one walk keeps, for all who wait for it together.
PAGE, KEPT_MAX = 500, 32 * 1024 * 1024
#: Seconds of one walk; the next one goes on where it stopped.
WALK_S = 2.0


@dataclass(slots=True)
class Found:
    """A part of the past."""

    events: list[str] = field(default_factory=list)
    #: Where the next part begins; None: this was the last.
    goes_on: str | None = None
    kept: int = 0


@dataclass(slots=True)
class _Asked:
    request_id: str
    start: str
    until: str
    answer: asyncio.Future[Found]


class Past:
    """Of one event loop: one walk at a time; who comes during one is served by the next, all together."""

    def __init__(self, guard: Guard, ledger: Ledger) -> None:
        """`guard` has the threads."""
        self._guard = guard
        self._ledger = ledger
        self._waiting: list[_Asked] = []
        self._walking: asyncio.Task[None] | None = None

    async def of(self, request_id: str, start: str, until: str) -> Found:
        """Events of a request between two entries of the stream (`(<id>` without the first), as text."""
        asked = _Asked(request_id, start, until, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._walking is None or self._walking.done():
            self._walking = asyncio.create_task(self._walk())
        return await asked.answer

    async def _walk(self) -> None:
        await asyncio.sleep(0)  # who asks in this very moment comes along
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                found = await self._guard.asked(lambda batch=batch: self._read(batch))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001  (whoever waits is told)
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)
                continue
            for asked, one in zip(batch, found, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(one)

    def _read(self, batch: list[_Asked]) -> list[Found]:
        """Blocks."""
        found = [Found() for _ in batch]
        each = max(64 * 1024, KEPT_MAX // len(batch))
        by_id: dict[str, list[int]] = {}
        for number, asked in enumerate(batch):
            by_id.setdefault(asked.request_id, []).append(number)
        at, until = min((a.start for a in batch), key=place_of), max((a.until for a in batch), key=place_of)
        ends = time.monotonic() + WALK_S
        while entries := self._ledger.outbox.texts(at, until, count=PAGE):
            for entry_id, body in entries:
                for number in by_id.get(subject_of(body) or "", ()):
                    one, asked = found[number], batch[number]
                    if one.goes_on is not None or not _between(asked.start, entry_id, asked.until):
                        continue
                    one.events.append(body)
                    one.kept += len(body)
                    if one.kept >= each:
                        one.goes_on = f"({entry_id}"
            if all(one.goes_on is not None for one in found):
                break
            at = f"({entries[-1][0]}"
            if time.monotonic() >= ends:
                for one in found:
                    one.goes_on = one.goes_on or at
                break
        return found


def _between(start: str, entry_id: str, until: str) -> bool:
    place = place_of(entry_id)
    after = place > place_of(start) if start.startswith("(") else place >= place_of(start)
    return after and place <= place_of(until)
