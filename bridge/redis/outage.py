"""The one place that decides what an error of Redis means: an outage of the server, or a fault of the thing at hand.

An outage passes, and the same call is made again. A fault stays however often the call is made: that one thing is set
aside and told, and the next one goes on (docs/architecture.md, "Outage or fault").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import DataError, RedisError, ResponseError

from bridge.errors import LedgerFault, LedgerUnavailable

#: What a server says that cannot work now, or not for us, whatever it is asked. The first word of its answer, for
#: redis-py has no class for most of them; the last ones are said by a server without a word of their own.
_OUTAGES = (
    "LOADING", "READONLY", "OOM", "BUSY ", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "NOAUTH",
    "WRONGPASS", "NOPERM", "UNKILLABLE", "UNBLOCKED", "NOSCRIPT", "EXECABORT", "MOVED", "ASK ", "NOQUORUM",
    "max number of clients", "max clients reached", "operation not permitted", "The user executing the script",
)  # fmt: skip
#: redis-py takes the first word off where it has a class for the error; those classes' names tell it.
_CLASSES = frozenset(
    {
        "ReadOnlyError", "OutOfMemoryError", "NoScriptError", "ExecAbortError", "NoPermissionError", "TryAgainError",
        "ClusterDownError", "MasterDownError", "MovedError", "AskError", "BusyLoadingError", "MaxClientsError",
        "AuthenticationWrongNumberOfArgsError",
    }
)  # fmt: skip


def is_outage(error: BaseException) -> bool:
    """Whether the same call may do what it was asked later. A value that cannot be written or read is no outage."""
    if isinstance(error, DataError) or not isinstance(error, RedisError):
        return False
    if not isinstance(error, ResponseError):  # connection, timeout, a broken answer: nothing of what was asked
        return True
    return type(error).__name__ in _CLASSES or said(error).removeprefix("ERR ").startswith(_OUTAGES)


def said(error: BaseException) -> str:
    """The server's own words: redis-py puts the command of a pipeline before them, with what it would have written."""
    return str(error).rpartition(" of pipeline caused error: ")[2]


#: What a refusal says, and what its operator can do; the first that fits. Redis' words, and those of sockets. The first
#: word of an answer is not in what redis-py makes of it, nor is the class in what kombu does: the rest must do too.
_REMEDIES = (
    ("No space left", "its disk is full: free space on it"),
    ("MISCONF", "it cannot write to its disk: `redis-cli INFO persistence` and its own log say why"),
    ("'maxmemory'", "its memory is full: `redis-cli CONFIG SET maxmemory` gives it more"),
    ("OOM", "its memory is full: `redis-cli CONFIG SET maxmemory` gives it more"),
    ("LOADING", "it is reading its file: wait"),
    ("is loading the dataset", "it is reading its file: wait"),
    ("NOREPLICAS", "too few replicas are connected (min-replicas-to-write)"),
    ("READONLY", "it is a replica: name the master, or the sentinels"),
    ("read only replica", "it is a replica: name the master, or the sentinels"),
    ("MASTERDOWN", "it is a replica without its master"),
    ("Link with MASTER is down", "it is a replica without its master"),
    ("BUSY ", "a script of somebody's runs: `redis-cli SCRIPT KILL`"),
    ("max number of clients", "it has no connection left: raise its maxclients"),
    (
        "Timeout connecting",
        "the network drops what is sent to it, or its host is frozen; or it speaks no TLS there, and the address does",
    ),
    ("Timeout", "it hangs, or the network drops what is sent to it: is its process stopped, or its host frozen?"),
    ("timed out", "it hangs, or the network drops what is sent to it: is its process stopped, or its host frozen?"),
)


def with_remedy(said: str, otherwise: str = "") -> str:
    """What a server said and what to do about it; `otherwise` where that is not known."""
    fits = next((text for words, text in _REMEDIES if words in said), otherwise)
    return said if not fits or fits in said else f"{said}; {fits}"


@contextmanager
def mapped(what: str = "the ledger's Redis") -> Iterator[None]:
    """Redis' errors become ours. Raises LedgerUnavailable for an outage, LedgerFault for a fault."""
    try:
        yield
    except (RedisError, UnicodeError) as error:
        if is_outage(error):
            fault = f"{what} did not do what it was asked: {type(error).__name__}: {error}"
            raise LedgerUnavailable(with_remedy(fault)) from error
        fault = f"{what} cannot take or give this: {type(error).__name__}: {str(error)[:500]}"
        raise LedgerFault(fault) from error
