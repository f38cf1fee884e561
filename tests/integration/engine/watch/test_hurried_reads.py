"""News of a job that come alone are read without a look at what is due; what they cannot have is left to that look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.engine.watch.status_polls import StatusPolls
from bridge.engine.watch.unreadable import Unread
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.transitions.watching import Purge
from bridge.ledger import Due
from bridge.runpod.operations import Operation
from tests.support.helpers import eventually
from tests.support.submitter import Submitter, submitter


@pytest.fixture
def one(redis_url: str) -> Iterator[Submitter]:
    """With a job that has ended at RunPod, of which RunPod has said that there is news."""
    with submitter(redis_url) as found:
        found.writes.start()
        found.accept("r1")
        found.submit.once()
        eventually(lambda: found.ledger.phases(["r1"]) == ["TRACKED"])
        eventually(lambda: found.emulator.jobs("demo")[0]["status"] == "COMPLETED")
        held = found.ledger.load("r1")
        assert held is not None
        found.ledger.change(held, found.ledger.table.hinted)
        yield found
        assert found.writes.stop(10)


def polls_of(one: Submitter) -> StatusPolls:
    """The loop of status reads over the same parts."""
    submit, table = one.submit, one.ledger.table

    def observed(held: Held, heard: Observation, poll_ms: int) -> None:
        one.writes.put(held, lambda fresh, now: table.observed(fresh, now, heard, poll_ms=poll_ms))

    return StatusPolls(
        one.ledger, one.writes, submit.endpoint_health, one.callers, submit.pace, submit.client_of, lambda name: name,
        60_000, 60_000, lambda _: Purge(), observed, Unread(one.ledger, one.writes, submit.endpoint_health),
    )  # fmt: skip


def reads(one: Submitter) -> int:
    """Status reads that RunPod has had."""
    return sum(call["op"] == "status" for call in one.emulator.calls("demo"))


def test_news_that_come_alone_are_read_at_once(one: Submitter) -> None:
    """One read, and the end is written."""
    polls = polls_of(one)
    assert polls.hurried.came(Step.POLL, "demo")
    polls.at_once()
    eventually(lambda: one.ledger.phases(["r1"]) != ["TRACKED"])
    assert reads(one) == 1


def test_without_a_permit_nothing_is_read_and_the_claim_is_given_back(one: Submitter) -> None:
    """As if it had never been taken: whatever is claimed ten times without a change is set aside."""
    polls, budget = polls_of(one), one.submit.endpoint_health.budget
    all_there_are = budget.acquire("demo", Operation.STATUS, 5_000, token="others", slot_ms=60_000).count
    for _ in range(12):
        polls._one_at_once(Due("demo", Step.POLL, 1, 0))
    assert reads(one) == 0
    budget.release("demo", Operation.STATUS, "others", used=0, unused=all_there_are)
    polls.once()
    eventually(lambda: one.ledger.phases(["r1"]) != ["TRACKED"])
