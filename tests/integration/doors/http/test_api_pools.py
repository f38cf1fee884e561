"""`/v1` in each kind of worker, and beside RabbitMQ."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.api import all_events, api_house, events, submit
from tests.support.helpers import COMMAND_S, free_port
from tests.support.house import House
from tests.support.slow import slow


@pytest.mark.parametrize("pool", [slow("gevent"), "prefork"])
def test_it_serves_in_every_pool(pool: str, redis_url: str, tmp_path: Path) -> None:
    """Submit, follow and cancel; and the worker stops in time while somebody follows."""
    port = free_port()
    settings = {"api": "on", "http_bind": f"127.0.0.1:{port}"}
    with (
        House(tmp_path, broker=redis_url, redis_url=redis_url, backend=None, emulator=None, **settings) as house,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=COMMAND_S) as client,
    ):
        worker = house.worker(pool=pool)
        submit(client, {"mock_stream": 3}, id="streams", stream=True)
        names = [event.name for event in all_events(client, "streams")]
        assert (names.count("chunk"), names[-1]) == (3, "completed")
        submit(client, {"mock_delay": 600}, id="long")
        with events(client, "long") as following:
            assert "started" in (event.name for event in following)
            assert client.post("/v1/requests/long/cancel").status_code in {200, 202}
            assert list(following)[-1].name == "cancelled"
        submit(client, {"mock_delay": 601}, id="longer")
        with events(client, "longer") as following:
            assert next(following).name == "accepted"
            assert worker.stop() == 0
            assert "completed" not in [event.name for event in following]


def test_beside_rabbitmq_a_reply_goes_to_its_queue(redis_url: str, amqp_url: str, tmp_path: Path) -> None:
    """And events come from the ledger all the same."""
    with api_house(tmp_path, redis_url, broker=amqp_url) as (house, client):
        with house.app.connection_for_write() as connection:
            queue = connection.SimpleQueue("billing")
            submit(client, {"a": 1}, id="replied", reply_to="billing", correlation_id="c 1")
            assert all_events(client, "replied")[-1].name == "completed"
            message = queue.get(timeout=COMMAND_S)
            message.ack()
            queue.close()
        assert message.properties["correlation_id"] == "c 1"
        assert '"subject":"replied"' in str(message.body)
