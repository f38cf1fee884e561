"""How fast events leave on RabbitMQ, every one confirmed: `scripts/bench publish --events 30000`.

The event stream is filled first, as changes of records fill it; then one relay empties it. A durable queue is bound to
the exchange, so that each confirm means that a broker has written the message. `--replies` makes every entry a reply
as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import pika
from celery import Celery

from bridge.engine.tell.amqp_publisher import Broker
from bridge.engine.tell.publish import Publish
from bridge.job.change import Rules
from bridge.job.document import cloud_event
from bridge.job.enums import EventName
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.streams.outbox import Bounds
from tests.support.servers import RabbitServer, RedisServer, find_rabbitmq


def main() -> None:
    """Prints one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--replies", action="store_true")
    parser.add_argument("--bytes", type=int, default=400, help="of each event's output")
    asked = parser.parse_args()
    script = find_rabbitmq()
    if script is None:
        raise SystemExit("RabbitMQ's server is not installed")
    with tempfile.TemporaryDirectory() as home:
        for name in ("redis", "rabbit"):
            (Path(home) / name).mkdir()
        redis = RedisServer(Path(home) / "redis").start()
        rabbit = RabbitServer(script, Path(home) / "rabbit").start()
        try:
            _measure(redis.fresh_url(), rabbit.fresh_url(), asked)
        finally:
            rabbit.stop()
            redis.stop()


def _measure(redis_url: str, amqp_url: str, asked: argparse.Namespace) -> None:
    ledger = Ledger(connect(redis_url), Names(), Rules(), relayed=True)
    _fill(ledger, asked)
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.exchange_declare("bridge.events", "topic", durable=True)
    for queue in ("all", "replies"):
        channel.queue_declare(queue, durable=True)
    channel.queue_bind("all", "bridge.events", "job.#")
    app = Celery("bench", broker=amqp_url, set_as_current=False)
    relay = Publish(
        ledger, Broker(app), lambda _: None, Bounds(10**9, 10**10, 10**10), message_limit=1 << 20, patience_s=60
    )
    relay.once()  # connects, counts, and sends a first batch
    left, used, started = ledger.outbox.lag().entries, _cpu(), time.perf_counter()
    while ledger.outbox.lag().entries:
        relay.once()
    seconds = time.perf_counter() - started
    relay.close()
    there = channel.queue_declare("all", passive=True).method.message_count
    connection.close()
    told = {
        "events": left,
        "seconds": round(seconds, 2),
        "events_per_s": round(left / seconds),
        "cpu_us_per_event": round((_cpu() - used) / left * 1e6),
        "in_the_queue": there,
        "replies": asked.replies,
    }
    print(json.dumps(told))  # noqa: T201


def _fill(ledger: Ledger, asked: argparse.Namespace) -> None:
    reply = json.dumps({"to": "replies", "correlation_id": "c"}) if asked.replies else ""
    with ledger.client.pipeline(transaction=False) as pipe:
        for n in range(asked.events):
            data = {"id": f"r{n // 5}", "round": 1, "output": "x" * asked.bytes}
            body = cloud_event(
                EventName.PROGRESS, data, request_id=f"r{n // 5}", endpoint="demo", sequence=n % 5 + 1,
                time="2026-11-25T00:00:00.000Z", trace=None,
            )  # fmt: skip
            pipe.xadd(ledger.names.events, {"data": body, "key": "job.progress.demo", "reply": reply, "result": ""})
            if n % 5_000 == 0:
                pipe.execute()
        pipe.execute()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
