"""Why a request waits: the true reason, told alike by every process, and gone when the reason is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.emulator import Emulator
from bridge.settings.key_file import KeyFile
from tests.support.firewall import Firewall, Page
from tests.support.helpers import eventually, free_port
from tests.support.house import API_KEY, House
from tests.support.servers import RedisServer


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path) -> Iterator[House]:
    """Nothing runs yet."""
    url = redis_server.start().fresh_url()
    with House(tmp_path, broker=url, redis_url=url) as made:
        yield made


def told_elsewhere(house: House, request_id: str, reason: str) -> dict[str, Any]:
    """What another process says, which calls RunPod not once, when it says this reason: the command."""
    ends = time.monotonic() + 20
    while (found := _command(house, request_id)).get("waiting_for") != reason:
        assert time.monotonic() < ends, found
    return found


def _command(house: House, request_id: str) -> dict[str, Any]:
    ran = house.bridge("status", request_id, "--json", RUNPOD_ENDPOINT_BASE_URL="http://127.0.0.1:9")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    ("reason", "more"),
    [
        ("tls", {"REQUESTS_CA_BUNDLE": "/no/such.pem", "RUNPOD_ENDPOINT_BASE_URL": "https://127.0.0.1:9/v2"}),
        ("proxy", {"HTTPS_PROXY": "gopher://x:1", "RUNPOD_ENDPOINT_BASE_URL": "https://runpod.invalid/v2"}),
        ("unreachable", {"RUNPOD_ENDPOINT_BASE_URL": f"http://127.0.0.1:{free_port()}/v2"}),
        ("key", {"RUNPOD_API_KEY": ""}),
    ],
)
def test_what_a_worker_cannot_do_is_told_by_every_process(house: House, reason: str, more: dict[str, str]) -> None:
    """Nothing was sent, so nothing is in doubt; the start says it in words; a worker that can takes over at once."""
    house.client.hset("bridge:_:gate:demo", "ok", 1)  # an endpoint that has answered before
    broken = house.worker(**more)  # type: ignore[arg-type]
    sent = house.send({"a": 1})
    eventually(lambda: house.phase(sent.id) == "ACCEPTED")
    told = told_elsewhere(house, sent.id, reason)
    assert told["waiting_says"]
    eventually(lambda: house.ask("status", id=sent.id)["waiting_for"] == reason)
    eventually(lambda: sent.info["waiting_for"] == reason)  # Celery's state follows
    assert house.ledger.counts("demo").get("UNANSWERED", 0) == 0
    if reason != "unreachable":
        eventually(lambda: "settings.doubtful" in broken.said())
    broken.stop()
    house.worker()
    assert sent.get(timeout=30) == {"a": 1}
    assert "possible_duplicate" not in told or told["possible_duplicate"] is False


def test_check_says_in_words_why_no_call_can_leave(house: House) -> None:
    """Instead of one error for each endpoint."""
    away = {"RUNPOD_ENDPOINT_BASE_URL": "https://127.0.0.1:9/v2", "REQUESTS_CA_BUNDLE": "/no/such.pem"}
    ran = house.bridge("check", "--json", **away)
    (found,) = [one for one in json.loads(ran.stdout) if one["about"] == "route"]
    assert found["level"] == "FAULT"
    assert "there is no file or folder /no/such.pem" in found["says"]


def test_a_cap_is_told_as_the_cap(house: House, tmp_path: Path) -> None:
    """max_in_flight of the endpoint, also in a process that submits nothing."""
    file = tmp_path / "bridge.toml"
    file.write_text("[endpoints.demo]\nmax_in_flight = 1\n[tenants.small]\nmax_in_flight = 1\n")
    house.environment["BRIDGE_CONFIG_FILE"] = str(file)
    house.worker()
    on = house.send({"mock_delay": 60})
    eventually(lambda: house.phase(on.id) == "TRACKED")
    waits = house.send({"a": 1})
    assert "max_in_flight: 1" in told_elsewhere(house, waits.id, "cap")["waiting_says"]
    eventually(lambda: waits.info["waiting_for"] == "cap")
    house.ask("cancel", id=on.id)
    assert waits.get(timeout=20) == {"a": 1}


def test_a_pause_reaches_the_states_of_those_that_wait_already(house: House) -> None:
    """Celery's `info.waiting_for` follows the reason within seconds, back and forth."""
    house.worker()
    house.send({"warm": 1}).get(timeout=20)
    house.ask("pause", endpoint="demo", reason="repair", by="ann")
    sent = [house.send({"n": n}) for n in range(3)]
    eventually(lambda: [one.info["waiting_for"] for one in sent] == ["paused"] * 3)
    house.emulator.fault("out_of_credit", times=None)
    house.ask("resume", endpoint="demo")
    eventually(lambda: [one.info["waiting_for"] for one in sent] == ["out_of_credit"] * 3, timeout=20)
    house.emulator.clear_faults()
    assert [one.get(timeout=40)["n"] for one in sent] == [0, 1, 2]


def test_a_rotated_key_file_is_read_without_a_restart(redis_server: RedisServer, tmp_path: Path) -> None:
    """The old key is refused, and the gate closed for minutes: the new one is tried as soon as it is there."""
    url = redis_server.start().fresh_url()
    file, old, new = tmp_path / "key", API_KEY, "new-key"
    file.write_text(f"{old}\n")
    with (
        Emulator(endpoints=["demo"], api_keys=[old, new]) as emulator,
        Firewall(emulator.base_url) as wall,
        House(tmp_path, broker=url, redis_url=url, emulator=emulator) as house,
    ):
        del house.environment["RUNPOD_API_KEY"]
        house.environment |= {"RUNPOD_API_KEY_FILE": str(file), "RUNPOD_ENDPOINT_BASE_URL": wall.base_url}
        house.worker()
        house.send({"warm": 1}).get(timeout=20)
        wall.rule = lambda call: Page(401, b"", "") if call.key != f"Bearer {new}" else None
        sent = house.send({"a": 1})
        eventually(lambda: house.ask("status", id=sent.id)["waiting_for"] == "unauthorised", timeout=20)
        assert "RUNPOD_API_KEY" in house.ask("status", id=sent.id)["waiting_says"]  # though the answer said nothing
        house.client.hincrby("bridge:_:gate:demo", "next_try", 300_000)
        ready = tmp_path / "key.new"
        ready.write_text(new)
        ready.replace(file)
        assert sent.get(timeout=20) == {"a": 1}
        calls = [call.key for call, _ in wall.calls]
        assert calls[-1] == f"Bearer {new}"


def test_a_key_file_that_is_being_replaced_costs_nothing(tmp_path: Path) -> None:
    """Gone or empty for a moment: the key before is used until there is another."""
    path = tmp_path / "key"
    path.write_text("one\n")
    file = KeyFile(path)
    assert file.read() == "one"
    path.unlink()
    assert file.read() == "one"
    path.write_text("")
    assert file.read() == "one"
    path.write_text("two")
    assert file.read() == "two"
