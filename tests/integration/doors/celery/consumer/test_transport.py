"""The bridge's form of Celery's Redis transport: a message is on its queue or noted, whoever dies in between."""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from bridge.doors.celery.consumer.redis_transport import scripts as redis_scripts
from bridge.doors.celery.consumer.redis_transport.transport import lean
from bridge.ledger import connect
from bridge.redis.outage import is_outage
from tests.support.helpers import eventually
from tests.support.house import House, foreign_app


def take(client: Any, count: int = 10) -> list[Any]:
    """The script, as a channel calls it."""
    keys = ["bridge.unacked_index", "bridge.unacked", "bridge.unreadable", "bridge.control", "bridge.run"]
    found: list[Any] = client.eval(redis_scripts.TAKE, len(keys), *keys, count, "1.5", 3, "own")
    return found


def test_a_message_is_taken_and_noted_in_one_step(redis_url: str) -> None:
    """In the order of the queues; what Celery's own restore reads is what was noted."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app:
        for n in range(3):
            app.send_task("bridge.run", kwargs={"input": {"n": n}}, queue="bridge.run", ignore_result=True)
        app.send_task("bridge.cancel", kwargs={"id": "x"}, queue="bridge.control", ignore_result=True)
        taken, unreadable, asides, fault = take(client, count=3)
        assert taken[0::3] == ["bridge.control", "bridge.run", "bridge.run"]
        assert (unreadable, asides, fault) == (0, [], "")
        assert client.llen("bridge.run") == 1
        noted: Any = client.hgetall("bridge.unacked")
        assert sorted(noted) == sorted(client.zrange("bridge.unacked_index", 0, -1)) == sorted(taken[2::3])
        for message, exchange, key in map(json.loads, noted.values()):
            assert json.dumps(message) in taken
            assert (exchange, key) == ("", message["properties"]["delivery_info"]["routing_key"])
    client.close()


def envelope(number: int, tag: str = "1") -> str:
    """As a producer writes it that is no Python; some number their tags anew for each message."""
    info = {"exchange": "", "routing_key": "bridge.run"}
    return json.dumps(
        {"body": "", "headers": {"n": number}, "properties": {"delivery_tag": tag, "delivery_info": info}}
    )


def test_messages_of_one_delivery_tag_are_noted_each(redis_url: str) -> None:
    """The note of one does not cover another's: whoever dies with them leaves them all."""
    client = connect(redis_url)
    items = [envelope(n) for n in range(4)]
    client.rpush("bridge.run", *items)
    taken = take(client, 3)[0]
    assert sorted(taken[1::3]) == sorted(items[1:])
    noted: Any = client.hgetall("bridge.unacked")
    assert len(noted) == 3
    assert {tag: json.loads(note)[0] for tag, note in noted.items()} == {
        tag: json.loads(item) for item, tag in zip(taken[1::3], taken[2::3], strict=True)
    }
    client.close()


@pytest.mark.parametrize("odd", ["bridge.unacked", "bridge.unacked_index", "bridge.unreadable", "bridge.control"])
def test_a_key_of_another_type_costs_no_message(odd: str, redis_url: str) -> None:
    """It is set aside for a week; what is taken is noted, and what cannot be read is kept."""
    client = connect(redis_url)
    client.xadd(odd, {"data": "a stranger's"})
    client.lpush("bridge.run", "not json", envelope(1))
    taken, unreadable, asides, fault = take(client)
    assert (taken[1::3], unreadable, fault) == ([envelope(1)], 1, "")
    assert client.hlen("bridge.unacked") == client.zcard("bridge.unacked_index") == 1
    assert client.lrange("bridge.unreadable", 0, -1) == ["not json"]
    assert asides == [odd, f"it is a stream, not a {KINDS.get(odd, 'list')}"]
    assert client.xlen(f"bridge:_:aside:{odd}") == 1
    assert 0 < client.ttl(f"bridge:_:aside:{odd}") <= 7 * 86_400
    client.close()


KINDS = {"bridge.unacked": "hash", "bridge.unacked_index": "zset"}


@pytest.mark.parametrize("refused", ["zadd", "hset", "rpop", "lpush"])
def test_a_taking_that_fails_half_way_leaves_every_message_on_its_queue(refused: str, redis_url: str) -> None:
    """Lua takes nothing back; no second note is left either."""
    client = connect(redis_url)
    client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", f"-{refused}")
    client.lpush("bridge.run", "not json" if refused == "lpush" else envelope(1))
    half = connect(redis_url.replace("redis://", "redis://half:pw@"))
    taken, unreadable, _, fault = take(half)
    assert (taken, unreadable) == ([], 0)
    assert is_outage(ResponseError(fault)), fault
    assert client.llen("bridge.run") == 1
    assert not client.exists("bridge.unacked", "bridge.unacked_index", "bridge.unreadable")
    half.close()
    client.close()


def test_a_broker_is_logged_by_its_address(redis_url: str) -> None:
    """At each start and each loss; before and after Celery has gone on to another of several addresses."""
    with foreign_app(redis_url, redis_url) as app, lean(app.connection_for_read()) as connection:
        address = redis_url.replace("redis://", "redis://:**@")
        assert connection.as_uri() == address
        connection.switch("redis://:hush@127.0.0.1:1/0")
        assert connection.as_uri() == "redis://:**@127.0.0.1:1/0"
        assert connection.as_uri(include_password=True) == "redis://:hush@127.0.0.1:1/0"


def test_a_message_comes_back_to_a_queue_where_another_key_stands(redis_url: str) -> None:
    """A transaction would have taken the note, and put the message nowhere."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app, lean(app.connection_for_read()) as connection:
        channel: Any = connection.default_channel
        client.hset(channel.unacked_key, "own", f'[{envelope(1)}, "", "bridge.run"]')
        client.zadd(channel.unacked_index_key, {"own": 1.0, "gone": 1.0})
        client.xadd("bridge.run", {"data": "a stranger's"})
        channel.qos.restore_by_tag("own")
        channel.qos.restore_by_tag("gone")
        assert [json.loads(item)["headers"] for item in client.lrange("bridge.run", 0, -1)] == [
            {"n": 1, "redelivered": True}
        ]
        assert not client.exists(channel.unacked_key, channel.unacked_index_key)
        assert client.xlen("bridge:_:aside:bridge.run") == 1
    client.close()


def test_an_answer_of_remote_control_to_a_worker_that_is_gone_is_no_dead_letter(redis_url: str) -> None:
    """Each start of a worker asks the others; who starts and stops often would fill the list of what cannot be read."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app, lean(app.connection_for_read()) as connection:
        channel: Any = connection.default_channel
        client.hset(channel.unacked_key, "own", f'[{envelope(1)}, "reply.celery.pidbox", "3f2c"]')
        client.hset(channel.unacked_key, "odd", f'[{envelope(2)}, "nobodys", "3f2c"]')
        client.zadd(channel.unacked_index_key, {"own": 1.0, "odd": 1.0})
        channel.qos.restore_by_tag("own")
        channel.qos.restore_by_tag("odd")
        assert not client.exists(channel.unacked_key, channel.unacked_index_key)
        kept: Any = client.lrange("bridge.unreadable", 0, -1)
        assert [json.loads(item)[0]["headers"]["n"] for item in kept] == [2]
    client.close()


def test_a_note_that_the_index_has_lost_can_come_back(redis_url: str) -> None:
    """A stranger's set stood where the index was; the lock that nobody would give up gets an end."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app, lean(app.connection_for_read()) as connection:
        channel: Any = connection.default_channel
        client.hset(channel.unacked_key, "own", f'[{envelope(1)}, "", "bridge.run"]')
        client.sadd(channel.unacked_index_key, "a stranger's")
        client.set(channel.unacked_mutex_key, "a worker that is gone")
        channel.tidy()
        assert client.zrange(channel.unacked_index_key, 0, -1) == ["own"]
        assert client.ttl(channel.unacked_mutex_key) > 0
    client.close()


def test_what_brpop_took_and_nobody_could_note_is_noted_later(redis_url: str) -> None:
    """Where the server does not ring; the ack of another one is written then, too."""
    client = connect(redis_url)
    with foreign_app(redis_url, redis_url) as app, lean(app.connection_for_read()) as connection:
        channel: Any = connection.default_channel
        client.hset(channel.unacked_key, "acked", "x")
        channel.basic_consume("bridge.run", no_ack=False, callback=lambda _message: None, consumer_tag="me")
        client.config_set("min-replicas-to-write", 1)
        try:
            channel._hand_on("bridge.run", envelope(1).encode())
            channel._hand_on("bridge.run", b"not json")
            channel.qos.ack("acked")
            assert client.hkeys(channel.unacked_key) == ["acked"]
        finally:
            client.config_set("min-replicas-to-write", 0)
        channel.connection.cycle._register_BRPOP(channel)
        noted: Any = client.hvals(channel.unacked_key)
        assert [json.loads(note)[0]["headers"] for note in noted] == [{"n": 1}]
        assert client.lrange("bridge.unreadable", 0, -1) == ["not json"]
    client.close()


def test_a_worker_lives_through_what_its_redis_cannot_do_for_a_while(tmp_path: Path, redis_url: str) -> None:
    """Told once each; acks are written later, and messages taken, within seconds of its end."""
    client = connect(redis_url)
    allowed = ["ACL", "SETUSER", "tried", "on", ">pw", "~*", "&*", "+@all"]
    client.execute_command(*allowed)
    url = redis_url.replace("redis://", "redis://tried:pw@")
    with House(tmp_path, broker=url, redis_url=redis_url, backend=redis_url) as house:
        worker = house.worker()

        def told(times: int) -> bool:
            return worker.said().count("broker.unavailable") >= times

        client.execute_command("ACL", "SETUSER", "tried", "-zrem")
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}
        assert client.hlen("bridge.unacked")
        eventually(lambda: told(1))
        client.execute_command(*allowed)
        eventually(lambda: not client.hlen("bridge.unacked"), timeout=5)  # sooner than notes are restored
        client.execute_command("ACL", "SETUSER", "tried", "-zadd")
        sent = house.app.send_task("bridge.run", kwargs={"input": {"a": 2}}, queue="bridge.run")
        eventually(lambda: told(2))
        assert client.llen("bridge.run") == 1
        client.execute_command(*allowed)
        assert sent.get(timeout=20) == {"a": 2}
        client.config_set("min-replicas-to-write", 1)
        try:
            eventually(lambda: "NOREPLICAS" in worker.said())
        finally:
            client.config_set("min-replicas-to-write", 0)
        assert eventually(lambda: house.send({"a": 3})).get(timeout=20) == {"a": 3}
        assert worker.running
        assert worker.said().count("broker.unavailable") < 6
        assert worker.stop() == 0
    client.close()


def test_strangers_keys_in_the_place_of_queues_are_set_aside(tmp_path: Path, redis_url: str) -> None:
    """`XADD bridge.run` for `bridge:requests`: before the worker starts, and while it runs."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        client: Any = house.client
        for key in ("bridge.run", "bridge.unacked", "bridge.unacked_mutex"):
            client.xadd(key, {"data": "a stranger's"})
        worker = house.worker()
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}
        for key in ("bridge.finish", "bridge.control", "bridge.unacked", "bridge.unacked_index"):
            client.delete(key)
            client.xadd(key, {"data": "a stranger's"})
        eventually(lambda: client.exists("bridge:_:aside:bridge.finish", "bridge:_:aside:bridge.control") == 2)
        assert house.send({"a": 2}).get(timeout=20) == {"a": 2}
        assert house.ask("health")
        client.xadd("bridge.run", {"data": "a later one"})
        assert eventually(lambda: house.send({"a": 3})).get(timeout=20) == {"a": 3}
        assert client.xrange("bridge:_:aside:bridge.run")[0][1] == {"data": "a later one"}
        assert worker.running
        eventually(lambda: worker.said().count("key.set_aside") == 8)
        assert worker.stop() == 0


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
        eventually(lambda: "message.unreadable" in worker.said())
        assert worker.stop() == 0


RARELY = """
import sys, bridge.doors.celery.consumer.redis_transport.channel, celery.__main__
bridge.doors.celery.consumer.redis_transport.channel.LOOK_S = 20.0
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
        eventually(lambda: "broker.not_tracked" in worker.said())
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
