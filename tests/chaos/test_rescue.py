"""Results are fetched before RunPod forgets them, soonest first; what is gone is told as gone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from bridge.emulator import Emulator
from bridge.errors import JobLost
from tests.chaos.test_servers_fail import CLOCKS
from tests.chaos.test_takeover import told_once
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House

MINUTE_S = 60


def time_passes(house: House, seconds: float) -> None:
    """Nobody works meanwhile: RunPod's clock and the ledger's go on.

    The offset is what the ledger adds to the server's own clock; engines that come later find it, and believe it.
    """
    house.emulator.advance(seconds)
    house.client.hincrby(house.ledger.names.key("meta"), "clock_offset", int(seconds * 1000))


def sighted_as_gone(house: House, name: str) -> bool:
    """Whether a first 404 of its job is noted."""
    held = house.ledger.load(name)
    return held is not None and bool(held.record.gone_at)


@pytest.mark.chaos
def test_what_runpod_has_forgotten_ends_lost_with_its_reason_and_raises_it(tmp_path: Path, redis_url: str) -> None:
    """An expired result, a young job that vanished, a queue that a stranger purged; what is still there completes.

    Two looks 30 s apart are wanted: between them the only worker dies, and half a minute passes while nobody is there.
    """
    settings: dict[str, Any] = {**CLOCKS}
    with (
        Emulator(endpoints=["demo", "queue"], api_keys=[API_KEY]) as emulator,
        House(tmp_path, broker=redis_url, redis_url=redis_url, emulator=emulator, **settings) as house,
    ):
        worker = house.worker()
        expired = house.send({"ref": "expired", "mock_delay": 30}, task_id="expired")
        eventually(lambda: house.phase("expired") == "TRACKED", timeout=20)
        worker.kill()
        time_passes(house, 30 + 31 * MINUTE_S)
        emulator.fault("paused", endpoint="queue", times=None)
        worker = house.worker()
        young = house.send({"ref": "young", "mock_delay": 600}, task_id="young")
        kept = house.send({"ref": "kept", "mock_delay": 20}, task_id="kept")
        purged = house.send({"ref": "purged"}, task_id="purged", endpoint="queue")
        eventually(lambda: set(house.ledger.phases(["young", "kept", "purged"])) == {"TRACKED"}, timeout=20)
        emulator.fault(
            "vanish", job_id=next(job["id"] for job in emulator.jobs("demo") if job["input"]["ref"] == "young")
        )
        key = {"Authorization": f"Bearer {API_KEY}"}
        assert requests.post(f"{emulator.base_url}/queue/purge-queue", headers=key, timeout=5).json()["removed"] == 1
        gone = ["expired", "young", "purged"]
        eventually(lambda: all(sighted_as_gone(house, name) for name in gone), timeout=30)
        assert set(house.ledger.phases(gone)) == {"TRACKED"}  # one 404 is no proof
        worker.kill()
        time_passes(house, 31)
        worker = house.worker()
        for result, reason in ((expired, "result_expired"), (young, "vanished"), (purged, "vanished")):
            with pytest.raises(JobLost) as caught:
                result.get(timeout=30)
            assert (caught.value.document["status"], caught.value.document["reason"]) == ("LOST", reason)
            assert reason in str(caught.value)
        assert kept.get(timeout=30) == {"ref": "kept", "mock_delay": 20}
        told_once(house, ["expired", "young", "kept", "purged"])
        assert worker.stop() == 0


def tracked(house: House, ids: list[str]) -> None:
    """RunPod has all of them."""
    eventually(lambda: set(house.ledger.phases(ids)) == {"TRACKED"}, timeout=60)


@pytest.mark.parametrize(("each", "calls"), [(50, 40), (500, 250)], ids=["100", "1000"])
@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_a_starved_tracker_fetches_soonest_first_and_inside_the_budget(
    each: int, calls: int, tmp_path: Path, redis_url: str
) -> None:
    """All jobs have ended and are due at once after a standstill; status reads are few. Nothing expires.

    The first half has three minutes left, the second thirteen: the first is read before it, but for a tenth. (Where
    reads are few, looks are planned up to a quarter of an hour apart; so long is nobody there.)
    """
    config = tmp_path / "bridge.toml"

    def allow(reads: int) -> None:
        config.write_text(f"[limits.status]\ncalls = {reads}\n")

    allow(1)  # a tracker that starves: one look in 10 s
    with House(tmp_path, broker=redis_url, redis_url=redis_url, config_file=str(config)) as house:
        first, second = ([f"{half}{n}" for n in range(each)] for half in "ab")
        for half, minutes in ((first, 10), (second, 17)):
            worker = house.worker()
            for one in half:
                house.send({"ref": one, "mock_delay": 5}, task_id=one)
            tracked(house, half)
            worker.kill()
            time_passes(house, minutes * MINUTE_S)
        began = len(house.emulator.calls())
        allow(calls)
        started = time.monotonic()
        worker = house.worker()
        ids = [*first, *second]
        eventually(lambda: set(house.ledger.phases(ids)) == {"CLOSED"}, timeout=200, every=0.2)
        took = time.monotonic() - started
        told_once(house, ids)
        assert {house.events(one)[-1]["data"]["status"] for one in (first[0], first[-1], second[0])} == {"COMPLETED"}
        ref_of = {job["id"]: job["input"]["ref"] for job in house.emulator.jobs("demo")}
        reads = [call for call in house.emulator.calls()[began:] if call["op"] == "status"]
        assert {call["code"] for call in reads} == {200}
        assert len(reads) <= calls * (took / 10 + 1)
        order = [ref_of[call["job_id"]] for call in reads]
        early = order[: each // 2]
        assert sum(ref[0] == "a" for ref in early) >= 0.8 * len(early), order
        assert order.index(second[-1]) > each  # who has time waits for those who have none
        assert worker.stop() == 0
