"""What `bridge check` says of the streams that services write to: entries that nobody reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.cli.terminal.findings import Finding
    from bridge.process.components import Components

#: A door asks for entries twice a second, but for one whose hands are full.
SILENT_MS = 15_000
#: Seconds in which a worker that has just been started begins to read.
STARTING_S = 3.0


def of_streams(has: Components) -> list[Finding]:
    """Nothing where nothing waits unread."""
    from bridge.ledger import Names  # noqa: PLC0415  (heavy)
    from bridge.ledger.streams.inbox import unread  # noqa: PLC0415

    found: list[Finding] = []
    names, usual = has.names, Names()
    try:
        closed = has.pressure.closed() is not None
        for stream in (names.requests, names.commands):
            if closed and stream == names.requests:  # back-pressure keeps them there, and is told elsewhere
                continue
            until = time.monotonic() + STARTING_S
            while (waiting := unread(has.client, stream, SILENT_MS)) and time.monotonic() < until:
                time.sleep(0.2)
            if waiting:
                says = "and no process reads it: start `bridge worker`, without BRIDGE_JSON_DOORS=off"
                found.append(("FAULT", "streams", f"{waiting} entries wait in {stream}, {says}"))
        if names.namespace != usual.namespace:
            for stream, own in ((usual.requests, names.requests), (usual.commands, names.commands)):
                if waiting := unread(has.client, stream, SILENT_MS):
                    says = f"with BRIDGE_NAMESPACE={names.namespace} services write to {own}"
                    found.append(("WARN", "streams", f"{waiting} entries wait in {stream}, which nobody reads: {says}"))
    except BridgeError:  # the ledger's own line says it
        return []
    return found
