"""Commands to a Redis in one round trip, over a connection of a client's pool, and nothing beside them.

redis-py's own way to a reply (callbacks, options, telemetry of its own, a packer that looks at each argument) takes
twice the CPU of what goes over the wire, and the bridge makes some ten calls for each job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import DataError, ResponseError

if TYPE_CHECKING:
    import redis


def call(client: redis.Redis, command: Sequence[Any]) -> Any:
    """One command's answer as it comes; see `call_many`."""
    return call_many(client, (command,))[0]


def call_many(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The answers of several, in their order. A name of two words ("CONFIG GET") is two arguments.

    Raises redis-py's errors: what the server says of the first that failed, once the answers of all are read. After a
    lost connection all of them are sent again, as often as the client was made to, so each must bear to be repeated.
    """
    try:
        packed = [hiredis.pack_command(tuple(command)) for command in commands]
    except TypeError as error:
        raise DataError(str(error)) from error
    data, pool = b"".join(packed), client.connection_pool
    connection: Any = pool.get_connection()

    def exchange() -> list[Any]:
        connection.send_packed_command((data,))
        answers, failed = [], None
        for _ in packed:
            try:
                answers.append(connection.read_response())
            except ResponseError as error:  # the connection is whole: what follows is read
                failed = failed or error
        if failed is not None:
            raise failed
        return answers

    try:
        return connection.retry.call_with_retry(exchange, lambda _: connection.disconnect())  # type: ignore[no-any-return]
    finally:
        pool.release(connection)
