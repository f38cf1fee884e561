"""Bridge workers are killed beside the calls that leave them while callbacks are owed: none is lost or out of order."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.chaos.walk import Figures, lane
from tests.chaos.workloads import Sent
from tests.support.helpers import eventually
from tests.support.receiver import SECRET, Receiver

#: Half a minute on a quiet machine. Which line dies is chance here; `tell/test_callbacks.py` has each in turn.
KILLS = 40


def walked(directory: Path, redis_url: str, receiver: Receiver) -> tuple[list[str], Figures]:
    """Ids of a walk's requests, each with a callback, all of which are over; and what the walk has seen."""
    (directory / "secret").write_text(SECRET)
    walk = lane(directory, redis_url, redis_url, workloads=["link"])
    asked = {"url": receiver.url(), "events": ["accepted", "end"]}
    link, send = walk._work.by_name["link"], walk.house.send

    def called(slot: int, plan: str, now: float) -> Sent:
        walk.house.send = lambda *args, **kwargs: send(*args, callback=asked, **kwargs)  # type: ignore[method-assign]
        return link(slot, plan, now)

    walk._work.by_name["link"] = called
    walk.house.environment |= {
        "BRIDGE_CALLBACK_SECRET_FILE": str(directory / "secret"),
        "BRIDGE_CALLBACK_CA_FILE": str(receiver.ca_file),
        "BRIDGE_CALLBACK_ALLOW": "localhost",
        "BRIDGE_CALLBACK_TIMEOUT_S": "2",
        "BRIDGE_CALLBACK_RETRY_S": "0.2",
    }
    with walk.house:
        figures = walk.run(KILLS)
        walk.house.worker()  # in peace: what is still owed comes now
        ids = list(walk._of)
        eventually(lambda: all(walk.house.phase(name) == "CLOSED" for name in ids), timeout=60, every=0.5)
        assert walk.house.ledger.callbacks.count() == 0
    return ids, figures


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_workers_killed_anywhere_lose_no_callback(tmp_path: Path, redis_url: str) -> None:
    """SIGKILL before and after calls of the life of a request, those of its callbacks among them."""
    with Receiver(tmp_path) as receiver:
        ids, figures = walked(tmp_path, redis_url, receiver)
        gc.collect()  # as in test_kill_points.py
    assert figures.violations == []
    told: dict[str, list[str]] = {}
    for call in receiver.calls:
        told.setdefault(call.verified()["subject"], []).append(call.id)
    assert told.keys() == set(ids)
    for name in ids:
        first_seen = list(dict.fromkeys(told[name]))
        assert len(first_seen) == 2, (name, told[name])
        assert first_seen == sorted(first_seen, key=lambda one: int(one.rpartition(":")[2])), (name, told[name])
        assert len(told[name]) <= 2 + figures.kills
