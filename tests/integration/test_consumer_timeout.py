"""RabbitMQ's consumer_timeout: who holds a message too long loses its channel, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import eventually
from tests.house import House
from tests.proxy import FaultProxy
from tests.servers import RabbitServer, RedisServer
from tests.services import AmqpService, doors_are_open

TIMEOUT_MS, LOOK_MS = 2_000, 200


@pytest.fixture
def impatient(rabbitmq_server: RabbitServer) -> Iterator[RabbitServer]:
    """The node gives its new channels two seconds for a message; by default half an hour, looked at each minute."""
    names = ("consumer_timeout", "channel_tick_interval")
    before = [rabbitmq_server.erl(f"application:get_env(rabbit, {name})") for name in names]
    for name, value in zip(names, (TIMEOUT_MS, LOOK_MS), strict=True):
        rabbitmq_server.erl(f"application:set_env(rabbit, {name}, {value})")
    yield rabbitmq_server
    for name, had in zip(names, before, strict=True):
        rabbitmq_server.erl(f"application:set_env(rabbit, {name}, element(2, {had}))")


def test_messages_held_longer_than_the_consumer_timeout_are_taken_all_the_same(
    impatient: RabbitServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The ledger is away for longer: the channel is opened anew, the worker lives, each request is submitted once."""
    url = redis_server.fresh_url()
    with (
        House(tmp_path_factory.mktemp("timeout"), broker=impatient.fresh_url(), redis_url=url) as house,
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
    ):
        away = url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        worker = house.worker(BRIDGE_REDIS_URL=away)
        eventually(lambda: doors_are_open(house.broker), timeout=30, every=0.1)
        proxy.refuse()
        service = AmqpService(house.broker)
        service.own("mine")
        sent = [house.send({"n": n}) for n in range(4)]
        for n in range(4):
            service.send({"id": f"json-{n}", "input": {"n": n}, "reply_to": "mine"})
        eventually(lambda: worker.said().count("PRECONDITION_FAILED") >= 2, timeout=40, every=0.2)
        assert worker.running
        proxy.restore()
        assert [result.get(timeout=40) is not None for result in sent] == [True] * 4
        assert len(service.replies("mine", 4, timeout=40)) == 4
        service.close()
        eventually(lambda: house.submits() == 8)
        assert worker.running
        assert worker.stop() == 0
