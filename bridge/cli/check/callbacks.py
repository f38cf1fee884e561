"""What `bridge check` says of callbacks: who does not take them, and whether anybody sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.cli.terminal.findings import Finding
    from bridge.process.components import Components

#: Hosts that are named one by one.
NAMED = 5


def of_callbacks(has: Components) -> list[Finding]:
    """Nothing where none are owed, and none are set up."""
    set_up = has.settings.bridge_callback_secret_file is not None
    try:
        owed, failing = has.ledger.callbacks.count(), has.ledger.callbacks.failing()
        now = has.ledger.now()
    except BridgeError:  # the ledger's own line says it
        return []
    if owed and not set_up:
        here = "BRIDGE_CALLBACK_SECRET_FILE is not set in this shell (the workers may have it)"
        return [("WARN", "callbacks", f"{owed} are owed, and {here}")]
    if failing:
        told = [f"{host} for {(now - since) // 1000} s ({fails} tries)" for host, fails, since in failing[:NAMED]]
        more = f" and {len(failing) - NAMED} more" if len(failing) > NAMED else ""
        return [("WARN", "callbacks", f"{owed} are owed; no answer of {', '.join(told)}{more}")]
    return [("ok", "callbacks", f"{owed} are owed")] if set_up else []
