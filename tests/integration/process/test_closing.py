"""What is opened is closed: no connection is left to the garbage collector, however it ended."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from bridge.client import AsyncClient, Client
from bridge.emulator import Emulator
from bridge.engine.tell.amqp_publisher import Broker, Parcel
from bridge.engine.upkeep.wake import Wake
from bridge.errors import ApiError
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect
from bridge.runpod.client import RunPodClient
from tests.support.helpers import eventually
from tests.support.proxy import FaultProxy
from tests.support.servers import RabbitServer

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="NOT TESTED HERE: /proc tells of open sockets")


def open_sockets() -> set[str]:
    """The sockets of this process, by their inode."""
    found = set()
    for descriptor in DESCRIPTORS.iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # the directory's own, or one that another thread has just closed
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def closes(use: Callable[[], object]) -> None:
    """Fail when a socket is open after `use`; nobody collects garbage meanwhile."""
    gc.collect()
    gc.disable()
    try:
        before = open_sockets()
        use()
        eventually(lambda: open_sockets() <= before, timeout=5)  # threads that serve may need a moment
    finally:
        gc.enable()


def in_threads(count: int, do: Callable[[], object]) -> None:
    """At once, so that each needs a connection."""
    threads = [threading.Thread(target=do) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def test_the_calls_to_runpod() -> None:
    """Several at once, one that is refused, one that nobody answers; and the emulator's own side."""

    def use() -> None:
        with Emulator(endpoints=["demo"], api_keys=["k"]) as emulator, FaultProxy.before(emulator.origin) as proxy:
            client = RunPodClient(f"http://127.0.0.1:{proxy.port}/v2", lambda: "k")
            in_threads(8, lambda: client.run("demo", b'{"input": {"x": 1}}'))
            with pytest.raises(ApiError):
                client.status("demo", "nobody")
            proxy.refuse()
            with pytest.raises(ApiError):
                client.health("demo")
            client.close()

    closes(use)


def test_the_ledger_and_who_listens_to_it(redis_url: str) -> None:
    """Connections of several threads, and the one that hears of work."""

    def use() -> None:
        redis = connect(redis_url)
        ledger = Ledger(redis, Names(), Rules())
        in_threads(8, ledger.endpoints)
        wake = Wake(ledger, lambda: None)
        wake.once()
        wake.close()
        redis.close()

    closes(use)


def test_the_client_library(redis_url: str) -> None:
    """Both forms; nobody answers here, so each wait ends by its deadline."""

    def use() -> None:
        with Client(redis_url) as client:
            name = client.submit({"a": 1})

            def wait() -> None:
                with pytest.raises(TimeoutError):
                    client.result(name, timeout=0.2)

            in_threads(4, wait)

        async def awaited() -> None:
            async with AsyncClient(redis_url) as client:
                name = await client.submit({"a": 1})
                with pytest.raises(TimeoutError):
                    await client.result(name, timeout=0.2)

        asyncio.run(awaited())

    closes(use)


def test_the_relays_channel_whole_and_broken(rabbitmq_server: RabbitServer, amqp_url: str) -> None:
    """After a publish; after a cut in the middle of one; after a broker that refuses."""
    parcel = Parcel(entry_id="1-0", kind="event", body='{"id":"e"}', exchange="bridge.events", key_name="bridge.job.x")

    def use() -> None:
        with FaultProxy("127.0.0.1", rabbitmq_server.port) as proxy:
            behind = amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
            app = Celery("relay", broker=behind, set_as_current=False)
            broker = Broker(app)

            def publish() -> Any:
                return broker.publish([parcel], lambda: True)

            assert publish() == []
            proxy.cut()
            with pytest.raises(broker.errors):
                publish()
            broker.disconnect()
            assert publish() == []
            proxy.refuse()
            broker.disconnect()
            with pytest.raises(broker.errors):
                publish()
            broker.disconnect()
            app.close()

    closes(use)
