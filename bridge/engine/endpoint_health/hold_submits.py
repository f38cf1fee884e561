"""Submits wait for a sign of life where the last one was not answered.

A request has few submits, and one that nobody answers uses one of them up: an endpoint that hangs for minutes would end
all that wait for it as LOST. So another call is tried first.
"""

from __future__ import annotations

import threading


class UnansweredSubmits:
    """Thread-safe; of one process."""

    def __init__(self) -> None:
        """Nobody is silent."""
        self._lock = threading.Lock()
        #: Endpoints whose last submit was not answered: whether anything else was since.
        self._heard: dict[str, bool] = {}
        self._asking: set[str] = set()

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._heard

    def begins(self, endpoint: str) -> None:
        """A submit was not answered."""
        with self._lock:
            self._heard[endpoint] = False

    def answered(self, endpoint: str, *, submitted: bool) -> None:
        """A call was. A submit that is answered ends the silence."""
        if endpoint not in self._heard:
            return
        with self._lock:
            if submitted:
                self._heard.pop(endpoint, None)
            elif endpoint in self._heard:
                self._heard[endpoint] = True

    def lets_one_go(self, endpoint: str) -> bool:
        """Whether something was answered since; used up by the submit that it lets go."""
        with self._lock:
            heard = self._heard.get(endpoint, True)
            if heard and endpoint in self._heard:
                self._heard[endpoint] = False
            return heard

    def to_be_asked(self, endpoint: str) -> bool:
        """Whether nobody asks for a sign of life yet. The caller asks, and then calls `asked`."""
        if self._heard.get(endpoint, True):
            return False
        with self._lock:
            if endpoint in self._asking:
                return False
            self._asking.add(endpoint)
            return True

    def asked(self, endpoint: str) -> None:
        """The call that `to_be_asked` wanted is over, whatever came of it."""
        with self._lock:
            self._asking.discard(endpoint)
