"""Who follows which request, and one thread that reads the event stream for all of them.

The stream is read once, however many follow; it is not read at all while nobody does. What a follower has not taken
yet is bounded: of one that is too slow the rest is dropped, and it reads the stream's past again where it stopped.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bridge.errors import LedgerError
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Events of one read, and milliseconds that it waits for the first.
COUNT, WAIT_MS = 500, 1_000
#: Seconds until the next read of a ledger that is away; and between two looks whether an end was missed.
AWAY_S, LOOK_S = 1.0, 10.0
#: What is held for one follower.
EVENTS_MAX, BYTES_MAX = 256, 1024 * 1024

_SUBJECT = re.compile(r'"subject":"([A-Za-z0-9._:\-]{1,200})"')


def subject_of(body: str) -> str | None:
    """The request that an event is of, without reading all of it: it stands before what a caller has written."""
    found = _SUBJECT.search(body[:600])
    return found[1] if found else None


def place_of(entry_id: str) -> tuple[int, int]:
    """An entry's id, or `(<id>`, as what can be compared."""
    at, _, number = entry_id.removeprefix("(").partition("-")
    return int(at), int(number or 0)


class Follower:
    """One reader of one request's events. Used by the event loop alone."""

    __slots__ = ("_bytes", "ended", "events", "lost", "ready", "request_id", "suspected")

    def __init__(self, request_id: str) -> None:
        """Nothing was heard yet."""
        self.request_id = request_id
        self.events: deque[str] = deque()
        self.ready = asyncio.Event()
        #: Some were dropped: what is missing stands in the stream.
        self.lost = False
        #: The request has ended, and nothing has told so: its record tells.
        self.ended = False
        self.suspected = False
        self._bytes = 0

    def put(self, body: str) -> None:
        """One more event."""
        if self.lost:
            return
        self.events.append(body)
        self._bytes += len(body)
        if len(self.events) > EVENTS_MAX or (self._bytes > BYTES_MAX and len(self.events) > 1):
            self.events.clear()
            self._bytes = 0
            self.lost = True
        self.ready.set()

    def take(self) -> list[str]:
        """All that was heard."""
        taken = list(self.events)
        self.events.clear()
        self._bytes = 0
        return taken


class Followers:
    """Of one event loop."""

    def __init__(self, ledger: Ledger, most: int) -> None:
        """At most so many at a time. The thread starts with the first."""
        self._ledger = ledger
        self._most = most
        self._by_id: dict[str, set[Follower]] = {}
        self._count = 0
        self._lock = threading.Condition()
        self._cursor = self._begun_at = "0"
        self._followed = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return self._count >= self._most

    def add(self, request_id: str) -> Follower:
        """From the loop. What is told of the request from `begin` on is heard."""
        self._loop = asyncio.get_running_loop()
        follower = Follower(request_id)
        self._by_id.setdefault(request_id, set()).add(follower)
        self._count += 1
        tell("api.followers", count=self._count)
        return follower

    def begin(self) -> str:
        """Blocks. See that the stream is read, and tell the newest entry: what came later is heard."""
        newest = self._ledger.outbox.newest()  # not under the lock: a ledger that hangs would hold whoever closes
        with self._lock:
            if not self._followed:
                self._cursor = self._begun_at = newest
                self._followed = True
                self._lock.notify_all()
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._read, name="bridge-api-events", daemon=True)
                thread.start()
                self._thread = thread
            return max(newest, self._begun_at, key=place_of)  # another may have looked later, and begun there

    def remove(self, follower: Follower) -> None:
        """From the loop."""
        of_request = self._by_id.get(follower.request_id, set())
        of_request.discard(follower)
        if not of_request:
            self._by_id.pop(follower.request_id, None)
        self._count -= 1
        tell("api.followers", count=self._count)
        if not self._by_id:
            self._followed = False

    def close(self) -> None:
        """From any thread: every follower ends."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all)
        if self._thread is not None:
            self._thread.join(2 * WAIT_MS / 1000)

    @property
    def closed(self) -> bool:
        """Whether it is over for all of them."""
        return self._closed

    def _end_all(self) -> None:
        for follower in [one for some in self._by_id.values() for one in some]:
            follower.ready.set()

    # The thread

    def _read(self) -> None:
        looked = 0.0
        while True:
            with self._lock:
                while not self._closed and not self._anybody_follows():
                    self._lock.wait()
                if self._closed:
                    return
                cursor = self._cursor
            try:
                entries = self._ledger.outbox.wait(cursor, count=COUNT, wait_ms=WAIT_MS)
                looked += WAIT_MS / 1000 if not entries else 0.1
                if looked >= LOOK_S:
                    looked = 0.0
                    self._look_for_ends()
            except LedgerError as error:
                tell("api.events_unreadable", error=str(error))
                with self._lock:
                    self._lock.wait_for(lambda: self._closed, AWAY_S)
                continue
            if not entries:
                continue
            found = [(subject, body) for _, body in entries if (subject := subject_of(body)) in self._by_id]
            if found:
                self._call(lambda told=found: self._deliver(told))  # type: ignore[misc]
            with self._lock:
                if self._cursor == cursor:
                    self._cursor = entries[-1][0]

    def _anybody_follows(self) -> bool:
        """Whoever had begun may have gone before `begin` came to its end."""
        self._followed = self._followed and bool(self._by_id)
        return self._followed

    def _call(self, call: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _deliver(self, found: list[tuple[str, str]]) -> None:
        for subject, body in found:
            for follower in self._by_id.get(subject, ()):
                follower.put(body)

    def _look_for_ends(self) -> None:
        """An end that was told while nobody could hear it: the stream was trimmed, deleted, or moved."""
        ids = list(self._by_id)
        phases = self._ledger.phases(ids) if ids else []
        over: Mapping[str, bool] = {
            request_id: phase is None or phase.ended for request_id, phase in zip(ids, phases, strict=True)
        }
        self._call(lambda: self._ended(over))

    def _ended(self, over: Mapping[str, bool]) -> None:
        for request_id, ended in over.items():
            for follower in self._by_id.get(request_id, ()):
                if not ended:
                    follower.suspected = False
                elif follower.suspected:  # the second time: what tells it is not merely late
                    follower.ended = True
                    follower.ready.set()
                else:
                    follower.suspected = True
