"""Messages that are accepted together, when something goes wrong between them."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
from celery.exceptions import Reject

from bridge.doors.celery.accept.in_bulk import BatchAccept, _Taken
from bridge.errors import LedgerFault


class Reads(BatchAccept):
    """Reads a message that is good."""

    def _read(self, taken: _Taken) -> Any:
        if taken.message == "refused":
            raise ValueError("unreadable")
        return taken.message


@pytest.mark.parametrize(
    ("error", "others"),
    [(LedgerFault("of one record"), "alone"), (Reject("the worker stops", requeue=True), "reject")],
    ids=["fault", "stops"],
)
def test_a_message_that_went_its_own_way_is_not_handed_on_again_with_the_others(error: Exception, others: str) -> None:
    """It would be refused twice, and its errbacks told twice; or go back to the queue while it is worked on."""
    done: Counter[tuple[str, str]] = Counter()

    class Accepts:
        """Fails."""

        def many(self, _: Any) -> Any:
            raise error

    def taken(name: str) -> _Taken:
        def told(what: str) -> Any:
            return lambda *_: done.update([(name, what)])

        return _Taken(name, told("ack"), told("reject"), told("alone"), "here", ())

    accept = Reads(lambda: cast("Any", (Accepts(), None)), cast("Any", None), lambda: None)
    accept._work([taken("good"), taken("refused")])
    assert done == {("good", others): 1, ("refused", "alone"): 1}
