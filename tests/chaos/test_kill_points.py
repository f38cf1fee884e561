"""Bridge workers are killed beside the calls that leave them, all the time; every request still ends once.

A sample here; `scripts/chaos --full` walks 10,000 kills over both brokers (docs/reliability.md).
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.walk import Figures, lane
from tests.chaos.workloads import ENDS

#: Kills of the sample on each broker, and as many more as each kind of request needs to be among them; about a minute a
#: broker on a quiet machine. How many there are in a minute is the machine's matter.
KILLS = 60


def walked(directory: Path, broker: str, redis_url: str) -> Figures:
    """The figures of one walk; what it found broken is what the test fails with."""
    walk = lane(directory, broker, redis_url)
    with walk.house:
        figures = walk.run(KILLS, each=True)
    del walk
    gc.collect()  # results of Celery's that still listen do so no longer, while there is a server to tell
    assert figures.violations == []
    assert set(figures.ended) == {status for status, _ in ENDS.values()}
    assert figures.kills >= KILLS
    assert {workload for workload, _, _ in figures.points} >= set(ENDS)
    return figures


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_workers_killed_anywhere_lose_nothing_and_tell_every_end_once_on_redis(tmp_path: Path, redis_url: str) -> None:
    """SIGKILL before and after calls of every kind of request: one end, one link, one submit, gapless events."""
    walked(tmp_path, redis_url, redis_url)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_workers_killed_anywhere_lose_nothing_and_tell_every_end_once_on_rabbitmq(
    tmp_path: Path, rabbitmq_server: Any, redis_url: str
) -> None:
    """The same; and a consumer of `bridge.events` that drops old sequences hears each event once, in order."""
    walked(tmp_path, rabbitmq_server.start().fresh_url(), redis_url)
