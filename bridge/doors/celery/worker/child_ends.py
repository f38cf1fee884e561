"""A process of a prefork pool ends in time.

At its end billiard lets it wait, for up to 30 s, until its parent has counted all of its results. A stop that comes as
the last results do may find one uncounted, and the worker stood far beyond its grace. What the parent has not read by
then is lost to nobody: it acks the messages, so theirs come again, and a request that comes twice is one (I2).
"""

from __future__ import annotations

from typing import Any

#: Seconds: a parent that still reads does so in a few milliseconds.
COUNTED_S = 2.0


def ends_in_time(**_signal: Any) -> None:
    """For `worker_process_init`."""
    from billiard import pool  # noqa: PLC0415  (where there is such a process, it is loaded)

    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = int(COUNTED_S / pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL)
