"""Celery's own clocks as the ledger's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.app.task import Context

from bridge.doors.celery.canvas import clocks_of

AT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("given", [AT, AT.isoformat(), AT.replace(tzinfo=None), "2026-11-29T13:00:00+01:00"])
def test_expires_is_a_time_of_the_ledger_whatever_the_process_clock_says(given: Any) -> None:
    """A step of a worker's clock moves no queue deadline; one of Redis' clock is taken out, as of any time."""
    hour = timedelta(hours=1)
    assert clocks_of(Context(expires=given, timelimit=(None, None)), 0) == (int(AT.timestamp() * 1000), 0)
    stepped = clocks_of(Context(expires=given, timelimit=(9, 7)), -3_600_000)
    assert stepped == (int((AT - hour).timestamp() * 1000), 7_000)
