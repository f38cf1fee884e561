"""`BRIDGE_LEDGER_FSYNC=wait`: a step goes on only when its write is on the ledger's disk (HARDENING 19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.ledger.server.connect import inspect_server

if TYPE_CHECKING:
    import redis

    from bridge.ledger.server.connect import Server

#: Milliseconds; below the client's socket timeout, so that the server's answer comes first.
WAIT_MS = 4_000
#: The first server that knows WAITAOF; every Valkey does.
WAITAOF_SINCE = (7, 2)


def command_of(server: Server, *, fails_over: bool = False) -> tuple[Any, ...] | None:
    """What makes this server say that a write is safe; None when nothing does.

    `fails_over`: behind Sentinel a replica takes its place, and what is on its own disk alone is lost then.
    """
    if fails_over:
        return ("WAIT", 1, WAIT_MS)
    if server.appendonly and server.release >= WAITAOF_SINCE:
        return ("WAITAOF", 1, 0, WAIT_MS)
    return ("WAIT", 1, WAIT_MS) if server.replicas else None


def fault_of(server: Server, *, fails_over: bool = False) -> str | None:
    """Why `wait` cannot be had of this server. Behind Sentinel a replica that is away is an outage, which passes."""
    if command_of(server, fails_over=fails_over) is not None:
        return None
    name = f"{'Valkey' if server.valkey else 'Redis'} {server.version}"
    if server.release < WAITAOF_SINCE:
        return (
            f"BRIDGE_LEDGER_FSYNC: wait needs WAITAOF, which {name} has not (Redis 7.2 or Valkey has it), or a replica "
            "to wait for, and none is connected; use a newer server, add a replica, or set it to server"
        )
    return (
        f"BRIDGE_LEDGER_FSYNC: wait needs an append-only file or a replica, and {name} has neither; "
        "set `appendonly yes`, add a replica, or set it to server"
    )


@dataclass(slots=True)
class Disk:
    """Told to whoever writes: what to send behind the write, in the same pipeline on the same connection."""

    client: redis.Redis
    #: Written before the wait, so that the connection has a write to wait for also where the script had none: a
    #: repeated accept finds its record, and writes nothing. The file is in order: what is behind is safe as well.
    mark: str
    #: Whether a replica takes the server's place (Sentinel).
    fails_over: bool = False
    _command: tuple[Any, ...] | None = None

    def command(self) -> tuple[Any, ...]:
        """WAITAOF or WAIT with its arguments. Raises LedgerUnavailable while the server cannot be asked."""
        if self._command is None:
            found = command_of(inspect_server(self.client), fails_over=self.fails_over)
            self._command = found or ("WAITAOF", 1, 0, WAIT_MS)
        return self._command

    @staticmethod
    def safe(answer: Any) -> bool:
        """Whether the answer says that one disk, or one replica, has it."""
        return bool((answer[0] if isinstance(answer, list) else answer) >= 1)
