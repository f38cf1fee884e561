"""A connection on which Redis says that one of the queues has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Doorbell:
    """What it says is not read: any word means that it is worth looking."""

    def __init__(self, pool: Any, hub: Any, keys: frozenset[str], ring: Callable[[], None]) -> None:
        """Raises RedisError or OSError when the server does not ring."""
        self.keys = keys
        self._hub = hub
        self._ring = ring
        self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        try:
            self._connection.connect()
            # What begins like another one is rung with it; the server refuses to be asked for both.
            heads = [key for key in keys if not any(key != other and key.startswith(other) for other in keys)]
            prefixes = [part for key in heads for part in ("PREFIX", key)]
            self._connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
            self._connection.read_response()
        except BaseException:
            self._connection.disconnect()
            raise
        self._socket = self._connection._sock  # noqa: SLF001
        hub.add_reader(self._socket.fileno(), self._rung)

    @property
    def hangs(self) -> bool:
        """Whether it is neither broken nor closed."""
        return self._connection is not None

    def _rung(self) -> None:
        self._ring()
        try:
            said = self._socket.recv(65_536)
        except OSError:
            said = b""
        if not said:
            self.close()

    def close(self) -> None:
        """Safe to call twice. The channel hangs another one when it next looks."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._socket.fileno() >= 0:
            self._hub.remove(self._socket.fileno())
        connection.disconnect()
