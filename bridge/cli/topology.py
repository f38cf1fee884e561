"""`bridge topology`: the queues that the bridge consumes."""

from __future__ import annotations

import click

from bridge.cli.common import as_json, bridge, show
from bridge.cli.exit_codes import ExitCode


@click.command()
@click.option("--declare", is_flag=True, help="Declare what is missing.")
@as_json
def topology(*, declare: bool, as_json: bool) -> int:
    """The queues the bridge consumes, and whether the broker has them."""
    from bridge.doors.celery import servers  # noqa: PLC0415
    from bridge.doors.celery.consumer.queues import find_queues  # noqa: PLC0415

    has = bridge()
    servers.open_broker(has.app)
    names = [*has.app.amqp.queues]
    with has.app.connection_for_write() as connection:
        existed = find_queues(has.app, connection)
        if declare:
            for name, queue in has.app.amqp.queues.items():
                if not existed.get(name):
                    queue(connection.default_channel).declare()
        if has.settings.amqp:
            from bridge.doors.json import amqp  # noqa: PLC0415  (only where the broker speaks AMQP)

            existed |= amqp.look(connection)
            names += [name for name, _ in amqp.QUEUES.values()]
            if declare:
                for kind in amqp.QUEUES:
                    amqp.declare(connection, kind, quorum=has.settings.bridge_queue_type == "quorum")
    show([{"queue": name, "existed": existed.get(name)} for name in names], as_json=as_json)
    return ExitCode.OK
