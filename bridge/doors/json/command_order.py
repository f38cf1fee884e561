"""What waits at the doors ahead of a command: commands overtake requests, and a request that was just sent is known.

A command about an id that the ledger does not know waits here, for a bounded time, while requests that came before it
stand in the stream of requests or in the broker's queues. In the stream each entry is seen to go. Of a queue only what
is ready can be counted, so once that was none the doors have GRACE_S for what they have taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bridge.ledger.streams.inbox import EntryId, ends
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds that a command waits for its request at most; then it is answered that nobody can tell yet.
WAIT_MAX_S = 10.0
#: Seconds in which a door holds what it has taken from a queue.
GRACE_S = 1.0
#: Seconds between two looks at the broker's queues.
COUNT_S = 0.1
#: Commands of one door that wait at a time, and bytes of each; others are answered at once.
WAITING_MAX, BODY_MAX = 1_000, 64 * 1024
#: Seconds between two looks at what the ledger knows now, and how many ids are asked for in one that is soon.
LOOK_S, LOOK_SLOW_S, LOOK_MANY = 0.03, 0.25, 100

#: What has become of a wait: the request is known; nothing that came before is left; it waits on; its time is over.
Standing = Literal["known", "passed", "waits", "late"]


@dataclass(slots=True)
class Wait:
    """One command's."""

    request_id: str
    mark: EntryId | None  # the last entry of the stream of requests when it came
    since: float  # monotonic
    emptied: float | None = None  # when the queues were first seen empty since


class Queues:
    """How many messages are ready in the broker's queues of requests, counted in a thread of its own when asked for.

    A broker that hangs holds nobody else; what it holds cannot be counted then, and those who wait are told so.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        """`count` may block, and raise whatever the broker's library raises."""
        self._count = count
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self._unseen = ""
        self.seen: tuple[float, int] = (float("-inf"), 0)  # when the last count began, and what it found

    def look(self) -> None:
        """Have them counted soon; returns at once."""
        with self._lock:
            if time.monotonic() < self._next or (self._thread is not None and self._thread.is_alive()):
                return
            self._next = time.monotonic() + COUNT_S
            # A daemon: one that hangs keeps no process from ending.
            self._thread = threading.Thread(target=self._counted, name="bridge-inboxes", daemon=True)
            self._thread.start()

    def _counted(self) -> None:
        began = time.monotonic()
        try:
            found = self._count()
        except Exception as error:  # noqa: BLE001  (whatever it is: what the queues hold is not known)
            unseen = f"{type(error).__name__}: {error}"
            if unseen != self._unseen:
                tell("broker.unavailable", error=unseen, door="the queues of requests, to be counted")
            self._unseen = unseen
            return
        self._unseen, self.seen = "", (began, found)


class Ahead:
    """Of one process; the doors for commands share it."""

    def __init__(self, ledger: Ledger, queues: Queues) -> None:
        self._ledger = ledger
        self._queues = queues

    def wait(self, request_id: str) -> Wait:
        """Begin to wait for a request. Raises LedgerUnavailable."""
        found = self._ends()
        self._queues.look()
        return Wait(request_id, found[1] if found else None, time.monotonic())

    def look(self, waits: Sequence[Wait]) -> list[Standing]:
        """How each of them stands now. Raises LedgerUnavailable."""
        if not waits:
            return []
        # First what is left ahead, then what is known: a request goes from there to here, and is seen in one of them.
        found, now = self._ends(), time.monotonic()
        self._queues.look()
        began, ready = self._queues.seen
        passed = []
        for wait in waits:
            if wait.emptied is None and ready == 0 and began >= wait.since:
                wait.emptied = began
            gone = wait.mark is None or found is None or found[0] > wait.mark
            passed.append(gone and wait.emptied is not None and now >= wait.emptied + GRACE_S)
        phases = self._ledger.phases([wait.request_id for wait in waits])
        return [
            "known" if phase is not None else "passed" if over else "waits" if now < wait.since + WAIT_MAX_S else "late"
            for wait, phase, over in zip(waits, phases, passed, strict=True)
        ]

    def _ends(self) -> tuple[EntryId, EntryId] | None:
        names = self._ledger.names
        return ends(self._ledger.client, names.prefix, names.requests)
