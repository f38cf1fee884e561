"""What a real bridge worker writes: no payload at any level, and with BRIDGE_LOG_JSON one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.foul import ENVELOPES, FOUL, SECRET, AmqpSender, Foul, RedisSender, good_headers
from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.slow import slow


def traffic(house: House, worker: Process) -> None:
    """Good requests, failing ones, refused ones, control tasks, and what nobody can read."""
    secret = {"input": {"prompt": SECRET}, "s3Config": {"accessId": "x", "accessSecret": SECRET, "bucketName": "b",
              "endpointUrl": "https://s3.example"}}  # fmt: skip
    app = house.app
    good = app.send_task("bridge.run", kwargs=secret, queue="bridge.run", headers={"x-team": SECRET})
    assert good.get(timeout=30) == {"prompt": SECRET}
    failed = house.send({"mock_error": f"cannot draw {SECRET}", "prompt": SECRET})
    refused = app.send_task("bridge.run", kwargs={**secret, "timeout": SECRET}, queue="bridge.run")
    positional = app.send_task("bridge.run", args=(secret, secret), queue="bridge.run")
    # By Celery's own way: an ETA, a stamp, an expiry.
    alone = app.send_task(
        "bridge.run", kwargs=secret, queue="bridge.run", countdown=0.1, stamped_headers=["s"], s=SECRET
    )
    asked = app.send_task("bridge.status", kwargs={"id": good.id, "nobody": SECRET}, queue="bridge.control")
    for sent in (failed, refused, positional, alone, asked):
        eventually(lambda sent=sent: sent.state in {"SUCCESS", "FAILURE"}, timeout=30)  # type: ignore[misc]
    assert house.ask("status", id=good.id)["status"] == "COMPLETED"
    redis = house.broker.startswith("redis")
    sender = RedisSender(house.broker) if redis else AmqpSender(house.broker)
    for foul in FOUL.values():
        sender.send(foul)
    sender.send(Foul(SECRET.encode(), good_headers(task=f"unknown.{SECRET}")))
    for envelope in ENVELOPES.values() if redis else ():
        sender.send(Foul(envelope=envelope))
    expected = len(FOUL) + 1 + (len(ENVELOPES) if redis else 0)
    eventually(lambda: len(house.ledger.dead.newest(1_000)) >= expected, timeout=30)
    sender.close()
    assert worker.running


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_no_line_shows_what_a_message_holds(pool: str, tmp_path: Path, redis_url: str) -> None:
    """At Celery's own level of DEBUG either: only DEBUG of the bridge's own may."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        worker = house.worker("-l", "DEBUG", pool=pool)
        traffic(house, worker)
        assert worker.stop() == 0
        lines = [line for line in worker.said().splitlines() if SECRET in line]
        assert lines == []


@pytest.mark.parametrize("pool", ["threads", slow("prefork"), slow("gevent")])
def test_with_json_every_line_is_one_object(pool: str, tmp_path: Path, redis_url: str, amqp_url: str) -> None:
    """Celery's, its banner, warnings and tracebacks, from the first line to the last."""
    broker = amqp_url if pool == "threads" else redis_url
    with House(tmp_path, broker=broker, redis_url=redis_url, log_json="on", http_bind="127.0.0.1:0") as house:
        # gevent's word about ssl comes before anything of the bridge is loaded (docs/configuration.md).
        more = {"PYTHONWARNINGS": "ignore:Monkey-patching ssl:RuntimeWarning"} if pool == "gevent" else {}
        worker = house.worker(pool=pool, **more)  # type: ignore[arg-type]
        traffic(house, worker)
        assert worker.stop() == 0
        events = set()
        for line in worker.said().splitlines():
            said = json.loads(line)
            assert {"event", "level", "timestamp"} <= said.keys(), line
            assert SECRET not in line
            events.add(said["event"])
        assert {"worker.started", "dead_letter.kept"} <= events
