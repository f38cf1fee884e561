"""Who hears of a written change, while the ledger is away again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from bridge.engine.notifier import Notifier
from bridge.errors import LedgerUnavailable
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.record import Long, Record
from bridge.job.transitions import Table


def test_a_wake_that_cannot_be_sent_fails_nothing_that_is_written() -> None:
    """Whoever was told that it failed would do it again: a retry that is under way would be refused."""

    def wake() -> None:
        raise LedgerUnavailable("away")

    ledger = SimpleNamespace(engines=SimpleNamespace(wake=wake))
    notifier = Notifier(cast("Any", ledger), cast("Any", SimpleNamespace(took=lambda _: None)), cast("Any", None))
    change = Table(Rules()).accept(Held(Record(id="r", endpoint="demo"), {Long.INPUT: "1"}), 1_000, None)
    notifier.changed(change)
    verdict = SimpleNamespace(accepted=SimpleNamespace(kind="created", held=change.after))
    notifier.accepted(cast("Any", verdict))
