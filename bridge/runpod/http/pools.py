"""What is asked of urllib3's pools beside what they do: a connection that is open already, and none that is stale."""

from __future__ import annotations

import time
from typing import Any

from bridge.runpod.http.answer_reader import POSSIBLE

#: Bytes of a body that a socket takes at once, so that whoever sends it does not wait.
BODY_AT_ONCE = 16 * 1024
#: Seconds a connection may have been idle when a POST that makes a job leaves on it. A server that closes it
#: meanwhile would leave us unsure whether the job exists.
FRESH_S = 5.0


def open_one(pool: Any, body: bytes | None) -> Any:
    """A connection of the pool that is open, where a call may go over it without a thread of its own."""
    if not POSSIBLE or pool.proxy is not None or (body is not None and len(body) > BODY_AT_ONCE):
        return None
    connection = pool._get_conn()  # noqa: SLF001  (urllib3's own seam for pools)
    if connection.sock is None:
        pool._put_conn(connection)  # noqa: SLF001
        return None
    return connection


def keep_fresh(pool: Any) -> None:
    """Make a pool close connections that have been idle for over FRESH_S instead of handing them out."""
    put, get = pool._put_conn, pool._get_conn  # noqa: SLF001  (urllib3's own seam for pools)

    def _put_conn(connection: Any) -> None:
        if connection is not None:
            connection.idle_since = time.monotonic()
        put(connection)

    def _get_conn(timeout: float | None = None) -> Any:
        connection = get(timeout)
        if (
            getattr(connection, "sock", None) is not None
            and time.monotonic() - getattr(connection, "idle_since", 0.0) > FRESH_S
        ):
            connection.close()
        return connection

    pool._put_conn, pool._get_conn = _put_conn, _get_conn  # noqa: SLF001
