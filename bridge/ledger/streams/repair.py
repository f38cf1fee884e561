"""Public keys that were no streams, or had no ids left: they are set aside, and the call is made again.

`lua/_prelude.lua` has the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bridge.errors import LedgerFault
from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

T = TypeVar("T")


def on_streams(
    client: redis.Redis, prefix: str, streams: Sequence[str], call: Callable[[], T], *, read: bool = False
) -> T:
    """The call's answer; what kept it from the streams is set aside first. Raises LedgerUnavailable, or LedgerFault.

    `read`: the bridge reads these streams, and what it has not read yet is never set aside.
    """
    try:
        with mapped():
            return call()
    except LedgerFault:
        if not int(run(client, "set_aside", [prefix], ["read" if read else "", *streams])):
            raise
    with mapped():
        return call()


def take_asides(client: redis.Redis, key: str) -> dict[str, str]:
    """Keys that were set aside since somebody looked, and why; each is handed out once."""
    with mapped():  # no transaction: Redis refuses all of one while its memory is full
        found: Any = client.hgetall(key)
        return {name: why for name, why in found.items() if client.hdel(key, name)}
