"""Whose submit is next: priority and age inside a tenant, tenants by weight, and caps that hold exactly."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.record import Long, Record
from bridge.ledger import Claimed, Ledger, Names, connect
from bridge.settings import Settings
from bridge.settings.config_file import Endpoint, EndpointBook
from tests.support.helpers import eventually
from tests.support.house import House

namespaces = (f"n{n}" for n in itertools.count())


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to a database of this test's own."""
    found = connect(redis_url)
    yield found
    found.close()


def ledger_of(client: redis.Redis) -> Ledger:
    """A new one."""
    return Ledger(client, Names(next(namespaces)), Rules())


def accept(ledger: Ledger, request_id: str, tenant: str = "", *, priority: int = 4, endpoint: str = "demo") -> Held:
    """One request that waits."""
    record = Record(id=request_id, endpoint=endpoint, tenant=tenant, priority=priority)
    held = Held(record, {Long.INPUT: "{}"})

    def build(now: int, wish: Mapping[str, Any] | None) -> Change:
        return ledger.table.accept(held, now, wish)

    accepted = ledger.accept(request_id, build).held
    assert accepted is not None
    return accepted


def claim(ledger: Ledger, count: int, shares: Mapping[str, Any] | None = None) -> Claimed:
    """Lease some of the endpoint `demo`."""
    return ledger.claim(Step.SUBMIT, {"demo": count}, lease_ms=60_000, shares=shares)


def send(ledger: Ledger, claimed: Claimed) -> list[Held]:
    """Let their POSTs leave."""
    sending = ledger.table.sending
    return [
        ledger.change(h, lambda x, now: sending(x, now, claimed.token, endpoint_id="e", base_url="u")).after
        for h in claimed.records
    ]


def end(ledger: Ledger, held: Held) -> None:
    """RunPod refuses it: the quickest end there is."""
    ledger.change(held, lambda h, now: ledger.table.refused(h, now, "input: no"))


def tenants_of(claimed: Claimed) -> Counter[str]:
    """How many each has got."""
    return Counter(held.record.tenant for held in claimed.records)


def test_priority_comes_before_age(client: redis.Redis) -> None:
    """9 first; equal ones by age."""
    ledger = ledger_of(client)
    for n, priority in enumerate([0, 4, 9, 4]):
        accept(ledger, f"r{n}", priority=priority)
    assert [held.record.id for held in claim(ledger, 4).records] == ["r2", "r1", "r3", "r0"]


def test_a_flood_of_one_tenant_does_not_delay_another(client: redis.Redis) -> None:
    """Tenants take turns, and so do those who name none."""
    ledger = ledger_of(client)
    for n in range(50):
        accept(ledger, f"flood{n}", "flood", priority=9)
    accept(ledger, "small", "small", priority=0)
    accept(ledger, "nobody")
    first = [held.record.id for held in claim(ledger, 3).records]
    assert set(first) == {"flood0", "small", "nobody"}


def test_weights_share_the_submits_and_nobody_starves(client: redis.Redis) -> None:
    """3 to 1, over many small claims."""
    ledger = ledger_of(client)
    shares = {"tenants": {"a": {"weight": 3}, "b": {"weight": 1}}}
    for n in range(60):
        accept(ledger, f"a{n}", "a")
        accept(ledger, f"b{n}", "b")
    got: Counter[str] = Counter()
    for _ in range(8):
        got += tenants_of(claim(ledger, 5, shares))
    assert got == {"a": 30, "b": 10}


def test_a_tenant_that_comes_late_has_saved_nothing(client: redis.Redis) -> None:
    """Its turns begin where the others stand."""
    ledger = ledger_of(client)
    for n in range(100):
        accept(ledger, f"a{n}", "a")
    claim(ledger, 50)
    for n in range(50):
        accept(ledger, f"b{n}", "b")
    assert 9 <= tenants_of(claim(ledger, 20))["b"] <= 11


def test_a_lease_given_back_frees_its_place_under_the_cap(client: redis.Redis) -> None:
    """And a repeated claim with the same token takes none (I15)."""
    ledger = ledger_of(client)
    shares = {"endpoints": {"demo": 2}}
    for n in range(5):
        accept(ledger, f"r{n}")
    claimed = claim(ledger, 5, shares)
    assert len(claimed.records) == 2
    assert len(claim(ledger, 5, shares).records) == 0
    ledger.give_back(claimed, claimed.records[:1])
    assert [held.record.id for held in claim(ledger, 5, shares).records] == ["r0"]
    assert ledger.counts("demo")["flying"] == 2


def test_the_table_of_every_tenant_says_what_the_others_do_not(client: redis.Redis, tmp_path: Path) -> None:
    """`[tenants."*"]` in the file; requests without a tenant are nobody's, and have no cap."""
    file = tmp_path / "bridge.toml"
    file.write_text('[tenants."*"]\nmax_in_flight = 2\n[tenants.acme]\nweight = 3\n[tenants.big]\nmax_in_flight = 4\n')
    book = EndpointBook(Settings(bridge_config_file=file))
    assert [book.tenant_cap(name) for name in ("acme", "big", "unnamed")] == [2, 4, 2]
    ledger = ledger_of(client)
    for name in ("acme", "big", "unnamed", ""):
        for n in range(6):
            accept(ledger, f"{name}-{n}", name)
    shares = book.shares(Endpoint(name="demo", id="demo"))
    assert tenants_of(claim(ledger, 100, shares)) == {"acme": 2, "big": 4, "unnamed": 2, "": 6}


def test_a_tenant_behind_thousands_that_are_at_their_caps_is_served(client: redis.Redis) -> None:
    """With a cap for every tenant, all who stand before it may be waiting for their own ends."""
    ledger = ledger_of(client)
    accept(ledger, "last", "z")
    crowd = [f"t{n}" for n in range(2500)]
    client.zadd(ledger.names.key("turns:demo:submit"), dict.fromkeys(crowd, -1.0))
    client.hset(ledger.names.key("flying"), mapping=dict.fromkeys(crowd, 1))
    assert [held.record.id for held in claim(ledger, 5, {"tenants": {"*": {"cap": 1}}}).records] == ["last"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_caps_hold_at_every_moment_and_what_may_go_goes(client: redis.Redis, seed: int) -> None:
    """Accepts, claims, sends, give-backs, cancels and ends in any order, by several engines."""
    rng, ledger = random.Random(seed), ledger_of(client)
    caps = {"a": rng.randint(1, 3), "b": rng.randint(1, 5), "c": rng.randint(1, 3)}
    cap = rng.randint(2, 8)
    named = {"a": "a", "b": "b", "c": "*"}
    tenants = {named[name]: {"weight": rng.randint(1, 5), "cap": caps[name]} for name in caps}
    shares: dict[str, Any] = {"endpoints": {"demo": cap}, "tenants": tenants}
    leased: list[Claimed] = []
    sent: list[Held] = []
    waiting: dict[str, str] = {}
    for step in range(60):
        match rng.choice(["accept", "accept", "claim", "claim", "send", "give_back", "end", "cancel"]):
            case "accept":
                tenant = rng.choice(["a", "b", "c", ""])
                accept(ledger, f"r{step}", tenant, priority=rng.randint(0, 9))
                waiting[f"r{step}"] = tenant
            case "claim":
                wanted = rng.randint(1, 6)
                flying = Counter(
                    held.record.tenant for held in [*sent, *(held for batch in leased for held in batch.records)]
                )
                claimed = claim(ledger, wanted, shares)
                for held in claimed.records:
                    waiting.pop(held.record.id)
                if claimed.records:
                    leased.append(claimed)
                room = min(wanted, cap - sum(flying.values()))
                left = Counter(waiting.values()) + tenants_of(claimed)
                may = sum(min(n, caps.get(t, 99) - flying[t]) for t, n in left.items())
                assert len(claimed.records) == max(0, min(room, may))
            case "send" if leased:
                batch = leased.pop(rng.randrange(len(leased)))
                sent += [held for held in send(ledger, batch) if held.record.phase == "SUBMITTING"]
            case "give_back" if leased:
                batch = leased.pop(rng.randrange(len(leased)))
                ledger.give_back(batch, batch.records)
                waiting |= {held.record.id: held.record.tenant for held in batch.records}
            case "end" if sent:
                end(ledger, sent.pop(rng.randrange(len(sent))))
            case "cancel" if waiting:
                gone = rng.choice(list(waiting))
                known = ledger.load(gone)
                assert known is not None
                ledger.change(known, ledger.table.purge_pending)
                waiting.pop(gone)
        out = [*sent, *(held for batch in leased for held in batch.records)]
        flies = Counter(held.record.tenant for held in out)
        assert len(out) <= cap
        assert all(flies[name] <= most for name, most in caps.items())
        assert ledger.counts("demo").get("flying", 0) == len(out)
    assert {k: int(v) for k, v in client.hgetall(ledger.names.key("flying")).items()} == {
        name: count for name, count in flies.items() if name and count
    }


def test_engines_that_claim_at_once_keep_the_cap(redis_url: str) -> None:
    """Reading first and claiming then would let each of them through."""
    setup = connect(redis_url)
    ledger = ledger_of(setup)
    for n in range(200):
        accept(ledger, f"r{n}")
    got: list[int] = []
    start = threading.Barrier(6)

    def engine() -> None:
        client = connect(redis_url)
        own = Ledger(client, ledger.names, Rules())
        start.wait(120)
        got.append(sum(len(claim(own, 3, {"endpoints": {"demo": 7}}).records) for _ in range(10)))
        client.close()

    threads = [threading.Thread(target=engine) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sum(got) == 7
    setup.close()


def test_a_claim_costs_the_same_with_many_waiting(client: redis.Redis) -> None:
    """Commands in Redis, not time: a thousand that wait are not looked through."""
    ledger = ledger_of(client)
    for n in range(1_000):
        accept(ledger, f"r{n}", f"t{n % 3}")
    client.config_resetstat()
    claim(ledger, 10)
    calls = sum(int(stat["calls"]) for stat in client.info("commandstats").values())
    assert calls < 10 * 30


def test_caps_and_weights_of_the_file_hold_on_the_whole_road(redis_url: str, tmp_path: Path) -> None:
    """`max_in_flight` of an endpoint and a tenant, with two bridge workers; all of it ends."""
    config = tmp_path / "bridge.toml"
    config.write_text("[endpoints.demo]\nmax_in_flight = 5\n[tenants.acme]\nmax_in_flight = 2\n")
    with House(tmp_path, broker=redis_url, redis_url=redis_url, config_file=str(config)) as house:
        for _ in range(2):
            house.worker()
        ids = [house.send({"mock_delay": 0.2}, metadata={"tenant": "acme"} if n % 2 else {}).id for n in range(30)]
        most: Counter[str] = Counter()

        def ended() -> bool:
            running = [job for job in house.emulator.jobs("demo") if job["status"] in {"IN_QUEUE", "IN_PROGRESS"}]
            most["all"] = max(most["all"], len(running))
            most["acme"] = max(most["acme"], int(house.client.hget("bridge:_:flying", "acme") or 0))
            return house.ledger.counts("demo").get("CLOSED", 0) == len(ids)

        eventually(ended, timeout=60)
        assert 3 <= most["all"] <= 5
        assert most["acme"] == 2
        assert house.ledger.counts("demo")["flying"] == 0
