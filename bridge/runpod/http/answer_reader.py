"""Answers that one thread waits for, however many they are: a thread for each costs more than what it reads.

A thread that waits is switched to and from some five times for each answer, and takes the interpreter's lock as often.
"""

from __future__ import annotations

import os
import select
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.runpod.http.exchange import PIECE
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.runpod.http.exchange import Answer, Reading

#: Whether the system can wait for sockets that another thread adds meanwhile. Without it each call has a thread.
POSSIBLE = hasattr(select, "epoll")
#: Seconds: an answer that does not come is given up so much after its deadline at most.
LOOK_S = 0.1
#: What a connection without news says.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: Told once what came: the answer, or why none did.
Then = Callable[["Answer | Exception"], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    connection: Any  # of `speaking`
    sock: Any
    reading: Reading
    then: Then


def of_this_process() -> Waiting:
    """The one that all clients of a process share: what comes for several endpoints at once wakes one thread.

    Each that has asked for it closes it; it ends with the last of them.
    """
    global _shared  # noqa: PLW0603  (one per process, by pid)
    with _lock:
        if _shared is None or _shared[0] != os.getpid() or not _shared[1].users:
            _shared = (os.getpid(), Waiting())
        _shared[1].users += 1
        return _shared[1]


class Waiting:
    """Thread-safe. Its thread begins with the first answer, and rests while none is waited for."""

    def __init__(self) -> None:
        self._epoll: Any = select.epoll()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._started = False
        #: Of how many clients this is; counted under the module's lock, and down under this one's too: the thread rests
        #: only while it knows that some are left.
        self.users = 0

    def ready(self) -> None:
        """See that somebody reads, before anything leaves. Raises RuntimeError while no thread can be started."""
        with self._lock:
            if not self._started:
                threading.Thread(target=self._run, name="bridge-answers", daemon=True).start()
                self._started = True

    def add(self, connection: Any, then: Then) -> None:
        """Wait for the answer to what has just been sent on this connection; `ready` was called before.

        `then` is called in the thread that waits for all of them, so it must be quick.
        """
        sock = connection.sock
        sock.settimeout(0)
        one = _Waiting(connection, sock, connection.reading(), then)
        with self._lock:
            self._waiting[sock.fileno()] = one
        try:
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            with self._lock:
                del self._waiting[sock.fileno()]
            raise
        self._some.set()

    def close(self) -> None:
        """One client needs it no more; it ends when none does, and nothing is waited for any more."""
        with _lock, self._lock:
            self.users -= 1
            self._some.set()
            if not self._started and not self.users:
                self._epoll.close()

    def _run(self) -> None:
        look_at = 0.0
        while True:
            self._some.wait()
            for fd, _ in self._epoll.poll(LOOK_S):
                one = self._waiting.get(fd)
                if one is not None:
                    self._read(fd, one)
            now = time.monotonic()
            if now >= look_at:
                look_at = now + LOOK_S
                for fd, one in list(self._waiting.items()):
                    if now > one.reading.deadline:
                        self._read(fd, one)  # it may have come in time, while this thread was kept from reading it
                        if self._waiting.get(fd) is one:
                            self._broken(fd, one, TimeoutError("timed out"))
            with self._lock:
                if not self._waiting:
                    if not self.users:
                        self._epoll.close()
                        return
                    self._some.clear()

    def _read(self, fd: int, one: _Waiting) -> None:
        """One piece, and whatever TLS has unpacked beside it: that is not seen by who waits for the socket."""
        try:
            while True:
                one.reading.take(one.sock.recv(PIECE))
                if one.reading.over or not (hasattr(one.sock, "pending") and one.sock.pending()):
                    break
        except _NOT_YET:
            return
        except Exception as error:  # noqa: BLE001  (of this connection alone)
            self._broken(fd, one, error)
            return
        if one.reading.over:
            self._over(fd, one)

    def _broken(self, fd: int, one: _Waiting, error: Exception) -> None:
        try:
            one.reading.broken(error)
        except Exception as lost:  # noqa: BLE001  (no head has come: told to who waits)
            self._over(fd, one, lost)
        else:
            self._over(fd, one)

    def _over(self, fd: int, one: _Waiting, lost: Exception | None = None) -> None:
        self._epoll.unregister(fd)
        with self._lock:
            del self._waiting[fd]
        came: Answer | Exception
        try:
            came = one.connection.answered(one.reading) if lost is None else lost
        except Exception as error:  # noqa: BLE001  (told to who waits)
            came = error
        if isinstance(came, Exception):
            one.connection.close()
        try:
            one.then(came)
        except Exception as error:  # noqa: BLE001  (its record's lease ends; the others' answers are read)
            tell("call.failed", call="answered", error=f"{type(error).__name__}: {error}")


_lock = threading.Lock()
_shared: tuple[int, Waiting] | None = None
