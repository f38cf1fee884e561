"""The walk of kill points under the defaults of what its other forms widen: two submits, ten turns of a finish.

A request whose worker died twice around its POST has used up both, and ends LOST: told, and never hanging.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.chaos import walk
from tests.chaos.workloads import ENDS, Sent
from tests.support.house import House

#: What the walk sets so wide that no death uses it up.
WIDENED = {"submits_max", "finish_turns_max"}
KILLS = 200


class Walk(walk.Walk):
    """LOST is an end of those whose submits were used up, and of no others."""

    #: Who dies after the mark and before the POST uses a submit up as well: `may_run` does not say that it ran.
    may_not_run = frozenset({"CANCELLED", "LOST"})

    def __init__(self, house: House, directory: Path, workloads: list[str], *, seed: int = 7) -> None:
        super().__init__(house, directory, workloads, seed=seed)
        self.used_up: list[str] = []

    def _lost(self, sent: Sent) -> bool:
        return any(end["status"] == "LOST" for end in sent.ends.values())

    def _followed(self, sent: Sent) -> bool:
        return self._lost(sent) or super()._followed(sent)

    def _judge(self, sent: Sent) -> None:
        if not self._lost(sent):
            super()._judge(sent)
            return
        for name, end in sent.ends.items():
            self.figures.ended[end["status"]] += 1
            if end["status"] != "LOST":
                continue
            self.used_up.append(name)
            if (end["reason"], end["may_run"], end["possible_duplicate"]) != ("unanswered", True, True):
                self._fault(sent, f"is lost without both submits being in doubt: {end}")
            if ENDS[sent.workload][1] is not None and self.house.app.AsyncResult(name).state != "FAILURE":
                self._fault(sent, "is lost, and Celery was not told")


@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_workers_killed_anywhere_lose_nothing_under_the_default_limits(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `test_kill_points.py`, with the submits and turns that a bridge has by default."""
    clocks = {name: value for name, value in walk.CLOCKS.items() if name not in WIDENED}
    monkeypatch.setattr(walk, "CLOCKS", clocks)
    monkeypatch.setattr(walk, "Walk", Walk)
    made = walk.lane(tmp_path, redis_url, redis_url, seed=11)
    assert isinstance(made, Walk)
    with made.house:
        figures = made.run(KILLS, limit_s=150)
    lost = len(made.used_up)
    del made
    gc.collect()  # results of Celery's that still listen do so no longer, while there is a server to tell
    assert figures.violations == []
    assert figures.kills >= KILLS * 0.5
    assert figures.ended["LOST"] == lost <= figures.possible_duplicates
