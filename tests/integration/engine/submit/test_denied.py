"""A submit that something before RunPod dislikes ends alone: its endpoint serves everybody else meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from bridge.emulator import Emulator
from bridge.errors import JobRejected
from tests.support.firewall import Call, Firewall, Page
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RedisServer

#: What was seen in front of RunPod, or may be, for one prompt alone.
PAGES = [
    Page(403),
    Page(403, b'{"detail":"forbidden by policy"}', "application/json"),
    Page(404),
    Page(405, b"", ""),
    Page(406, b"not acceptable", "text/plain"),
    Page(413, b"", ""),
    Page(451, b'{"detail":"legal"}', "application/json"),
    Page(400),
    Page(401),
]


@pytest.fixture(scope="module")
def wall() -> Iterator[Firewall]:
    """Before the emulator."""
    with (
        Emulator(endpoints=["demo", "other", "third"], api_keys=[API_KEY]) as emulator,
        Firewall(emulator.base_url) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def house(wall: Firewall, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker that finds RunPod behind the firewall."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("denied"), broker=url, redis_url=url) as made:
        made.environment["RUNPOD_ENDPOINT_BASE_URL"] = wall.base_url
        made.worker()
        yield made


def deny(wall: Firewall, page: Page, word: bytes = b"poison") -> None:
    """Answer submits whose body holds the word with the page."""
    wall.calls.clear()
    wall.rule = lambda call: page if call.path.endswith("/run") and word in call.body else None


@pytest.mark.slow
def test_prompts_that_a_firewall_refuses_end_alone(house: House, wall: Firewall) -> None:
    """Each is REJECTED after three tries with what was answered; everybody else is served, before and meanwhile."""
    house.send({"warm": 1}).get(timeout=20)
    wall.calls.clear()
    pages = {f"poison-{number}-".encode(): page for number, page in enumerate(PAGES)}

    def rule(call: Call) -> Page | None:
        found = (page for word, page in pages.items() if word in call.body)
        return next(found, None) if call.path.endswith("/run") else None

    wall.rule = rule
    denied = {word: house.send({"prompt": word.decode()}) for word in pages}
    ends = time.monotonic() + 60
    while not all(one.ready() for one in denied.values()) and time.monotonic() < ends:
        assert house.send({"x": 1}).get(timeout=5) == {"x": 1}, "somebody else has noticed"
    for word, page in pages.items():
        with pytest.raises(JobRejected) as caught:
            denied[word].get(timeout=1)
        assert f"HTTP {page.code}" in str(caught.value)
        assert page.kind != "text/html" or "Access denied by policy 17" in str(caught.value)
        assert len(wall.submits(word)) == 3
    assert house.client.hget("bridge:_:gate:demo", "reason") is None


def test_a_prompt_that_waits_for_its_next_try_says_for_what(house: House, wall: Firewall) -> None:
    """`waiting_for` names the trouble and the request, for it alone; and it may be cancelled."""
    house.send({"warm": 1}).get(timeout=20)
    deny(wall, Page(403))
    denied = house.send({"poison": 2})
    told = eventually(lambda: (t := house.ask("status", id=denied.id)).get("waiting_request") and t)
    assert told["waiting_for"] == "forbidden"
    assert told["waiting_request"] == denied.id
    assert "Access denied by policy 17" in told["waiting_says"]
    eventually(lambda: denied.info["waiting_for"] == "forbidden")  # Celery's state too
    assert house.ask("health", endpoint="demo")["bridge"]["waiting_for"] is None
    house.ask("cancel", id=denied.id)
    eventually(lambda: house.phase(denied.id) == "CLOSED")


@pytest.mark.slow
def test_where_nobody_gets_through_nobody_is_rejected(house: House, wall: Firewall) -> None:
    """403 to every submit, though health answers: submits wait, everything else goes on, and all end well after it."""
    house.send({"warm": 1}, endpoint="other").get(timeout=20)
    on = house.send({"mock_delay": 3}, endpoint="other")
    eventually(lambda: house.phase(on.id) == "TRACKED")
    deny(wall, Page(403, json.dumps({"detail": "read-only key"}).encode(), "application/json"), b"")
    sent = [house.send({"n": n}, endpoint="other") for n in range(20)]
    waits = eventually(
        lambda: (t := house.ask("status", id=sent[19].id))["waiting_for"] == "forbidden" and t, timeout=40
    )
    assert "read-only key" in waits["waiting_says"]
    assert on.get(timeout=20) is not None  # what runs is watched all the while
    wall.rule = lambda _: None
    assert sorted(one.get(timeout=60)["n"] for one in sent) == list(range(20))


def test_409_is_the_endpoints_pause_and_not_the_inputs(house: House, wall: Firewall) -> None:
    """Also of an endpoint that nobody has used before: requests wait, and go when it takes jobs again."""
    deny(wall, Page(409, b'{"detail":"endpoint is paused"}', "application/json"), b"")
    sent = [house.send({"n": n}, endpoint="third") for n in range(3)]
    told = eventually(lambda: (t := house.ask("status", id=sent[1].id))["waiting_for"] == "paused" and t, timeout=30)
    assert "endpoint is paused" in told["waiting_says"]
    wall.rule = lambda _: None
    assert [one.get(timeout=60)["n"] for one in sent] == [0, 1, 2]
