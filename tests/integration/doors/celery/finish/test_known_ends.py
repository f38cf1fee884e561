"""An end that this process has just read is told without reading it again."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from celery.app.task import Context

from bridge.doors.celery.finish.finish_lease import FinishLease, begin
from bridge.job.document import Held
from bridge.ledger import Ledger
from tests.support.ended import ended


def read_once(ledger: Ledger) -> Held:
    """An end as it was read, with another output than the ledger's."""
    ended(ledger, "r1", "the ledger's")
    known = ledger.load("r1", output=True)
    assert known is not None
    return known._replace(output='"as it was read"')


def turn(ledger: Ledger, known: Held) -> FinishLease:
    """The turn that is taken on what is known."""
    settings = SimpleNamespace(bridge_finish_turn_s=60, bridge_finish_turns_max=5, celery_limit=1_000)
    uses = cast("Any", SimpleNamespace(settings=settings, ledger=ledger))
    return begin(uses, cast("Any", None), Context(id="r1"), 1, "n", known)


def test_what_is_known_is_not_read_again(ledger: Ledger) -> None:
    """The turn is taken onto the version that was read."""
    assert turn(ledger, read_once(ledger)).end.result == "as it was read"


def test_of_what_is_known_without_its_output_only_that_is_read(ledger: Ledger) -> None:
    """As a claim brings it: the output is of that version, for the turn is taken onto it."""
    known = read_once(ledger)._replace(output=None)
    assert turn(ledger, known).end.result == "the ledger's"


def test_what_has_changed_meanwhile_is_read_again(ledger: Ledger) -> None:
    """The turn is taken onto another version, which may have another output."""
    known = read_once(ledger)
    ledger.change(known, partial(ledger.table.finish_sent, delay_ms=1_000))
    assert turn(ledger, known).end.result == "the ledger's"
