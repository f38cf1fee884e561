"""The shared gate against a real Redis: an account's trouble closes an endpoint for every process, one caller tries."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from bridge.engine.endpoint_health import EndpointHealth
from bridge.errors import Forbidden, Unanswered
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names
from bridge.ledger.endpoints.pause import pause, resume
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.circuit_breaker import CircuitBreaker, Denied
from bridge.runpod.operations import Operation
from bridge.telemetry import subscribe
from tests.support.helpers import eventually

EP = "images"
PREFIX = "bridge:_:"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to a database of this test's own."""
    found = redis.Redis.from_url(redis_url, decode_responses=True, protocol=2)
    yield found
    found.close()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The names of all events told."""
    names: list[str] = []
    leave = subscribe(lambda name, _: names.append(name))
    yield names
    leave()


def pass_time(client: redis.Redis, milliseconds: int) -> None:
    """Move the ledger's clock."""
    client.hincrby(f"{PREFIX}meta", "clock_offset", milliseconds)


def test_an_endpoint_nobody_has_used_is_open_and_has_never_succeeded(client: redis.Redis) -> None:
    """So that a typing error can be told at once."""
    state = CircuitBreaker(client, PREFIX).state(EP)
    assert (state.reason, state.paused, state.ever_succeeded) == (None, False, False)


def test_trouble_closes_the_gate_for_every_process_and_is_told_once(client: redis.Redis, told: list[str]) -> None:
    """A hundred calls that fail together are one piece of news."""
    one, other = CircuitBreaker(client, PREFIX), CircuitBreaker(client, PREFIX)
    assert [one.trouble(EP, "out_of_credit") for _ in range(3)] == [True, False, False]
    assert not other.trouble(EP, "out_of_credit")
    assert other.state(EP).reason == "out_of_credit"
    assert other.state("another").reason is None
    assert told.count("gate.closed") == 1


def test_another_reason_is_news_but_no_reason_to_try_sooner(client: redis.Redis) -> None:
    """401 and 402 in turn must not keep the tries at their shortest distance."""
    gate = CircuitBreaker(client, PREFIX)
    distances = []
    for number in range(8):
        assert gate.trouble(EP, ("unauthorised", "out_of_credit")[number % 2])
        before = gate.state(EP)
        now = client.time()
        offset = int(client.hget(f"{PREFIX}meta", "clock_offset") or 0)
        distances.append(round((before.next_try_ms - offset - now[0] * 1000) / 1000))
        pass_time(client, before.next_try_ms - offset - now[0] * 1000 + 1)
    assert distances[0] <= 6
    assert distances[-1] > 250


def test_tries_are_spaced_from_five_seconds_to_five_minutes_by_one_caller_each(client: redis.Redis) -> None:
    """HARDENING 2: a turn is one caller's, ends with its answer, and each failed one doubles the distance."""
    gate = CircuitBreaker(client, PREFIX)
    gate.trouble(EP, "out_of_credit")
    distances = []
    for number in range(9):
        waited, started = 0, time.monotonic()
        while not gate.try_turn(EP, f"a{number}"):
            pass_time(client, 250)
            waited += 250
            assert waited < 400_000
        assert not gate.try_turn(EP, f"b{number}"), "somebody else has this turn"
        assert gate.try_turn(EP, f"a{number}"), "the same caller is granted the same again (I15)"
        distances.append(waited / 1000 + time.monotonic() - started)  # the test's own time passes too
        gate.trouble(EP, "out_of_credit")
        assert not gate.try_turn(EP, f"c{number}"), "the next try has its time"
    # Never sooner; the test's own time may make it later, and each is told from the next by twice its length.
    for distance, wanted in zip(distances, (5, 10, 20, 40, 80, 160, 300, 300, 300), strict=True):
        assert wanted - 0.5 < distance < wanted * 1.9


def test_failures_of_calls_that_were_under_way_do_not_space_the_tries(client: redis.Redis) -> None:
    """Fifty calls that left before the gate closed fail after it; the first try still comes after 5 s."""
    gate = CircuitBreaker(client, PREFIX)
    for _ in range(50):
        gate.trouble(EP, "out_of_credit")
    pass_time(client, 5_001)
    assert gate.try_turn(EP, "a")


def test_the_turn_of_a_caller_that_died_is_given_to_another(client: redis.Redis) -> None:
    """A turn has a deadline."""
    gate = CircuitBreaker(client, PREFIX)
    gate.trouble(EP, "out_of_credit")
    pass_time(client, 5_001)
    assert gate.try_turn(EP, "dead")
    assert not gate.try_turn(EP, "next")
    pass_time(client, 30_001)
    assert gate.try_turn(EP, "next")


def test_of_many_callers_one_gets_the_turn(client: redis.Redis) -> None:
    """Whatever runs at once."""
    CircuitBreaker(client, PREFIX).trouble(EP, "out_of_credit")
    pass_time(client, 5_001)
    got: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: got.append(CircuitBreaker(client, PREFIX).try_turn(EP, f"t{n}")))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 11 + [True]


def test_the_first_success_opens_the_gate_and_is_told_once(client: redis.Redis, told: list[str]) -> None:
    """Also where another process still believes that the gate is closed."""
    one, other = CircuitBreaker(client, PREFIX), CircuitBreaker(client, PREFIX)
    one.trouble(EP, "unauthorised")
    assert other.state(EP).reason == "unauthorised"
    assert one.succeeded(EP)
    assert not other.succeeded(EP)
    assert one.state(EP).reason is None
    assert one.state(EP).ever_succeeded
    assert told.count("gate.opened") == 1
    assert one.try_turn(EP, "any"), "an open gate needs no turn"


def test_a_success_costs_nothing_while_all_is_well(client: redis.Redis) -> None:
    """The hot path: no round trip once a success is known."""
    gate = CircuitBreaker(client, PREFIX)
    gate.succeeded(EP)
    gate.state(EP)
    before = client.info("stats")["total_commands_processed"]
    for _ in range(1000):
        gate.succeeded(EP)
    assert client.info("stats")["total_commands_processed"] - before <= 1


def test_after_an_opening_a_new_trouble_begins_at_the_shortest_distance(client: redis.Redis) -> None:
    """Old tries are forgotten."""
    gate = CircuitBreaker(client, PREFIX)
    for _ in range(5):
        gate.trouble(EP, "out_of_credit")
        pass_time(client, 300_001)
    gate.succeeded(EP)
    assert gate.trouble(EP, "out_of_credit")
    pass_time(client, 5_001)
    assert gate.try_turn(EP, "a")


def test_a_pause_reaches_every_process_within_a_second(client: redis.Redis) -> None:
    """Contract of `bridge.pause`; who and why are kept, and it is no trouble."""
    ledger, other = Ledger(client, Names(), Rules()), CircuitBreaker(client, PREFIX)
    assert not other.state(EP).paused
    assert pause(ledger, EP, {}, reason="maintenance", by="ann")
    eventually(lambda: other.state(EP).paused, timeout=1.0)
    state = other.state(EP)
    assert (state.pause_reason, state.paused_by, state.reason) == ("maintenance", "ann", None)
    assert resume(ledger, EP, {})
    eventually(lambda: not other.state(EP).paused, timeout=1.0)


def test_a_success_does_not_end_a_pause_nor_a_resume_a_trouble(client: redis.Redis) -> None:
    """Two reasons to stop, each ended by its own means."""
    gate, ledger = CircuitBreaker(client, PREFIX), Ledger(client, Names(), Rules())
    pause(ledger, EP, {}, reason="maintenance", by="ann")
    gate.trouble(EP, "out_of_credit")
    gate.succeeded(EP)
    assert gate.state(EP).paused
    gate.trouble(EP, "out_of_credit")
    resume(ledger, EP, {})
    assert gate.state(EP).reason == "out_of_credit"


def test_after_an_unanswered_submit_none_leaves_without_a_sign_of_life(client: redis.Redis) -> None:
    """A request has few submits: somebody asks first, one submit follows the answer, and all once it is answered."""
    endpoint_health = EndpointHealth(
        CircuitBreaker(client, PREFIX), Budget(client, PREFIX), Ledger(client, Names(), Rules()).now
    )
    assert endpoint_health.may_call(EP, submitting=True) == (None, 0.0)
    endpoint_health.failed(EP, EP, Operation.RUN, Unanswered("no answer within 2 s"))
    eventually(lambda: endpoint_health.wait_s(EP) == 0.0)
    assert endpoint_health.may_call(EP, submitting=True)[0] == 0
    assert endpoint_health.may_call(EP, submitting=False)[0] == 1  # reads may try
    assert (endpoint_health.to_be_asked(EP), endpoint_health.to_be_asked(EP)) == (True, False)  # by one caller
    endpoint_health.asked(EP)
    endpoint_health.ok(EP)
    assert [endpoint_health.may_call(EP, submitting=True)[0] for _ in range(2)] == [1, 0]
    endpoint_health.ok(EP, submitted=True)
    assert endpoint_health.may_call(EP, submitting=True) == (None, 0.0)


def denied(gate: CircuitBreaker, request: str, **more: object) -> tuple[Denied, str | None]:
    """A submit that was not taken, and the gate's reason after it."""
    told: dict[str, Any] = {"foreign": False, "before_ms": 0, "taken_ms": 0, **more}
    verdict = gate.denied(EP, request, "forbidden", "HTTP 403", **told)
    return verdict, gate.state(EP).reason


def test_one_request_alone_closes_no_gate(client: redis.Redis) -> None:
    """However often it is not taken; and while nobody else is, it is not to blame either."""
    gate, now = CircuitBreaker(client, PREFIX), Ledger(client, Names(), Rules()).now
    gate.succeeded(EP)
    assert denied(gate, "a") == (Denied.FIRST, None)
    for _ in range(20):
        assert denied(gate, "a", before_ms=now()) == (Denied.SHARED, None)
    assert gate.state(EP).suspected


def test_a_request_is_to_blame_when_another_was_taken_between(client: redis.Redis) -> None:
    """By this process, or by another that has told the gate."""
    gate, other, now = (
        CircuitBreaker(client, PREFIX),
        CircuitBreaker(client, PREFIX),
        Ledger(client, Names(), Rules()).now,
    )
    before = now()
    assert denied(gate, "a")[0] is Denied.FIRST
    other.state(EP)
    other.succeeded(EP)
    assert denied(gate, "a", before_ms=before)[0] is Denied.SHARED  # a status read says nothing about submits
    other.state(EP)
    other.succeeded(EP, submitted=True)
    assert denied(gate, "a", before_ms=before) == (Denied.OWN, None)
    assert denied(gate, "b", before_ms=before, taken_ms=now() + 1)[0] is Denied.OWN


def test_a_foreign_answer_to_one_request_alone_is_its_own(client: redis.Redis) -> None:
    """RunPod answers health and never so: nobody else need be asked. Five requests in a row are not one."""
    gate = CircuitBreaker(client, PREFIX)
    assert denied(gate, "a", foreign=True) == (Denied.FIRST, None)
    assert denied(gate, "a", foreign=True, before_ms=1) == (Denied.OWN, None)
    for name in "bcd":
        assert denied(gate, name, foreign=True) == (Denied.FIRST, None)
    assert denied(gate, "e", foreign=True) == (Denied.SHARED, "forbidden")


def test_a_gate_that_submits_have_closed_is_opened_by_a_submit_alone(client: redis.Redis) -> None:
    """Two requests, and none taken between: submits wait, reads go on and do not open it."""
    endpoint_health = EndpointHealth(
        CircuitBreaker(client, PREFIX), Budget(client, PREFIX), Ledger(client, Names(), Rules()).now
    )
    gate = endpoint_health.gate
    denied(gate, "a")
    assert denied(gate, "b") == (Denied.SHARED, "forbidden")
    assert gate.state(EP).request == "b"
    endpoint_health.ok(EP)
    assert gate.state(EP).reason == "forbidden"
    assert endpoint_health.may_call(EP, submitting=False) == (None, 0.0)
    assert endpoint_health.may_call(EP, submitting=True)[0] == 0
    pass_time(client, 5_001)
    gate.forget(EP)
    eventually(lambda: endpoint_health.may_call(EP, submitting=True)[0] == 1)
    endpoint_health.ok(EP, submitted=True)
    assert gate.state(EP) == replace(gate.state(EP), reason=None, suspected=False, submits_only=False)


def test_that_a_process_gets_no_answer_is_known_to_all_and_passes(client: redis.Redis) -> None:
    """Also when that process has died: a minute later nobody believes it any more."""
    gate = CircuitBreaker(client, PREFIX)
    other = EndpointHealth(CircuitBreaker(client, PREFIX), Budget(client, PREFIX), Ledger(client, Names(), Rules()).now)
    gate.away(EP, "tls", "cannot connect: TLS")
    assert other.waiting(EP) == ("tls", "cannot connect: TLS", "")
    assert other.may_call(EP, submitting=True) == (None, 0.0)  # another process may well get through
    other.ok(EP)
    assert other.waiting(EP) is None
    gate.away(EP, "tls", "cannot connect: TLS")
    client.hincrby(f"{PREFIX}gate:{EP}", "away_at", -60_001)
    other.gate.forget(EP)
    assert other.waiting(EP) is None


def test_one_jobs_odd_answers_make_no_other_call_wait(client: redis.Redis) -> None:
    """A status read that is always answered 502, or with a firewall's page, beside others that go well."""
    endpoint_health = EndpointHealth(
        CircuitBreaker(client, PREFIX),
        Budget(client, PREFIX),
        Ledger(client, Names(), Rules()).now,
        health=lambda *_: None,
    )
    for error in (Unanswered("HTTP 502", 502), Forbidden("page", 403)):
        for _ in range(10):
            endpoint_health.ok(EP)
            endpoint_health.failed(EP, EP, Operation.STATUS, error)
            assert endpoint_health.may_call(EP, submitting=True) == (None, 0.0)
            assert endpoint_health.waiting(EP) is None
        for _ in range(3):
            endpoint_health.failed(EP, EP, Operation.STATUS, error)
        assert endpoint_health.wait_s(EP) > 0  # nobody is answered: tries are spaced
        endpoint_health.ok(EP)


def test_what_runpod_answered_is_shown_to_who_asks_and_stands_in_no_log(client: redis.Redis) -> None:
    """It may repeat the input: a log has the code alone."""
    told: list[dict[str, Any]] = []
    leave = subscribe(lambda _, fields: told.append(dict(fields)))
    endpoint_health = EndpointHealth(
        CircuitBreaker(client, PREFIX), Budget(client, PREFIX), Ledger(client, Names(), Rules()).now
    )
    for error in (Unanswered("HTTP 500: a secret prompt", 500), Forbidden("a secret prompt", 403)):
        for _ in range(4):
            endpoint_health.failed(EP, EP, Operation.RUN, error)
        found = eventually(lambda: endpoint_health.waiting(EP))
        assert found is not None
        assert "a secret prompt" in found.says
    leave()
    assert len(told) > 1
    assert "secret" not in str(told)
