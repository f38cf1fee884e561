"""Whose fault it was that an answer took too long."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from bridge.doors.http.api import guard as guards
from bridge.doors.http.api.guard import Guard
from bridge.doors.http.problem import Problem
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect
from tests.support.servers import RedisServer


def reason_of(ledger: Ledger) -> str:
    """What is said of a call that takes longer than it may."""
    with pytest.raises(Problem) as caught:
        asyncio.run(Guard(ledger, None, ()).asked(lambda: time.sleep(1.0)))
    return caught.value.reason


def test_the_ledger_is_told_to_be_away_only_where_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What took long in our own process is ours: `busy`."""
    monkeypatch.setattr(guards, "LEDGER_S", 0.3)
    monkeypatch.setattr(guards, "ANSWERS_S", 1.0)
    server = RedisServer(tmp_path)
    server.start()
    try:
        with connect(server.fresh_url()) as client:
            ledger = Ledger(client, Names(), Rules())
            assert reason_of(ledger) == "busy"
            server.freeze()
            try:
                assert reason_of(ledger) == "ledger_unavailable"
            finally:
                server.thaw()
    finally:
        server.stop()
