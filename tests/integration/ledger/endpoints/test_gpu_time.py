"""The GPU time ledger: booked once with each end, by endpoint, tenant and day; and the ceiling that ends a day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.job.change import Change, OrphanJob
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger
from bridge.ledger.endpoints import gpu_time
from bridge.settings.config_file import Endpoint
from tests.support.helpers import eventually
from tests.support.house import House


def running(ledger: Ledger, request_id: str, *, tenant: str = "acme", retries: int = 0) -> Held:
    """A request whose job `<id>-1` runs."""
    held = Held(Record(id=request_id, endpoint="demo", tenant=tenant, retries_left=retries), {Long.INPUT: "{}"})

    def build(now: int, wish: Mapping[str, Any] | None) -> Change:
        return ledger.table.accept(held, now, wish)

    ledger.accept(request_id, build)
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=60_000)
    sending, submitted = ledger.table.sending, ledger.table.submitted
    sent = ledger.change(
        claimed.records[0], lambda h, now: sending(h, now, claimed.token, endpoint_id="e", base_url="u")
    ).after
    return ledger.change(sent, lambda h, now: submitted(h, now, f"{request_id}-1", "IN_QUEUE", poll_ms=0)).after


def observe(ledger: Ledger, held: Held, status: str, ms: int, *, job: str = "-1", attempt: int = 1) -> Held:
    """RunPod says so."""
    heard = Observation(
        held.record.id + job, status, attempt, execution_time=ms, output='"x"' if status == "COMPLETED" else None
    )
    return ledger.change(held, lambda h, now: ledger.table.observed(h, now, heard, poll_ms=0)).after


def test_an_end_is_booked_once_however_often_it_is_heard(ledger: Ledger) -> None:
    """By the very commit that writes it (I15), for the endpoint and the tenant."""
    held = running(ledger, "r1")
    ended = observe(ledger, held, "COMPLETED", 1_234)
    observe(ledger, held, "COMPLETED", 1_234)  # made from what was known before: made anew, and late
    observe(ledger, ended, "COMPLETED", 1_234)
    observe(ledger, running(ledger, "r2", tenant=""), "FAILED", 766)
    spent = gpu_time.read(ledger, "demo")
    assert (spent.ms, spent.tenants, spent.paid_twice_ms) == (2_000, {"acme": 1_234}, 0)
    assert gpu_time.today_ms(ledger, "demo") == 2_000
    assert gpu_time.read(ledger, "demo", days_ago=1).ms == 0


def test_every_attempt_was_paid(ledger: Ledger) -> None:
    """A retry runs again; its time is added to the first one's."""
    held = observe(ledger, running(ledger, "r1", retries=1), "FAILED", 100)
    assert held.record.phase == "RETRYING"
    retried = ledger.change(held, lambda h, now: ledger.table.retry_answered(h, now, poll_ms=0)).after
    observe(ledger, retried, "COMPLETED", 250, attempt=2)
    assert gpu_time.read(ledger, "demo").ms == 350


def test_a_job_that_does_not_count_was_paid_twice(ledger: Ledger) -> None:
    """The other job of a request whose submit was repeated; each is booked once, also as a stray."""
    held = running(ledger, "r1")
    both = ledger.change(held, lambda h, now: ledger.table.submitted(h, now, "r1-2", "IN_QUEUE", poll_ms=0)).after
    failed = observe(ledger, both, "FAILED", 40, job="-2")
    observe(ledger, failed, "FAILED", 40, job="-2")
    observe(ledger, failed, "COMPLETED", 60)
    spent = gpu_time.read(ledger, "demo")
    assert (spent.ms, spent.paid_twice_ms) == (100, 40)
    orphan = OrphanJob("r1", "demo", "e", "u", "r1-3")
    ledger.client.zadd(ledger.names.key("stray"), {orphan.as_json(): 0})
    for _ in range(2):
        ledger.orphan_seen(orphan, again_ms=None, paid_twice_ms=7)
    spent = gpu_time.read(ledger, "demo")
    assert (spent.ms, spent.paid_twice_ms, spent.tenants) == (107, 47, {"acme": 107})
    assert ledger.counts("demo")["paid_twice_ms"] == 47


def test_the_ledger_of_gpu_time_is_bounded(ledger: Ledger) -> None:
    """I16: forty days, and so many tenants a day; what is more is kept under one name."""
    key = ledger.names.key(f"gpu:{gpu_time.day_number()}")
    ledger.client.hset(key, mapping={f"other:{n}": 1 for n in range(10_000)})
    observe(ledger, running(ledger, "r1"), "COMPLETED", 5)
    assert gpu_time.read(ledger, "demo").tenants == {"*": 5}
    assert 0 < ledger.client.ttl(key) <= gpu_time.KEPT_DAYS * 86_400


def test_a_cost_ceiling_is_seconds_by_the_price_and_needs_one() -> None:
    """The lower of two ceilings counts."""
    endpoint = Endpoint(name="a", gpu_price_per_s=0.5, max_cost_per_day=10)
    assert endpoint.ceiling_s == 20
    assert endpoint.model_copy(update={"max_gpu_s_per_day": 7.0}).ceiling_s == 7
    with pytest.raises(ValidationError, match="max_cost_per_day needs gpu_price_per_s"):
        Endpoint(name="a", max_cost_per_day=10)


def test_past_its_ceiling_an_endpoint_takes_no_more_that_day(redis_url: str, tmp_path: Path) -> None:
    """REJECTED with field `endpoint`; health tells seconds, cost and ceiling; other endpoints go on."""
    config = tmp_path / "bridge.toml"
    config.write_text("[endpoints.demo]\ngpu_price_per_s = 0.001\nmax_cost_per_day = 0.0002\n")
    with House(tmp_path, broker=redis_url, redis_url=redis_url, config_file=str(config)) as house:
        house.worker()
        first = str(house.send({"mock_delay": 0.4}, metadata={"tenant": "acme"}).id)
        eventually(lambda: house.phase(first) == "CLOSED")
        submits = house.submits()

        def refused() -> Any:
            again = str(house.send({"a": 1}).id)
            eventually(lambda: house.phase(again) == "CLOSED")
            return next((e["data"] for e in house.events(again) if e["type"].endswith("rejected")), None)

        told = eventually(refused, timeout=20, every=0.3)
        assert (told["status"], told["reason"], told["field"]) == ("REJECTED", "rejected", "endpoint")
        assert "ceiling is 0 s" in str(told["error"])
        assert house.submits() - submits <= 4  # what went before the sum was looked at again
        shown = house.ask("health", endpoint="demo")["bridge"]["gpu"]
        assert 0.3 < shown["tenants"]["acme"] <= shown["seconds"] < 5
        assert shown["ceiling_seconds"] == pytest.approx(0.2)
        assert shown["cost"] == pytest.approx(shown["seconds"] * 0.001)
        assert shown["paid_twice_seconds"] == 0


def test_a_stray_without_a_record_is_booked_all_the_same(ledger: Ledger) -> None:
    """Its request was pruned: no tenant is known any more."""
    orphan = OrphanJob("gone", "demo", "e", "u", "j")
    ledger.client.zadd(ledger.names.key("stray"), {orphan.as_json(): 0})
    ledger.orphan_seen(replace(orphan, job_id="other"), again_ms=None, paid_twice_ms=9)
    ledger.orphan_seen(orphan, again_ms=None, paid_twice_ms=9)
    assert gpu_time.read(ledger, "demo").paid_twice_ms == 9


def test_a_stray_that_another_has_taken_out_does_not_come_back_to_be_booked_again(ledger: Ledger) -> None:
    """Whoever looked longer than its lease tells of a job that runs, when another has seen it end."""
    orphan = OrphanJob("gone", "demo", "e", "u", "j")
    ledger.client.zadd(ledger.names.key("stray"), {orphan.as_json(): 0})
    assert ledger.orphans(lease_ms=0) == ledger.orphans() == [orphan]
    ledger.orphan_seen(orphan, again_ms=None, paid_twice_ms=9)
    ledger.orphan_seen(orphan, again_ms=0)
    for again in ledger.orphans():
        ledger.orphan_seen(again, again_ms=None, paid_twice_ms=9)
    assert gpu_time.read(ledger, "demo").paid_twice_ms == 9
    ledger.client.zadd(ledger.names.key("stray"), {orphan.as_json(): 0})
    ledger.orphan_seen(orphan, again_ms=3_600_000)
    assert ledger.orphans() == []
    assert ledger.client.zcard(ledger.names.key("stray")) == 1
