"""When a message that cannot be taken is to blame."""

from __future__ import annotations

import errno

import pytest

from bridge.doors import whose_fault
from bridge.doors.whose_fault import TRIES, Suspicion, WhoseFault
from bridge.errors import LedgerFault

LACKS = {
    "memory": MemoryError(),
    "files": OSError(errno.EMFILE, "Too many open files"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "threads": RuntimeError("can't start new thread"),
}


def met(whose: WhoseFault, error: Exception, times: int, suspicion: Suspicion | None = None) -> Suspicion | None:
    """After so many tries."""
    for _ in range(times):
        suspicion = whose.met(error, suspicion)
    return suspicion


@pytest.mark.parametrize("lacks", LACKS)
def test_a_message_is_never_to_blame_for_what_the_process_lacks(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others pass, and however long it takes."""
    monkeypatch.setattr(whose_fault, "ALONE_S", 0.0)
    whose = WhoseFault()
    suspicion = met(whose, LACKS[lacks], 1)
    whose.passed()
    assert met(whose, LACKS[lacks], 10 * TRIES, suspicion) is not None


@pytest.mark.parametrize("error", [TypeError("unforeseen"), LedgerFault("WRONGTYPE")])
def test_a_message_is_to_blame_once_others_have_gone_the_same_way(error: Exception) -> None:
    """And after a few tries; what others did before says nothing."""
    whose = WhoseFault()
    whose.passed()
    suspicion = met(whose, error, 3 * TRIES)
    assert suspicion is not None
    whose.passed()
    assert whose.met(error, suspicion) is None
    fresh = met(whose, error, 1)
    whose.passed()
    assert met(whose, error, TRIES - 2, fresh) is not None


def test_a_message_alone_is_held_no_longer_than_a_minute_for_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer for a fault of the ledger, which no message brings about."""
    monkeypatch.setattr(whose_fault, "ALONE_S", -1.0)
    assert met(WhoseFault(), LedgerFault("WRONGTYPE"), TRIES) is not None
    assert met(WhoseFault(), TypeError("unforeseen"), TRIES) is None
