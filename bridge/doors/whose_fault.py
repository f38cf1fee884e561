"""Whose fault it is that a message could not be taken: its own, or this process'.

A message that breaks a rule is told so by an error of that name, and set aside at once (I12). Any other error says
nothing of the message yet: memory, threads or files may be used up, the ledger damaged, or one of us mistaken. Nothing
good may become a dead letter for that, which keeps 64 KiB and ends the request. So such a message is held, and tried
again while the others go on. It is to blame once others have gone the same way in between, and it still cannot.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from bridge.errors import LedgerFault, chain_of
from bridge.runtime.backoff import backoff

#: What an OSError says where the system has no more to give. Others may lie in what was to be done: a decompressor
#: raises one for damaged data.
_USED_UP = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})
#: Tries before a message may be to blame, and seconds between them.
TRIES, WAIT_S, WAIT_MAX_S = 4, 0.2, 2.0
#: Seconds after which a message is to blame though no other has come by: for a mistake of ours that it may bring about,
#: and for something in the ledger, which no message brings about.
ALONE_S, ALONE_LEDGER_S = 60.0, 600.0


def is_own(error: BaseException) -> bool:
    """Whether this process lacks something (memory, a thread, a file), whatever the message says."""
    return any(
        isinstance(one, MemoryError)
        or (isinstance(one, OSError) and one.errno in _USED_UP)
        or (isinstance(one, RuntimeError) and "start new thread" in str(one))
        for one in chain_of(error)
    )


@dataclass(slots=True)
class Suspicion:
    """Of one message that could not be taken. `at` is when to try it again, on the monotonic clock."""

    since: float
    passed: int
    tries: int = 0
    at: float = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self.at - time.monotonic())


class WhoseFault:
    """Of one way that messages go in this process. Thread-safe: a count that comes short delays a verdict."""

    def __init__(self) -> None:
        """Nobody has gone it yet."""
        self._passed = 0

    def passed(self) -> None:
        """A message has gone all the way."""
        self._passed += 1

    def met(self, error: BaseException, suspicion: Suspicion | None, *, own: bool = False) -> Suspicion | None:
        """What stands against a message after this error: try it again at its time. None: it is to blame.

        `own`: the caller knows that it is not.
        """
        now = time.monotonic()
        found = suspicion or Suspicion(now, self._passed)
        found.tries += 1
        found.at = now + backoff(found.tries, WAIT_S, WAIT_MAX_S)
        if own or is_own(error) or found.tries < TRIES:
            return found
        alone_s = ALONE_LEDGER_S if isinstance(error, LedgerFault) else ALONE_S
        to_blame = self._passed > found.passed or now - found.since > alone_s
        return None if to_blame else found
