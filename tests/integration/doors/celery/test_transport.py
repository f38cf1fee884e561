"""The bridge's form of Celery's Redis transport: a message is on its queue or noted, whoever dies in between."""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bridge.doors.celery.consumer import transport
from bridge.ledger import connect
from tests.support.helpers import eventually
from tests.support.house import House, foreign_app


def take(client: Any, count: int = 10) -> list[Any]:
    """The script, as a channel calls it."""
    keys = ["bridge.unacked_index", "bridge.unacked", "bridge.unreadable", "bridge.control", "bridge.run"]
    found: list[Any] = client.eval(transport._TAKE, len(keys), *keys, count, "1.5", 3)
    return found


def test_a_message_is_taken_and_noted_in_one_step(redis_url: str) -> None:
    """In the order of the queues; what Celery's own restore reads is what was noted."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app:
        for n in range(3):
            app.send_task("bridge.run", kwargs={"input": {"n": n}}, queue="bridge.run", ignore_result=True)
        app.send_task("bridge.cancel", kwargs={"id": "x"}, queue="bridge.control", ignore_result=True)
        found = take(client, count=3)
        assert found[0::2] == ["bridge.control", "bridge.run", "bridge.run", "unreadable"]
        assert client.llen("bridge.run") == 1
        noted: Any = client.hgetall("bridge.unacked")
        assert sorted(noted) == sorted(client.zrange("bridge.unacked_index", 0, -1))
        for message, exchange, key in map(json.loads, noted.values()):
            assert message["properties"]["delivery_tag"] in noted
            assert (exchange, key) == ("", message["properties"]["delivery_info"]["routing_key"])
    client.close()


def test_foreign_bytes_on_a_queue_stop_no_worker(tmp_path: Path, redis_url: str) -> None:
    """They become dead letters; requests before and behind them end (I12)."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.client.lpush("bridge.run", "not json", '{"properties": {}}', "[1, 2]")
        sent = house.send({"a": 1})
        worker = house.worker()
        assert sent.get(timeout=20) == {"a": 1}
        house.client.lpush("bridge.run", *(f"noise {n}" for n in range(5)))
        assert house.send({"a": 2}).get(timeout=20) == {"a": 2}
        assert worker.running
        eventually(lambda: len(house.ledger.dead.newest()) == 8)
        eventually(lambda: house.client.llen("bridge.unreadable") == 0)
        assert "message.unreadable" in worker.said()
        assert worker.stop() == 0


RARELY = """
import sys, bridge.doors.celery.consumer.transport, celery.__main__
bridge.doors.celery.consumer.transport.LOOK_S = 20.0
sys.exit(celery.__main__.main())
"""


def test_an_idle_worker_is_rung_for_a_message(tmp_path: Path, redis_url: str) -> None:
    """Nobody waits for the look that comes by itself, here every 20 s: of ten messages most are taken before it."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        command = ["-A", "bridge.app", "worker", "-l", "INFO", "-P", "threads", "-c", "4", "-n", "bridge@test"]
        worker = house.start("worker", sys.executable, "-c", RARELY, *command, "--without-gossip", "--without-mingle")
        eventually(lambda: "ready." in worker.said(), timeout=30)
        waits = []
        for n in range(10):
            started = time.monotonic()
            house.send({"n": n}, task_id=f"rung-{n}")
            eventually(partial(house.phase, f"rung-{n}"), every=0.002)
            waits.append(time.monotonic() - started)
        assert statistics.median(waits) < 15, waits
        waits = []
        for n in range(10):
            started = time.monotonic()
            house.ask("status", id=f"rung-{n}")
            waits.append(time.monotonic() - started)
        assert statistics.median(waits) < 15, waits


def test_a_server_that_does_not_ring_is_told_and_served_all_the_same(tmp_path: Path, redis_url: str) -> None:
    """An account without CLIENT TRACKING: kombu's own way of taking."""
    client = connect(redis_url)
    client.execute_command("ACL", "SETUSER", "nobell", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    url = redis_url.replace("redis://", "redis://nobell:pw@")
    with House(tmp_path, broker=url, redis_url=redis_url) as house:
        worker = house.worker()
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}
        assert "broker.not_tracked" in worker.said()
        assert worker.stop() == 0
    client.close()


def test_a_note_that_cannot_be_read_keeps_no_other_from_coming_back(tmp_path: Path, redis_url: str) -> None:
    """A worker died between taking two items and finding that one is no message: the other is restored, and ends."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        sent = house.send({"a": 1})
        good: Any = house.client.lindex("bridge.run", 0)
        house.client.delete("bridge.run")
        tag = json.loads(good)["properties"]["delivery_tag"]
        house.client.hset("bridge.unacked", mapping={tag: f'[{good}, "", "bridge.run"]', "bad": '["\\ud800", 7'})
        house.client.zadd("bridge.unacked_index", {"bad": 1.0, tag: 2.0})
        worker = house.worker()
        assert sent.get(timeout=30) == {"a": 1}
        eventually(lambda: len(house.ledger.dead.newest()) == 1, timeout=20)
        eventually(lambda: house.client.hlen("bridge.unacked") == 0)
        assert worker.running
