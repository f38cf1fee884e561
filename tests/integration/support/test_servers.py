"""The private servers keep their promises to tests: fresh places, and faults that end."""

from __future__ import annotations

import kombu
import pytest
import redis

from tests.support.helpers import eventually
from tests.support.servers import RabbitServer, RedisServer


def _send(url: str, body: str) -> None:
    with kombu.Connection(url, connect_timeout=5) as connection:
        queue = connection.SimpleQueue("kept")
        queue.put(body)
        queue.close()


def _receive(url: str) -> str:
    with kombu.Connection(url, connect_timeout=5) as connection:
        queue = connection.SimpleQueue("kept")
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
        return str(message.payload)


def test_each_test_gets_a_redis_database_of_its_own(redis_server: RedisServer) -> None:
    """What one test writes no other sees."""
    one, other = (redis.Redis.from_url(redis_server.fresh_url()) for _ in range(2))
    with one, other:
        one.set("mine", 1)
        assert other.dbsize() == 0
        assert one.dbsize() == 1


def test_a_redis_killed_and_started_again_has_kept_everything(redis_server: RedisServer, redis_url: str) -> None:
    """A kill -9 loses no write that was answered, however slow the disk is, and the address stays."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("kept", "yes")
        redis_server.restart()
        assert client.get("kept") == b"yes"


def test_a_frozen_redis_answers_nobody_until_it_is_thawed(redis_server: RedisServer, redis_url: str) -> None:
    """A freeze looks like a stalled host: connections stay open, answers stay away."""
    with redis.Redis.from_url(redis_url, socket_timeout=0.2, retry=None) as client:
        client.ping()
        redis_server.freeze()
        try:
            with pytest.raises(redis.TimeoutError):
                client.ping()
        finally:
            redis_server.thaw()
        assert eventually(client.ping)


def test_each_test_gets_a_virtual_host_of_its_own(rabbitmq_server: RabbitServer) -> None:
    """A queue of one virtual host is not seen in another."""
    one, other = rabbitmq_server.fresh_url(), rabbitmq_server.fresh_url()
    _send(one, "only here")
    with kombu.Connection(other) as connection, pytest.raises(connection.channel_errors):
        connection.default_channel.queue_declare("kept", passive=True)
    assert _receive(one) == "only here"


@pytest.mark.slow
def test_a_rabbitmq_restarted_has_kept_durable_messages(rabbitmq_server: RabbitServer, amqp_url: str) -> None:
    """A restart in good order loses no persistent message, and the address stays."""
    _send(amqp_url, "durable")
    rabbitmq_server.restart()
    assert _receive(amqp_url) == "durable"


def test_the_private_servers_are_not_the_machines_own(redis_server: RedisServer, rabbitmq_server: RabbitServer) -> None:
    """No test ever meets a server that was there before."""
    assert redis_server.port != 6379
    assert rabbitmq_server.port != 5672
