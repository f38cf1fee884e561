"""Celery's own clocks as the ledger's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context
from celery.worker import state

from bridge.doors.celery.canvas import clocks_of
from bridge.doors.celery.worker.redacted_request import RedactedRequest

AT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("given", [AT, AT.isoformat(), AT.replace(tzinfo=None), "2026-11-29T13:00:00+01:00"])
def test_expires_is_a_time_of_the_ledger_whatever_the_process_clock_says(given: Any) -> None:
    """A step of a worker's clock moves no queue deadline; one of Redis' clock is taken out, as of any time."""
    hour = timedelta(hours=1)
    assert clocks_of(Context(expires=given, timelimit=(None, None)), 0) == (int(AT.timestamp() * 1000), 0)
    stepped = clocks_of(Context(expires=given, timelimit=(9, 7)), -3_600_000)
    assert stepped == (int((AT - hour).timestamp() * 1000), 7_000)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_message_is_thrown_away_when_its_time_has_passed_by_the_ledger_and_not_by_the_process(hours: int) -> None:
    """The process' clock is an hour off: what it has not reached may have passed, and the other way round."""
    now = datetime.now(UTC)
    ledgers, offset = int((now - timedelta(hours=hours)).timestamp() * 1000), 7_200_000  # steps of Redis' clock before
    ledger = SimpleNamespace(now=lambda: ledgers + offset, clock=SimpleNamespace(offset=offset))
    request = RedactedRequest.__new__(RedactedRequest)
    request.id, request.name = f"clock-{hours}", "bridge.run"
    request._task = SimpleNamespace(ledger_of=lambda: ledger)
    request._expires = now - timedelta(hours=hours / 2)
    try:
        assert request.maybe_expire() is (hours < 0)
        assert (request.id in state.revoked) is (hours < 0)
    finally:
        state.revoked.discard(request.id)
    request._expires = None
    assert request.maybe_expire() is False
