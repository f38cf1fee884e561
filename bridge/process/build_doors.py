"""Builds the doors of one process from its components: each gets what it uses, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bridge.doors.celery.consumer.queues import broker_answers
from bridge.doors.celery.consumer.refuse import RefusalUses
from bridge.doors.celery.finish.in_bulk import PlainEnds
from bridge.doors.celery.tasks import Uses
from bridge.doors.http.gauges import Gauges
from bridge.doors.http.part import Part
from bridge.doors.http.probes import Health
from bridge.doors.http.webhooks import Webhooks
from bridge.doors.json.command_order import Ahead, Queues
from bridge.doors.json.handler import CommandPool, Handler
from bridge.doors.json.loops import Consumers
from bridge.doors.json.queue_depths import Ready
from bridge.doors.json.redis_streams import StreamConsumer
from bridge.ledger import connect

if TYPE_CHECKING:
    from bridge.doors.json.consumer import Consumer
    from bridge.doors.parse import Kind
    from bridge.process.components import Components


def task_uses(has: Components) -> Uses:
    """For the Celery tasks."""
    return Uses(has.settings, has.ledger, has.accept, has.notifier, has.control, has.book, has.client_of)


def refusal_uses(has: Components) -> RefusalUses:
    """For messages that Celery cannot read."""
    return RefusalUses(has.ledger, has.app, has.settings.bridge_redact)


def plain_ends(has: Components) -> PlainEnds:
    """For ends that nothing follows, or a chord alone."""
    return PlainEnds(has.app, task_uses(has).finishing)


def json_consumers(has: Components) -> Consumers:
    """For services that speak plain JSON: streams whatever the broker is, AMQP where the broker speaks it."""
    settings, names, callers = has.settings, has.names, CommandPool()
    ready = Ready(has.app, amqp=settings.amqp)
    client = connect(settings.ledger_url, decode=False)
    handler = partial(
        Handler,
        ledger=has.ledger,
        accept=has.accept,
        control=has.control,
        notifier=has.notifier,
        callers=callers,
        ahead=Ahead(has.ledger, Queues(ready)),
        message_limit=settings.bridge_message_limit,
    )
    kinds: tuple[tuple[Kind, str], ...] = (("requests", names.requests), ("commands", names.commands))
    idle_ms = int(settings.bridge_stream_idle_s * 1000)
    made: dict[str, Consumer] = {
        stream: StreamConsumer(handler("stream", stream, kind), has.ledger, has.pressure, client, idle_ms=idle_ms)
        for kind, stream in kinds
    }
    if settings.amqp:
        from bridge.doors.json.amqp import QUEUES, AmqpConsumer  # noqa: PLC0415  (only where the broker speaks AMQP)

        for kind, _ in kinds:
            queue = QUEUES[kind][0]
            made[queue] = AmqpConsumer(
                handler("amqp", queue, kind),
                has.ledger,
                has.pressure,
                settings.celery_broker_url,
                quorum=settings.bridge_queue_type == "quorum",
            )
    return Consumers(made, (callers.close, ready.close, client.close))


def http_parts(has: Components, loops_turn: Callable[[], bool]) -> list[Part]:
    """What BRIDGE_HTTP_BIND serves; callbacks come beside it."""
    parts = [health_part(has, loops_turn)]
    if has.settings.bridge_api:
        parts.append(api_part(has))
    if has.settings.bridge_console:
        parts.append(console_part(has))
    return parts


def health_part(has: Components, loops_turn: Callable[[], bool]) -> Part:
    """For orchestrators and Prometheus."""
    health = Health(
        has.ledger,
        has.pressure,
        has.control,
        has.endpoint_health,
        outbox_max=has.settings.bridge_outbox_max,
        loops_turn=loops_turn,
        broker_answers=partial(broker_answers, has.app),
    )
    return Part(health.routes)


def gauges_of(has: Components) -> Gauges:
    """What is read when somebody scrapes."""
    return Gauges(
        has.ledger,
        has.control,
        has.pressure,
        probe=has.names.key("probe"),
        broker_answers=partial(broker_answers, has.app),
    )


def webhook_part(has: Components) -> Part:
    """For RunPod's callbacks."""
    return Part(Webhooks(has.ledger, has.notifier).routes)


def api_part(has: Components) -> Part:
    """For services and browsers: `/v1`."""
    from bridge.doors.http.api.routes import build  # noqa: PLC0415  (only where it is on)

    settings = has.settings
    return build(
        ledger=has.ledger,
        accept=has.accept,
        control=has.control,
        pressure=has.pressure,
        notifier=has.notifier,
        blobs=has.outputs.blobs,
        replies_via="amqp" if settings.amqp else "redis",
        inline_limit=settings.bridge_inline_limit,
        tokens_file=settings.bridge_api_tokens_file,
        origins=settings.bridge_api_origins,
        followers_max=settings.bridge_api_followers_max,
        signed_s=settings.bridge_api_signed_s,
    )


def console_part(has: Components) -> Part:
    """For whoever runs the bridge: `/console`."""
    from bridge.doors.http.console.routes import build  # noqa: PLC0415  (only where it is on)
    from bridge.doors.replay import replay  # noqa: PLC0415

    settings = has.settings
    return build(
        ledger=has.ledger,
        control=has.control,
        pressure=has.pressure,
        broker_answers=partial(broker_answers, has.app),
        replay=lambda letter, new_id: replay(has.app, has.ledger, letter, amqp=settings.amqp, request_id=new_id),
        password_file=settings.bridge_console_password_file,
        user_header=settings.bridge_console_user_header,
        proxies=settings.bridge_console_proxies,
        read_only=settings.bridge_console_read_only,
        content=settings.bridge_console_content,
        redact=settings.bridge_redact,
    )
