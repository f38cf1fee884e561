"""One endpoint never takes what another needs: threads, budget, health; and every call has its permit (I9)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.emulator import Emulator, EndpointConfig
from bridge.emulator.config import PUBLISHED_LIMITS, Limit
from bridge.engine.calls.threads import Callers
from bridge.engine.calls.write_queue import BACKLOG_MAX
from bridge.engine.endpoint_health import EndpointHealth
from bridge.engine.submit.submit import IDLE_S
from bridge.engine.submit.worker_counts import WorkerCounts
from bridge.engine.watch.poll_pace import CARRIES, Pace
from bridge.engine.watch.status_polls import share_of_polls
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect
from bridge.runpod.client import RunPodClient
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.circuit_breaker import CircuitBreaker
from bridge.runpod.operations import Operation
from bridge.settings import Settings
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.submitter import submitter


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Calls that hang until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def hangs(until: threading.Event) -> None:
    """A call that RunPod does not answer."""
    until.wait(600)


def test_an_endpoint_that_hangs_leaves_threads_to_the_others(hanging: threading.Event) -> None:
    """However many calls it has: another one's call starts at once."""
    callers = Callers("test", 16)
    while callers.free_for("hangs"):
        callers.start(hangs, hanging, owner="hangs")
    assert callers.busy == 14
    done = threading.Event()
    assert callers.free_for("well") == 1
    callers.start(done.set, owner="well")
    assert done.wait(120)
    callers.close()


def test_two_endpoints_have_like_shares_and_a_third_finds_room(hanging: threading.Event) -> None:
    """Neither by coming first nor by asking often does one get more than the other."""
    callers = Callers("test", 32)
    held: Counter[str] = Counter()
    for _ in range(40):
        for owner in ("a", "b"):
            if callers.free_for(owner):
                callers.start(hangs, hanging, owner=owner)
                held[owner] += 1
    assert abs(held["a"] - held["b"]) <= 1
    assert callers.free_for("c") >= 1
    callers.close()


def test_a_caller_that_ends_gives_its_owner_room_and_wakes_the_loop() -> None:
    """Also when others were still free, but not for this owner."""
    callers, woken = Callers("test", 16), threading.Event()
    callers.on_free = woken.set
    release = threading.Event()
    while callers.free_for("a"):
        callers.start(hangs, release, owner="a")
    assert not woken.is_set()
    release.set()
    assert woken.wait(120)
    eventually(lambda: callers.free_for("a") == 14)
    callers.close()


def test_polls_keep_a_tenth_beside_rescues() -> None:
    """In whole tenths of a grant, and of many small grants in the long run."""
    assert share_of_polls(20, 100) == 2
    assert share_of_polls(20, 0) == 0
    assert 50 <= sum(share_of_polls(1, 5) for _ in range(1_000)) <= 160


def test_health_of_a_busy_endpoint_is_asked_by_one_process_and_raises_the_budget(redis_url: str) -> None:
    """RunPod workers x their share, where that is more than the table's figure."""
    config = EndpointConfig(workers_min=3, workers_max=3, jobs_per_worker=1)
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    with Emulator(endpoints={"demo": config}, api_keys=[API_KEY]) as emulator:
        runpod = RunPodClient(emulator.base_url, lambda: API_KEY)
        for n in range(3):
            runpod.run("demo", b'{"input": {"mock_delay": 60, "n": %d}}' % n)
        eventually(lambda: runpod.health("demo").workers.get("running") == 3)
        before = len(emulator.calls())
        client.sadd(ledger.names.key("endpoints"), "demo")
        client.hset(ledger.names.count("demo"), "flying", "3")
        budgets = [Budget(client, limit_of=lambda _id, _op, base: type(base)(10, base.concurrent, 5)) for _ in range(2)]
        for budget in budgets:
            endpoint_health = EndpointHealth(
                CircuitBreaker(client), budget, ledger.now, health=lambda _, endpoint_id: runpod.health(endpoint_id)
            )
            asks = WorkerCounts(ledger, endpoint_health, lambda name: name, busy_s=0.0)
            asks.once()
        assert [call["op"] for call in emulator.calls()[before:]] == ["health"]
        assert budgets[1].acquire("demo", Operation.RUN, 100, token="t", slot_ms=1_000).count == 15
    client.close()


def test_reads_of_many_crowded_endpoints_fit_what_the_processes_carry(redis_url: str) -> None:
    """RunPod would allow 200 a second on each of forty; the looks at 100,000 jobs are spread over what can be done."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    names = [f"e{n}" for n in range(40)]
    for name in names:
        client.zadd(ledger.names.key(f"tracked:{name}"), {f"{name}:{n}": n for n in range(2_500)})

    def reads_a_second(engines: int) -> float:
        pace = Pace(ledger.runs, Budget(client), lambda name: name, engines=lambda: engines)
        for _ in range(2):  # the first look at each is made before the others are known
            pace._known.clear()
            waits = [pace.first_ms(name) for name in names]
        return sum(2_500 / (wait / 1000) for wait in waits)

    assert 150 < reads_a_second(1) <= CARRIES
    assert 600 < reads_a_second(4) <= 4 * CARRIES
    client.close()


def test_every_call_that_runpod_sees_has_a_permit(redis_url: str, tmp_path: Path) -> None:
    """Submits, reads, cancels, streams, health, purge, bare jobs: counted by RunPod and by the budget alike (I9)."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.worker()
        ids = [house.send({"mock_delay": 0.3, "n": n}).id for n in range(10)]
        ids.append(house.send({"mock_delay": 0.2}, sync=True).id)
        ids.append(house.send({"mock_stream": [1, 2, 3]}, stream=True).id)
        slow = str(house.send({"mock_delay": 60}).id)
        eventually(lambda: all(house.phase(request_id) == "CLOSED" for request_id in ids), timeout=30)
        eventually(lambda: house.phase(slow) == "TRACKED")
        job = house.ledger.load(slow)
        assert job is not None
        house.ask("health", endpoint="demo")
        house.ask("status", job_id=job.record.job_id, endpoint="demo")
        house.ask("purge", endpoint="demo")
        house.ask("cancel", id=slow)
        eventually(lambda: house.phase(slow) == "CLOSED", timeout=20)

        def counted() -> dict[str, int]:
            found = {}
            for op in Operation:
                calls = house.client.hget(f"bridge:_:budget:demo:{op.value}", "calls")
                if calls:
                    found[op.value] = int(calls)
            return found

        def same() -> bool:
            seen = Counter(call["op"] for call in house.emulator.calls("demo"))
            return counted() == dict(seen) and seen["run"] > 0

        eventually(same, timeout=10)


def test_no_more_is_sent_than_answers_may_wait_to_be_written(redis_url: str) -> None:
    """While nothing reaches the ledger, few job ids stand in this process alone: a kill would lose them (I6)."""
    with submitter(redis_url) as one:
        wanted = BACKLOG_MAX + 100
        one.accept(*(f"r{n}" for n in range(wanted)))

        def full() -> bool:
            one.submit.once()
            return one.callers.busy == 0 and not one.writes.room()

        eventually(full, timeout=30)
        for _ in range(20):
            one.submit.once()
        eventually(lambda: one.callers.busy == 0)
        assert BACKLOG_MAX <= len(one.emulator.jobs("demo")) < BACKLOG_MAX + 16
        one.writes.start()
        eventually(lambda: (one.submit.once(), len(one.emulator.jobs("demo")) == wanted)[1], timeout=30)
        eventually(lambda: one.callers.busy == 0)  # the last answers are still on their way here
        assert one.writes.stop(10)
        assert one.ledger.counts("demo")["TRACKED"] == wanted


def test_an_end_that_makes_room_while_the_cap_is_looked_at_is_not_missed(redis_url: str, tmp_path: Path) -> None:
    """Ends wake the loop once it has said that it waits for one; so it looks again soon after it has."""
    file = tmp_path / "bridge.toml"
    file.write_text("[endpoints.demo]\nmax_in_flight = 1\n")
    with submitter(redis_url, Settings(bridge_config_file=file)) as one:
        one.accept("r1", "r2")
        one.submit.once()
        eventually(lambda: len(one.emulator.jobs("demo")) == 1 and one.callers.busy == 0)
        soon, later = one.submit.once(), one.submit.once()
        assert soon < IDLE_S == later
        assert "demo" in one.submit.capped


def small(calls: int) -> dict[str, Limit]:
    """RunPod's table with other figures for run and status."""
    return {**PUBLISHED_LIMITS, "run": Limit(calls, 200), "status": Limit(2 * calls, 400)}


def test_a_flooded_endpoint_delays_no_other(redis_url: str, tmp_path: Path) -> None:
    """Its requests wait for its budget; another's goes at once, and RunPod never says 429."""
    limits = "[endpoints.demo]\n[endpoints.demo.limits]\nrun = {calls = 20}\nstatus = {calls = 40}\n[endpoints.calm]\n"
    (tmp_path / "bridge.toml").write_text(limits)
    endpoints = {"demo": EndpointConfig(limits=small(20)), "calm": EndpointConfig()}
    with (
        Emulator(endpoints=endpoints, api_keys=[API_KEY]) as emulator,
        House(
            tmp_path,
            broker=redis_url,
            redis_url=redis_url,
            emulator=emulator,
            config_file=str(tmp_path / "bridge.toml"),
        ) as house,
    ):
        house.worker()
        ids = [house.send({"n": n}).id for n in range(60)]
        eventually(lambda: house.ledger.counts("demo").get("CLOSED", 0) >= 10)
        for n in range(5):
            assert house.send({"n": n}, endpoint="calm").get(timeout=10) == {"n": n}
        counts: Any = house.ledger.counts("demo")
        assert counts["ACCEPTED"] >= 20, counts
        codes = Counter(call["code"] for call in emulator.calls())
        assert codes[429] == 0
        assert len(ids) == 60


@pytest.mark.slow
def test_trouble_that_lasts_too_long_ends_the_wait(redis_url: str, tmp_path: Path) -> None:
    """BRIDGE_GATE_MAX_S: what waits is REJECTED, typed; the endpoint is still tried, and is used again when well."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, gate_max_s="1") as house:
        house.worker()
        house.send({"a": 1}).get(timeout=10)
        house.emulator.fault("out_of_credit", op="run", times=None)
        ids = [house.send({"n": n}).id for n in range(5)]

        def ended() -> bool:
            return all(house.phase(request_id) == "CLOSED" for request_id in ids)

        eventually(ended, timeout=20)
        last = house.events(ids[0])[-1]
        assert (last["type"], last["data"]["reason"], last["data"]["field"]) == (
            "bridge.job.rejected",
            "rejected",
            "endpoint",
        )
        house.emulator.clear_faults()
        CircuitBreaker(house.client).try_now(
            "demo"
        )  # by itself in some ten seconds; tests/integration/runpod/test_circuit_breaker.py

        def well() -> bool:
            again = house.send({"n": 9})
            try:
                return bool(again.get(timeout=5) == {"n": 9})
            except Exception:  # noqa: BLE001  (refused: the next try is spaced)
                return False

        eventually(well, timeout=40, every=0.5)
