"""A secret that all processes of a ledger share: made by whoever asks first."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger.ledger import Ledger


def shared_secret(ledger: Ledger, name: str) -> str:
    """256 random bits, kept in the ledger's `meta`. Raises LedgerUnavailable."""
    meta = ledger.names.key("meta")
    with mapped():
        ledger.client.hsetnx(meta, name, secrets.token_hex(32))
        return str(ledger.client.hget(meta, name))
