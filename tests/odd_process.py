"""Celery settings of a worker that lacks something, or has a mistake, just when certain requests come.

A request says by its id where it is met, by what, and how often: `taken.memory.3.x` is met three times as Celery's
consumer hands it on, `accepted.mistake.9.y` nine times as a record is made of it, `cancelled...` as it is cancelled.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from typing import Any

from bridge.doors.celery.accept import eta, in_bulk
from bridge.engine.accept.accept import Accept
from bridge.engine.control import Control
from bridge.errors import LedgerFault

_ERRORS: dict[str, Callable[[], Exception]] = {
    "memory": MemoryError,
    "thread": lambda: RuntimeError("can't start new thread"),
    "disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "ledger": lambda: LedgerFault("WRONGTYPE"),
    "mistake": lambda: TypeError("unforeseen"),
}
_met: Counter[str] = Counter()


def _meet(place: str, request_id: Any) -> None:
    where, *said = str(request_id).split(".")
    if where != place:
        return
    kind, times, _ = said
    _met[str(request_id)] += 1
    if _met[str(request_id)] <= int(times):
        error = _ERRORS[kind]()
        raise error


_keeps_eta_apart, _prepares, _cancels = eta.keep_eta_apart, Accept.prepare, Control.cancel


def _keep_eta_apart(message: Any, app: Any) -> None:
    _meet("taken", message.headers.get("id"))
    _keeps_eta_apart(message, app)


def _prepare(self: Accept, request_id: str, *more: Any) -> Any:
    _meet("accepted", request_id)
    return _prepares(self, request_id, *more)


def _cancel(self: Control, **asked: Any) -> Any:
    _meet("cancelled", asked.get("id"))
    return _cancels(self, **asked)


for module in (eta, in_bulk):
    vars(module)["keep_eta_apart"] = _keep_eta_apart
Accept.prepare = _prepare  # type: ignore[assignment,method-assign]
Control.cancel = _cancel  # type: ignore[assignment,method-assign]
