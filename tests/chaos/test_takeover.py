"""Engines die, freeze, stop and start again; what they held goes on elsewhere, and nothing stale is written."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.job.change import Rules
from bridge.job.enums import Step
from bridge.ledger import Ledger, Names, connect
from tests.chaos.test_servers_fail import short_house
from tests.support.helpers import eventually
from tests.support.house import House, born

LEASE_MS = 1_500


def told_once(house: House, ids: list[str], *, others: int = 0) -> None:
    """One gapless list of events for each, with its one end at the end; submitted once unless marked.

    `others`: how many submits were for requests that are not looked at.
    """
    marked = 0
    told: dict[str, list[dict[str, Any]]] = {}
    for event in house.events():
        told.setdefault(event["subject"], []).append(event)
    for one in ids:
        events = told[one]
        assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1)), [
            (one, event["type"], event["time"]) for event in events
        ]
        assert [bool(event["data"].get("completed")) for event in events].count(True) == 1
        assert events[-1]["data"]["completed"]
        marked += bool(events[-1]["data"]["possible_duplicate"])
    assert house.submits() <= len(ids) + others + marked


@pytest.mark.chaos
def test_a_thousand_leased_records_of_a_dead_engine_are_due_again_when_the_lease_ends(redis_url: str) -> None:
    """Three engines: the first claims all and dies. Nobody gets them before the time, two share them after it."""
    clients = [connect(redis_url) for _ in range(3)]
    dead, *others = (Ledger(client, Names(), Rules()) for client in clients)
    for start in range(0, 1_000, 200):
        dead.accept_many([(f"r{n}", born(f"r{n}", dead)) for n in range(start, start + 200)])
    taken = dead.claim(Step.SUBMIT, {"demo": 1_000}, lease_ms=LEASE_MS)
    ends = time.monotonic() + LEASE_MS / 1000
    assert len(taken.records) == 1_000
    assert others[0].claim(Step.SUBMIT, {"demo": 1_000}, lease_ms=60_000).records == []

    def swept() -> bool:
        for one in others[0].timers(500)[0]:
            others[0].change(one, others[0].table.tick)
        return sum(due.ready for due in others[0].due(Step.SUBMIT)) == 1_000

    eventually(swept, timeout=20, every=0.05)
    assert time.monotonic() >= ends - 0.1
    first = others[0].claim(Step.SUBMIT, {"demo": 500}, lease_ms=60_000).records
    second = others[1].claim(Step.SUBMIT, {"demo": 1_000}, lease_ms=60_000).records
    assert {held.record.id for held in first}.isdisjoint(held.record.id for held in second)
    assert len(first) + len(second) == 1_000
    # The dead one wakes up: it was only frozen. No intent of its is carried out any more.
    assert dead.give_back(taken, taken.records) == 0
    late = dead.change_many(
        [
            (held, lambda h, now: dead.table.sending(h, now, taken.token, endpoint_id="demo", base_url="http://x"))
            for held in taken.records[:50]
        ]
    )
    assert {change.verdict for change in late} == {"lost"}
    for client in clients:
        client.close()


@pytest.mark.chaos
def test_a_worker_frozen_past_its_leases_writes_nothing_stale(tmp_path: Path, redis_url: str) -> None:
    """SIGSTOP while it holds leases, messages and calls; another goes on; SIGCONT: nothing is told twice or undone."""
    with short_house(tmp_path, redis_url) as house:
        frozen = house.worker()
        sent = [house.send({"n": n, "mock_delay": 3.0}, task_id=f"f{n}") for n in range(40)]
        eventually(lambda: sum(house.phase(one.id) == "TRACKED" for one in sent) > 20, every=0.01)
        frozen.kill(signal.SIGSTOP)
        other = house.worker()
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=60, every=0.2)
        before = house.client.xlen(house.ledger.names.events)
        frozen.kill(signal.SIGCONT)
        assert house.send({"late": 1}, task_id="late").get(timeout=30) == {"late": 1}
        assert other.stop() == 0
        assert house.send({"later": 1}, task_id="later").get(timeout=30) == {"later": 1}  # by the one that was frozen
        assert frozen.stop() == 0
        late = len(house.events("late")) + len(house.events("later"))
        assert house.client.xlen(house.ledger.names.events) == before + late
        told_once(house, [*(one.id for one in sent), "late", "later"])
        assert [one.get(timeout=5)["n"] for one in sent] == list(range(40))


@pytest.mark.chaos
@pytest.mark.slow
def test_a_rolling_restart_of_three_workers_under_load_loses_nothing(tmp_path: Path, redis_url: str) -> None:
    """SIGTERM to one after the other, each replaced: exit code 0, every request once, none marked as in doubt."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        workers = [house.worker() for _ in range(3)]
        ids: list[str] = []
        for round_ in range(3):
            for n in range(20):
                ids.append(f"w{round_}-{n}")
                house.send({"mock_delay": 0.5}, task_id=ids[-1])
            assert workers.pop(0).stop() == 0
            workers.append(house.worker())
        eventually(lambda: all(house.phase(one) == "CLOSED" for one in ids), timeout=60, every=0.2)
        told_once(house, ids)
        assert house.submits() == len(ids)
        assert [worker.stop() for worker in workers] == [0, 0, 0]


@pytest.mark.chaos
def test_results_are_rescued_after_twenty_minutes_without_an_engine(tmp_path: Path, redis_url: str) -> None:
    """The only worker dies; RunPod's clock goes on by 20 minutes; what ended meanwhile is fetched before it expires.

    What RunPod has forgotten by then (a further 40 minutes) ends LOST with its reason, and never hangs.
    """
    with short_house(tmp_path, redis_url) as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 60}, task_id=f"s{n}") for n in range(30)]
        eventually(lambda: house.submits() == 30 and all(house.phase(one.id) == "TRACKED" for one in sent), timeout=20)
        worker.kill()
        house.emulator.advance(20 * 60)
        worker = house.worker()
        assert [one.get(timeout=60)["n"] for one in sent] == list(range(30))
        told_once(house, [one.id for one in sent])
        assert worker.stop() == 0
