"""Connections to the message broker: no read, write or close waits without end for a broker that is frozen."""

from __future__ import annotations

import contextlib
from typing import Any

from kombu.exceptions import OperationalError

#: Seconds for one read or write of AMQP that would otherwise wait without end; as kombu's transport options.
DEADLINES = {"read_timeout": 20.0, "write_timeout": 20.0}
#: Seconds for the broker's answer to a close. Whatever it has not confirmed by then it does when the socket is gone.
CLOSE_S = 2.0


def close(connection: Any) -> None:
    """Close one of kombu's connections, in good order where its broker answers; None and broken ones are fine."""
    if connection is None:
        return
    with contextlib.suppress(OSError, OperationalError, *connection.connection_errors):
        if (socket := _amqp_socket(connection)) is not None:
            socket.settimeout(CLOSE_S)
        connection.release()


def bound(connection: Any) -> Any:
    """The connection, with the deadlines for gevent's sockets too, which know nothing of the system's options."""
    if (socket := _amqp_socket(connection)) is not None:
        socket.settimeout(DEADLINES["read_timeout"])
    return connection


def drop_if_silent(connection: Any) -> None:
    """Ask an AMQP broker for a sign of life; where none comes, drop the connection, so that nothing waits for it."""
    socket = None if connection is None else _amqp_socket(connection)
    if socket is None:
        return
    before = socket.gettimeout()
    try:
        socket.settimeout(CLOSE_S)
        connection.channel().close()
        socket.settimeout(before)
    except (OSError, *connection.connection_errors, *connection.channel_errors):
        connection.collect()


def _amqp_socket(connection: Any) -> Any:
    """None where it is not connected, or speaks something that asks for no answer to a close."""
    if not connection.connected:
        return None
    return getattr(getattr(connection.connection, "transport", None), "sock", None)
