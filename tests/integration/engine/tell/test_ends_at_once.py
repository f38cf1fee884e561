"""An end that this process has written is told by it at once; the loop that looks for what is due is the net below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest

from bridge.engine.calls.threads import Callers
from bridge.engine.tell.finish import SOON_MAX, Finish
from bridge.errors import LedgerUnavailable
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.ledger import Ledger
from tests.support.ended import ended
from tests.support.helpers import eventually


class Here:
    """A teller that remembers whom it told, and with which output."""

    def __init__(self) -> None:
        """Nobody yet."""
        self.told: dict[str, str | None] = {}

    def ready(self) -> bool:
        """Always."""
        return True

    def plain(self, held: Held) -> bool:
        """All are."""
        return bool(held.record.id)

    def store(self, batch: Sequence[Held], *, whole: bool) -> Sequence[Held]:
        """Told."""
        assert whole
        self.told |= {held.record.id: held.output for held in batch}
        return ()

    def __call__(
        self, request_id: str, message: Any, headers: dict[str, Any] | None, known: Held | None = None
    ) -> None:
        """Never: all are plain."""
        raise AssertionError(request_id, message, headers, known)


def finish(ledger: Ledger, here: Here, callers: Callers) -> Finish:
    """With no loop: nothing looks for what is due."""
    return Finish(ledger, cast("Any", None), 30_000, 60.0, callers, here)


def test_an_end_is_told_with_its_output_and_no_loop(ledger: Ledger) -> None:
    """Those that come while others are told as well."""
    here = Here()
    tells = finish(ledger, here, Callers("finish", 2))
    changes = [ended(ledger, f"r{n}", f"r{n}") for n in range(30)]
    assert all(tells.soon(change) for change in changes)
    eventually(lambda: here.told == {f"r{n}": f'"r{n}"' for n in range(30)})


def test_an_end_whose_turn_another_has_is_left_to_it(ledger: Ledger) -> None:
    """It was told, or is about to be."""
    here = Here()
    tells = finish(ledger, here, Callers("finish", 2))
    taken, free = ended(ledger, "taken", "taken"), ended(ledger, "free", "free")
    begin = partial(ledger.table.finish_begin, round_=1, nonce="n", turn="another", turn_ms=30_000)
    ledger.change(taken.after, begin)
    assert tells.soon(taken)
    assert tells.soon(free)
    eventually(lambda: "free" in here.told)
    assert "taken" not in here.told


def test_what_fails_is_left_to_the_loop_and_those_after_it_are_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger did not answer when the end was to be read: it is due as before."""
    here = Here()
    callers = Callers("finish", 2)
    tells = finish(ledger, here, callers)
    lost, later = ended(ledger, "lost", "lost"), ended(ledger, "later", "later")
    with monkeypatch.context() as away:

        def unanswered(*_args: Any, **_more: Any) -> Any:
            raise LedgerUnavailable("away")

        away.setattr(ledger, "load_many", unanswered)
        assert tells.soon(lost)
        eventually(lambda: not callers.busy)
    assert tells.soon(later)
    eventually(lambda: "later" in here.told)
    assert "lost" not in here.told
    due = ledger.claim(Step.FINISH, {"demo": 9}, lease_ms=1_000).records
    assert due[0].record.id == "lost"


def test_what_is_more_than_can_be_told_soon_is_left_to_the_loop(ledger: Ledger) -> None:
    """So is what no thread is free for, and an end that was told before: a turn that was given back."""
    here = Here()
    one = ended(ledger, "one", "one")
    slow = Callers("finish", 1)
    tells = finish(ledger, here, slow)
    full = finish(ledger, here, Callers("finish", 0))
    assert not full.soon(one)
    again = one._replace(before=one.after)
    assert not tells.soon(again)
    assert not tells.soon(one._replace(delay_ms=1_000))
    tells._soon.extend(["x"] * SOON_MAX)
    assert not tells.soon(one)
    tells._soon.clear()
    slow.close()
    assert not tells.soon(one)
    assert finish(ledger, cast("Any", None), Callers("finish", 2)).soon(one) is False
