"""Messages of `bridge.run` that are accepted together are kept as those that go Celery's own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from celery import Celery, group

from bridge.job.record import Long
from bridge.ledger.records.read import ALL
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


def sent(app: Celery) -> list[str]:
    """Requests of many kinds, by id."""

    def send(name: str, input: dict[str, Any] | None = None, **options: Any) -> str:
        kwargs = {"input": input or {"n": name}, "metadata": {"tenant": "acme"}}
        return str(app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", task_id=name, **options).id)

    tail = app.signature("tests.foreign.tail", task_id="tail")
    ids = [
        send("plain"),
        send("linked", link=tail, link_error=tail),
        send("silent", ignore_result=True),
        send("headed", headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x": 1}),
        send("shadowed", shadow="their.name", parent_id="parent", root_id="root"),
        send("limited", soft_time_limit=50, time_limit=60),
        send("correlated", correlation_id="another"),
        send("stamped", stamped_headers=["who"], who="me"),
        send("expiring", expires=3600),
    ]
    app.send_task("bridge.run", args=({"positional": 1},), queue="bridge.run", task_id="positional")
    one = app.signature("bridge.run", kwargs={"input": {"n": 1}}, queue="bridge.run", task_id="member")
    group([one]).apply_async(task_id="group")
    return [*ids, "positional", "member"]


def kept(tmp_path: Path, url: str, *args: str) -> dict[str, Any]:
    """What the ledger holds of each."""
    directory = tmp_path / ("alone" if args else "together")
    directory.mkdir()
    with House(directory, broker=url, redis_url=url) as house:
        worker = house.worker(*args)
        house.ask("pause", endpoint="demo")
        ids = sent(house.app)
        eventually(lambda: all(house.phase(one) == "ACCEPTED" for one in ids))
        found = {}
        for one in ids:
            held = house.ledger.load(one, wanted=ALL)
            assert held is not None
            record = held.record
            canvas = json.loads(held.long[Long.CANVAS])
            assert canvas["options"].pop("reply_to")  # the producer's own queue
            rest = {name: text for name, text in held.long.items() if name is not Long.CANVAS}
            deadlines = [bool(record.deadline), bool(record.queue_deadline)]
            found[one] = canvas, rest, deadlines, record.sinks, record.silent, record.tenant, record.fingerprint
        assert worker.said().count("] received") == len(ids) + 1
        eventually(lambda: house.client.hlen("unacked") == 0)
        return found


def test_a_message_is_kept_alike_whichever_way_it_is_accepted(tmp_path: Path, redis_server: RedisServer) -> None:
    """Canvas, headers, clocks, who is to be told: `-E` sends all of them through Celery's own request."""
    urls = [redis_server.start().fresh_url() for _ in range(2)]
    together, alone = kept(tmp_path, urls[0]), kept(tmp_path, urls[1], "-E")
    assert together == alone


def test_what_cannot_be_accepted_stops_nobody_it_came_with(tmp_path: Path, redis_url: str) -> None:
    """Refused, conflicting and unreadable messages between good ones, sent before anybody reads."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        good = [house.send({"n": n}, task_id=f"good{n}") for n in range(3)]
        refused = house.send({"n": 0}, task_id="refused", timeout="no time")
        two = house.app.send_task("bridge.run", args=(1, 2), queue="bridge.run", task_id="two")
        again = house.send({"another": 1}, task_id="good0")
        good += [house.send({"n": n}, task_id=f"good{n}") for n in range(3, 6)]
        house.worker()
        assert [one.get(timeout=30)["n"] for one in good] == list(range(6))
        eventually(lambda: (refused.state, two.state) == ("FAILURE", "FAILURE"))
        assert again.get(timeout=30) == {"n": 0}
        eventually(lambda: [letter["reason"] for letter in house.ledger.dead.newest(10)] == ["id_conflict"])
        eventually(lambda: house.client.hlen("unacked") == 0)


def test_a_worker_without_an_engine_shows_what_it_has_accepted(tmp_path: Path, redis_url: str) -> None:
    """No loop of its process writes states on the way: the door does."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, engine="off") as house:
        house.worker()
        sent = house.send({"n": 1})
        eventually(lambda: sent.state == "ACCEPTED")
        assert house.phase(sent.id) == "ACCEPTED"
