"""A request that comes alone is submitted without a look at what is due; what it cannot have is left to that look."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import LedgerUnavailable
from bridge.job.enums import Step
from bridge.ledger import Due
from bridge.runpod.operations import LIMITS, Operation
from tests.support.helpers import eventually
from tests.support.submitter import Submitter, submitter


def permits_left(one: Submitter) -> int:
    """As everybody is told."""
    budget = one.submit.endpoint_health.budget
    budget.flush()
    return budget.state_of("demo", Operation.RUN)["left"]


def test_what_comes_alone_is_submitted_at_once(redis_url: str) -> None:
    """And only that: what comes behind it within the tenth of a second is part of a burst."""
    with submitter(redis_url) as one:
        one.accept("r1", "r2")
        assert one.submit.hurried.came(Step.SUBMIT, "demo", 2)
        one.submit.at_once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 2)
        one.accept("r3")
        assert not one.submit.hurried.came(Step.SUBMIT, "demo")
        one.submit.once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 3)


def test_what_another_has_taken_costs_no_permit(redis_url: str) -> None:
    """Two engines hear of one request: whoever comes late gives its permit back, and looks at what is due."""
    with submitter(redis_url) as one:
        one.accept("r1")
        assert one.submit.hurried.came(Step.SUBMIT, "demo", 3)
        one.submit.at_once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 1)
        eventually(lambda: one.callers.busy == 0)
        eventually(lambda: permits_left(one) == LIMITS[Operation.RUN].calls - 1)


def test_without_a_permit_nothing_leaves_and_the_claim_is_given_back(redis_url: str) -> None:
    """As if it had never been taken: it counts neither as in flight nor as tried."""
    with submitter(redis_url) as one:
        budget = one.submit.endpoint_health.budget
        all_there_are = budget.acquire("demo", Operation.RUN, 1_000, token="others", slot_ms=60_000).count
        one.accept("r1")
        for _ in range(12):  # a record that is claimed ten times without a change is set aside
            one.submit._one_at_once(Due("demo", Step.SUBMIT, 1, 0))
        assert one.ledger.counts("demo").get("flying", 0) == 0
        assert not one.emulator.jobs("demo")
        budget.release("demo", Operation.RUN, "others", used=0, unused=all_there_are)
        one.submit.once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 1)


@pytest.mark.parametrize("call", ["change_many", "claiming"])
def test_what_could_not_leave_because_the_ledger_went_away_holds_no_permit(
    call: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each short outage would take as many calls as were about to leave from all processes, for a minute."""

    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable

    with submitter(redis_url) as one:
        one.accept("r1", "r2")
        with monkeypatch.context() as patched:
            patched.setattr(type(one.ledger), call, away)
            with pytest.raises(LedgerUnavailable):
                one.submit.once()
        eventually(lambda: permits_left(one) == LIMITS[Operation.RUN].calls)
        assert not one.emulator.jobs("demo")
        one.submit.once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 2)
