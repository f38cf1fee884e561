"""How many files and sockets this process may still open."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

#: What an OSError says when there are no more.
NO_MORE = frozenset({errno.EMFILE, errno.ENFILE})
#: The part of the limit above which it is told.
NEARLY = 0.9


def limit() -> int:
    """The process' own soft limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def at_least(wanted: int) -> int:
    """Raise the soft limit to so many, as far as the hard one lets it; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a kernel that allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return limit()


def few_left() -> dict[str, int] | None:
    """How many are open and how many may be, where that is nearly all; None while there are enough."""
    most = limit()
    try:
        count = len(os.listdir("/dev/fd"))  # noqa: PTH208  (one call, and no object for each)
    except OSError as error:
        count = most if error.errno in NO_MORE else 0
    return {"open_files": count, "limit": most} if count > NEARLY * most else None


def is_out_of_files(error: BaseException) -> bool:
    """Whether it failed for want of a descriptor alone: the same call succeeds once others are closed."""
    return isinstance(error, OSError) and error.errno in NO_MORE
