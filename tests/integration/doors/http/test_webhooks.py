"""Callbacks of RunPod against real processes: hints that any process takes for any other, and that harm nobody."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.support.helpers import eventually, free_ports
from tests.support.house import House
from tests.support.servers import RedisServer


class Called(NamedTuple):
    """A house whose callbacks go to a process that has no engine, on a port of their own."""

    house: House
    base: str
    inside: str  # where health and metrics are

    def post(self, path: str, body: bytes = b"{}") -> int:
        """The code of one call."""
        request = urllib.request.Request(f"{self.base}{path}", body)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def hook(self, request_id: str) -> str:
        """The path of a request's callback."""
        token = self.house.client.hget(self.house.ledger.names.row(request_id), "wh")
        assert isinstance(token, str)
        return f"/webhooks/runpod/{request_id}/{token}"

    def counted(self, result: str) -> float:
        """How many callbacks came to this."""
        with urllib.request.urlopen(f"{self.inside}/metrics", timeout=10) as answer:  # noqa: S310
            found = re.search(rf'bridge_webhooks_total{{result="{result}"}} (\S+)', answer.read().decode())
        return float(found[1]) if found else 0.0

    def reads(self, request_id: str) -> int:
        """Status reads of the request's jobs so far."""
        held = self.house.ledger.load(request_id)
        assert held is not None
        calls = self.house.emulator.calls()
        return sum(1 for call in calls if call["op"] == "status" and call["job_id"] == held.record.job_id)


@pytest.fixture(scope="module")
def called(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    """One process with the engine and no HTTP, another with HTTP and no engine."""
    url, (port, inside) = redis_server.start().fresh_url(), free_ports(2)
    base = f"http://127.0.0.1:{port}"
    with House(tmp_path_factory.mktemp("called"), broker=url, redis_url=url, webhook_base_url=base) as house:
        house.worker()
        outside = f"127.0.0.1:{port}"
        house.worker(BRIDGE_ENGINE="off", BRIDGE_WEBHOOK_BIND=outside, BRIDGE_HTTP_BIND=f"127.0.0.1:{inside}")
        yield Called(house, base, f"http://127.0.0.1:{inside}")


def test_any_process_hears_a_callback_for_any_other(called: Called) -> None:
    """The receiver has no engine; the end is read at once by one that has."""
    sent = [called.house.send({"mock_delay": 3.0 + n / 7}, result="document") for n in range(5)]
    assert [one.get(timeout=20)["status"] for one in sent] == ["COMPLETED"] * 5
    assert called.counted("hinted") >= 1  # a poll may have been quicker for some


def test_forged_unknown_late_and_repeated_callbacks_are_counted_and_harmless(called: Called) -> None:
    """Each is answered 200, and nothing moves."""
    house = called.house
    house.emulator.fault("webhook_repeat", repeats=3, seconds=0.1)
    sent = house.send({"mock_delay": 0.5})
    eventually(lambda: "submitted" in house.names_of(sent.id))
    path = called.hook(sent.id)
    before = {name: called.counted(name) for name in ("forged", "unknown", "malformed", "late")}
    assert called.post(f"/webhooks/runpod/{sent.id}/{'0' * 32}") == 200
    assert called.post(f"/webhooks/runpod/{sent.id}/%C3%A4") == 200  # a token that is no ASCII
    assert called.post("/webhooks/runpod/nobody/0") == 200
    assert called.post("/webhooks/runpod/no%20id/0") == 200
    sent.get(timeout=20)
    assert called.post(path, b"not json") == 200
    assert called.counted("forged") == before["forged"] + 2
    assert called.counted("unknown") == before["unknown"] + 1
    assert called.counted("malformed") == before["malformed"] + 1
    eventually(lambda: called.counted("late") >= before["late"] + 1)
    assert house.names_of(sent.id).count("completed") == 1
    events = [int(event["sequence"]) for event in house.events(sent.id)]
    assert events == list(range(1, len(events) + 1))


def test_two_hundred_callbacks_at_once(called: Called) -> None:
    """All are answered 200, and the job they speak of is read a few times, not two hundred."""
    house = called.house
    sent = house.send({"mock_delay": 30})
    eventually(lambda: house.phase(sent.id) == "TRACKED")
    path, before = called.hook(sent.id), called.reads(sent.id)
    began = time.monotonic()
    with ThreadPoolExecutor(50) as threads:
        codes = list(threads.map(lambda _n: called.post(path), range(200)))
    assert codes == [200] * 200
    # Five a second at most, and as many again for those that fell into a read, beside the polls.
    assert called.reads(sent.id) - before < 10 + 20 * (time.monotonic() - began)
    assert house.phase(sent.id) == "TRACKED"
    house.ask("cancel", id=sent.id)


def test_a_lost_callback_costs_a_poll_and_no_result(called: Called) -> None:
    """Nobody calls; the polls go on as ever."""
    called.house.emulator.fault("webhook_lost", times=1)
    sent = called.house.send({"mock_delay": 1.0, "quiet": True})
    assert sent.get(timeout=20) == {"mock_delay": 1.0, "quiet": True}


def test_a_flood_for_a_lost_submit_is_confirmed_once(called: Called) -> None:
    """Single-flight over all processes: the record is leased for the one read that confirms."""
    house = called.house
    house.emulator.fault("lost_reply", op="run", times=1)
    sent = house.send({"mock_delay": 20.0, "lost": True})
    eventually(lambda: house.phase(sent.id) == "UNANSWERED", timeout=30)
    job = next(job for job in house.emulator.jobs("demo") if job["input"].get("lost"))
    body, path = json.dumps({"id": job["id"], "status": "COMPLETED"}).encode(), called.hook(sent.id)
    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(lambda _n: called.post(path, body), range(40))) == {200}
    eventually(lambda: house.phase(sent.id) == "TRACKED")
    held = house.ledger.load(sent.id)
    assert held is not None
    assert held.record.job_id == job["id"]
    assert len([one for one in house.emulator.jobs("demo") if one["input"].get("lost")]) == 1
    house.ask("cancel", id=sent.id)


def test_a_port_of_its_own_serves_callbacks_and_nothing_else(called: Called) -> None:
    """What the world can reach shows no metrics, and the inside takes no callbacks."""
    for path in ("/metrics", "/healthz", "/readyz"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{called.base}{path}", timeout=5)  # noqa: S310
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{called.inside}/webhooks/runpod/a/b", b"{}", timeout=5)  # noqa: S310


def test_a_callback_with_a_large_output_is_a_hint_all_the_same(called: Called) -> None:
    """Its body is refused unread; the job is looked at now."""
    house = called.house
    sent = house.send({"mock_delay": 30, "large": True})
    eventually(lambda: house.phase(sent.id) == "TRACKED")
    before = called.counted("hinted")
    assert called.post(called.hook(sent.id), b'{"id": "x", "output": "' + b"x" * (1 << 20) + b'"}') == 413
    assert called.counted("hinted") == before + 1
    house.ask("cancel", id=sent.id)
