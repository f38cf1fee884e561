"""What Celery's monitors hear of requests: once each, of the job and not of the bridge's two messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.helpers import eventually
from tests.support.house import House, foreign_app, hang_up
from tests.support.servers import RabbitServer, RedisServer

SECRET = "not-for-monitors"


class Monitor:
    """Listens as Flower does."""

    def __init__(self, house: House) -> None:
        self._app = foreign_app(house.broker, house.backend)
        self.heard: list[dict[str, Any]] = []
        self._stop, self._listens = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        hang_up(self._app)

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.heard.append})
            with receiver.consumer_context(wakeup=False) as (own, _, _):
                self._listens.set()
                while not self._stop.is_set():
                    with suppress(TimeoutError):
                        own.drain_events(timeout=0.2)

    def of(self, request_id: str) -> dict[str, dict[str, Any]]:
        """The events of one request by type, each of which came once."""
        mine = [event for event in self.heard if event.get("uuid") == request_id]
        types = [event["type"].removeprefix("task-") for event in mine]
        assert len(types) == len(set(types)), types
        return dict(zip(types, mine, strict=True))

    def ended(self, sent: Any) -> dict[str, dict[str, Any]]:
        """The same, once its end is among them."""
        request_id = sent.id
        ends = {"succeeded", "failed", "revoked"}
        eventually(lambda: ends & self.of(request_id).keys(), timeout=20)
        return self.of(request_id)


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two bridge workers that both have been asked for task events."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("events"), broker=url, redis_url=url) as made:
        made.worker("-E")
        made.worker("-E")
        yield made


@pytest.fixture(scope="module")
def monitor(house: House) -> Iterator[Monitor]:
    """Somebody who listens."""
    with Monitor(house) as made:
        yield made


def test_a_success_is_received_started_and_told_once_with_the_jobs_run_time(house: House, monitor: Monitor) -> None:
    """And with the output; whoever reads the result then finds it."""
    sent = house.send({"value": 2, "mock_delay": 1.2})
    told = monitor.ended(sent)
    assert house.app.AsyncResult(sent.id).result == {"value": 2, "mock_delay": 1.2}
    assert list(told) == ["received", "started", "succeeded"]
    document = house.ask("status", id=sent.id)
    assert told["succeeded"]["runtime"] == document["executionTime"] / 1000 >= 1.0
    assert told["succeeded"]["result"] == "{'value': 2, 'mock_delay': 1.2}"
    assert told["received"]["name"] == "bridge.run"
    assert told["started"]["hostname"].startswith("bridge")


def test_what_is_shown_of_arguments_can_be_read_and_holds_no_text_of_them(house: House, monitor: Monitor) -> None:
    """Names, numbers and the forms of values are shown."""
    s3 = {"accessId": SECRET, "accessSecret": SECRET, "bucketName": "b", "endpointUrl": "https://s3.test"}
    sent = house.send({"prompt": SECRET, "steps": 30, "sizes": [512, 768]}, timeout=60, s3Config=s3)
    told = monitor.ended(sent)
    assert told["received"]["kwargs"] == (
        "{'timeout': 60, 's3Config': '***', 'input': {'prompt': '***', 'steps': 30, 'sizes': [512, 768]}}"
    )
    positional = house.app.send_task("bridge.run", args=[{"prompt": SECRET}], queue="bridge.run")
    assert monitor.ended(positional)["received"]["args"] == "({'prompt': '***'},)"


def test_a_failure_is_told_with_its_error(house: House, monitor: Monitor) -> None:
    """One event more than the request and its start."""
    sent = house.send({"mock_error": "boom"})
    told = monitor.ended(sent)
    assert list(told) == ["received", "started", "failed"]
    assert "boom" in told["failed"]["exception"]


def test_a_cancel_is_told_as_revoked(house: House, monitor: Monitor) -> None:
    """While it runs, and before it was ever sent to RunPod: then it has not started either."""
    runs = house.send({"mock_delay": 60})
    eventually(lambda: "started" in monitor.of(runs.id))
    runs.revoke()
    assert list(monitor.ended(runs)) == ["received", "started", "revoked"]
    assert monitor.of(runs.id)["revoked"]["terminated"] is True
    waits = house.send({"value": 1}, countdown=3_600)
    eventually(lambda: house.phase(waits.id))
    waits.revoke()
    told = monitor.ended(waits)
    assert list(told) == ["received", "revoked"]
    assert told["revoked"]["terminated"] is False


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_inspect_stats_is_answered(broker: str, request: pytest.FixtureRequest, tmp_path: Path, house: House) -> None:
    """With the broker's name, and nothing of the bridge's own parts."""
    if broker == "redis":
        stats = house.app.control.inspect(timeout=20, limit=2).stats()
        assert [told["broker"]["transport"] for told in stats.values()] == ["redis", "redis"]
        return
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    amqp, url = server.start().fresh_url(), request.getfixturevalue("redis_url")
    with House(tmp_path, broker=amqp, redis_url=url) as other, Monitor(other) as monitor:
        other.worker("-E", pool="prefork")
        (told,) = other.app.control.inspect(timeout=20, limit=1).stats().values()
        assert told["broker"]["transport"] == "amqp"
        sent = other.send({"mock_delay": 0.5})
        assert list(monitor.ended(sent)) == ["received", "started", "succeeded"]


def test_an_end_is_told_by_whoever_comes_after_a_kill(redis_url: str, tmp_path: Path) -> None:
    """What happens while no worker lives is told by the next one, from where the last one stopped.

    The first was asked for events as Flower asks: what comes in the same moment is told whole.
    """
    short: dict[str, Any] = {
        "lease_s": "9",
        "read_timeout_s": "2",
        "connect_timeout_s": "1",
    }  # of a read that is killed
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **short) as house, Monitor(house) as monitor:
        first = house.worker()
        assert house.app.control.enable_events(reply=True, timeout=20, limit=1)
        assert list(monitor.ended(house.send({"value": 1}))) == ["received", "started", "succeeded"]
        sent = house.send({"mock_delay": 3})

        def told() -> dict[str, Any]:  # by type; a kill may make one come twice
            return {event["type"]: event for event in monitor.heard if event.get("uuid") == sent.id}

        eventually(lambda: "task-started" in told(), timeout=20)
        first.kill()
        house.engine()
        eventually(lambda: "completed" in house.names_of(sent.id), timeout=20)
        house.worker("-E")
        eventually(lambda: "task-succeeded" in told(), timeout=20)
        assert told()["task-succeeded"]["runtime"] >= 3
