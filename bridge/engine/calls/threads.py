"""Threads that call RunPod; work is claimed only when one of them is free to do it.

A call whose answer is waited for elsewhere holds no thread, and counts as if it did: so many are under way at most.
An owner (an endpoint) may hold no more than a multiple of what is free beside it: so one that hangs never has them all,
and another finds a thread at once (HARDENING 13).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.runpod.client import Told

#: How many threads an owner may hold for each one that stays free: alone it has 14 of 16, two have 7 each.
SHARE = 7
#: So few threads are not divided.
FEW = 3


class Callers:
    """Threads over one queue, started as they are needed; a Future for each call would cost more than it tells."""

    def __init__(self, name: str, threads: int) -> None:
        """At most so many calls are under way at once."""
        self._name = name
        self._threads = threads
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...], str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._free = threads
        self._held: dict[str, int] = {}
        self.on_free: Callable[[], None] | None = None
        #: Whether nothing more is to be started: calls that take long end early.
        self.closing = False

    @property
    def free(self) -> int:
        """How many calls could start now."""
        return self._free

    def free_for(self, owner: str) -> int:
        """How many calls of this owner could start now, with some left for the others."""
        with self._lock:
            free, held = self._free, self._held.get(owner, 0)
        if self._threads <= FEW:
            return free
        return min(free, max(int(held == 0), (SHARE * free - held) // (1 + SHARE)))

    @property
    def busy(self) -> int:
        """How many calls are under way."""
        return self._threads - self._free

    def start(self, call: Callable[..., None], *args: Any, owner: str = "") -> None:
        """Run the call in a free thread, for this owner; where none is free, in the next that is.

        Where the system starts none it is run here.
        """
        self._take(owner)
        self._hand((call, args, owner))

    def begin(
        self, leave: Callable[[Callable[[Told], None]], bool], call: Callable[..., None], *args: Any, owner: str = ""
    ) -> bool:
        """Have a request leave now; `call(*args, told)` runs when it is answered. False: it did not leave.

        A good answer is worked on by the thread that waits for all of them; what a fault leads to may take its time
        (another question to RunPod), so it is worked on by one of these threads.
        """
        self._take(owner)

        def answered(told: Told) -> None:
            if told.fault is not None:
                self._hand((call, (*args, told), owner))
            else:
                self._do(call, (*args, told), owner)

        if leave(answered):
            return True
        with self._lock:
            self._free_one(owner)
        return False

    def _take(self, owner: str) -> None:
        with self._lock:
            self._free -= 1
            self._held[owner] = self._held.get(owner, 0) + 1

    def _hand(self, item: tuple[Callable[..., None], tuple[Any, ...], str]) -> None:
        if not self._taken_by_a_thread(item):
            self._do(*item)  # slow, and nothing is lost: neither what was heard nor the turn that it has

    def _taken_by_a_thread(self, item: tuple[Callable[..., None], tuple[Any, ...], str]) -> bool:
        """False where there is none, and the system starts no more."""
        with self._lock:
            if self.closing:  # the threads end, and would not see it
                return self._begun("last", self._do, item)
            if self._started < min(self._threads, self._threads - self._free):
                self._started += self._begun(str(self._started + 1), self._run)
            if self._started:
                self._queue.put(item)
            return self._started > 0

    def _begun(self, name: str, target: Callable[..., None], args: tuple[Any, ...] = ()) -> bool:
        try:
            threading.Thread(target=target, args=args, name=f"bridge-{self._name}-{name}", daemon=True).start()
        except RuntimeError as error:  # a limit on the processes of a user or a container
            tell("call.failed", call="start a thread", error=f"{type(error).__name__}: {error}")
            return False
        return True

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._do(*item)

    def _do(self, call: Callable[..., None], args: tuple[Any, ...], owner: str) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  (the record's lease ends and it is due again)
            tell("call.failed", call=getattr(call, "__name__", "call"), error=f"{type(error).__name__}: {error}")
        with self._lock:
            self._free_one(owner)
            # Whoever wanted more may have found none free for it, long before all were taken.
            was_full = self._free <= max(1, self._threads // (1 + SHARE) + 1)
        if was_full and self.on_free is not None:
            self.on_free()

    def _free_one(self, owner: str) -> None:
        self._free += 1
        left = self._held[owner] - 1
        if left:
            self._held[owner] = left
        else:
            del self._held[owner]

    def close(self) -> None:
        """Let the threads end behind what was started; what an answer still leads to has a thread of its own."""
        with self._lock:
            self.closing = True
            for _ in range(self._started):
                self._queue.put(None)


class Planned:
    """What so many owners may start in one turn between them, before any of them has started anything: even parts.

    What one leaves of its part is for those after it, so who wants least should come first.
    """

    def __init__(self, callers: Callers, owners: int) -> None:
        self._callers = callers
        self._owners = owners
        self._taken = 0

    def free_for(self, owner: str) -> int:
        """As `Callers.free_for`, and no more than this owner's part. Asked once by each."""
        part = -(-max(0, self._callers.free - self._taken) // max(1, self._owners))
        self._owners -= 1
        return min(self._callers.free_for(owner), part)

    def take(self, count: int) -> None:
        """So many will be started, or fewer."""
        self._taken += count
