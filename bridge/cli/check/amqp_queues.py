"""What `bridge check` says of the AMQP queues that services write to: messages that nobody reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.cli.check.streams import STARTING_S

if TYPE_CHECKING:
    from bridge.cli.terminal.findings import Finding
    from bridge.process.components import Components


def of_amqp_queues(has: Components, *, closed: bool) -> list[Finding]:
    """Nothing where nothing waits unread. `closed`: back-pressure keeps requests there. Raises BridgeError."""
    from bridge.doors.celery.follow_up_queues import depths  # noqa: PLC0415  (heavy)
    from bridge.doors.json.amqp import QUEUES  # noqa: PLC0415
    from bridge.engine.tell.follow_up_readers import unread  # noqa: PLC0415

    queues = [queue for kind, (queue, _) in QUEUES.items() if not (closed and kind == "requests")]
    until = time.monotonic() + STARTING_S
    while (waiting := unread(depths(has.app, queues), {}, set)) and time.monotonic() < until:
        time.sleep(0.2)
    says = "{} messages wait in {}, and no process reads it: start `bridge worker`, without BRIDGE_JSON_DOORS=off"
    return [("FAULT", "queues", says.format(messages, queue)) for queue, messages in waiting.items()]
