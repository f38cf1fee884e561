"""What all processes share about the console: the secret that signs its sessions, and those ended early."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger


def shared_secret(ledger: Ledger, name: str) -> str:
    """256 random bits, kept in the ledger's `meta` by whoever asks first. Raises LedgerUnavailable."""
    meta = ledger.names.key("meta")
    with mapped():
        ledger.client.hsetnx(meta, name, secrets.token_hex(32))
        return str(ledger.client.hget(meta, name))


class EndedSessions:
    """One key for each, which is gone when the session would have been over. Raises LedgerUnavailable."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing is asked yet."""
        self._ledger = ledger

    def end(self, session: str, seconds: int) -> None:
        """From now on."""
        with mapped():
            self._ledger.client.set(self._key(session), "1", ex=max(1, seconds))

    def ended(self, session: str) -> bool:
        """Whether it was."""
        with mapped():
            return bool(self._ledger.client.exists(self._key(session)))

    def _key(self, session: str) -> str:
        return self._ledger.names.key(f"console_ended:{session}")
