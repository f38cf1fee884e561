"""Every error the bridge raises, in one tree.

Ordinary refusals inside the house (stale news, a repeated request) are values, not exceptions.

    BridgeError
      SettingsError                 start-up faults, all at once
      LedgerError
        LedgerUnavailable           Redis cannot be reached or cannot write
        LedgerFault                 this one thing cannot be written or read, whoever tries
        SchemaTooNew                the ledger was written by a newer version
      ServerUnavailable             broker or result backend do not answer
      ApiError                      one call to RunPod did not do what was asked
        Unreachable                 nothing was sent (DNS, connect, TLS)
        Unanswered                  something may have been done; nobody said so
          Unreadable                an answer of success came, and its body cannot be read
        Throttled                   429
        Refused                     400: this body is wrong
        JobUnknown                  404 of a job
        EndpointTrouble             our account or endpoint, not this request
          EndpointUnknown           404 of an endpoint
          EndpointPaused            409 to a submit
          Unauthorised              401
            KeyUnusable             no key that could be sent
          Forbidden                 403
          OutOfCredit               402
      OutputUnavailable             the object store is away, or does not have the output
      NotReplayable                 a dead letter that cannot be sent again
      JobError                      how a request ended, as callers see it
        JobFailed  JobTimedOut  JobLost  JobRejected  ResultUndeliverable
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Exit codes that workers end with too (bridge/cli/exit_codes.py has them all).
UNAVAILABLE_CODE, SETTINGS_CODE, STOPPED_CODE = 9, 11, 130


class BridgeError(Exception):
    """Root of everything the bridge raises on purpose."""


class SettingsError(BridgeError):
    """The settings cannot be used; `faults` names each one, with the variable and how to mend it."""

    def __init__(self, *faults: str) -> None:
        """Keep the faults as positional arguments, so that the error survives JSON and pickling alike."""
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        """One fault a line."""
        return "\n".join(self.faults)


class LedgerError(BridgeError):
    """The ledger did not do what it was asked."""


class LedgerUnavailable(LedgerError):
    """Redis could not be reached, or could not write. Nothing is known to have changed; try again."""


class LedgerFault(LedgerError):
    """This one thing cannot be written or read: a wrong type, encoding or value. Trying again does not help."""


class SchemaTooNew(LedgerError):
    """The ledger holds records of a newer version; start that version or a later one."""


class ServerUnavailable(BridgeError):
    """The broker or the result backend does not answer; the message names the variable. Try again."""


class ApiError(BridgeError):
    """One call to RunPod failed. `code` is the HTTP status, None when there was no answer."""

    #: What was answered to a submit, for the one who sent the request: bounded, without our key; "" for no answer.
    answered = ""
    #: The answer to a submit is none that RunPod gives: something before it may dislike this request alone.
    foreign = False

    def __init__(self, message: str, code: int | None = None) -> None:
        """`message` holds no key and no query string; what RunPod answered in it may repeat the input."""
        super().__init__(message)
        self.message = message
        self.code = code

    @property
    def logged(self) -> str:
        """What a log may hold: of an answer its code alone (I11)."""
        return self.message if self.code is None else f"HTTP {self.code}"


class Unreachable(ApiError):
    """Nothing was sent: name, connection, proxy or TLS failed. Safe to repeat.

    `reason` is a closed word: `unreachable`, `tls` or `proxy`.
    """

    def __init__(self, message: str, code: int | None = None, reason: str = "unreachable") -> None:
        """See the class."""
        super().__init__(message, code)
        self.reason = reason


class Unanswered(ApiError):
    """The call may have taken effect: the answer was lost, late, or a 5xx. Only a status read can tell."""


class Unreadable(Unanswered):
    """RunPod answered 200, and what it said cannot be read as JSON, or describes nothing. It is not away."""


class Throttled(ApiError):
    """RunPod answered 429. `delay_s` is its Retry-After in seconds, None when it gave none."""

    def __init__(self, message: str, code: int | None = 429, delay_s: float | None = None) -> None:
        """See the class."""
        super().__init__(message, code)
        self.delay_s = delay_s


class Refused(ApiError):
    """RunPod answered 400: it will never take this body."""


class JobUnknown(ApiError):
    """404 that does not name the endpoint: RunPod does not know this job (any more)."""


class EndpointTrouble(ApiError):
    """The endpoint or account cannot be used now; no request is to blame. `reason` is a closed word."""

    reason = "endpoint_trouble"


class EndpointUnknown(EndpointTrouble):
    """404 `endpoint not found`."""

    reason = "endpoint_unknown"


class EndpointPaused(EndpointTrouble):
    """409 to a submit: the endpoint takes no jobs now."""

    reason = "paused"


class Unauthorised(EndpointTrouble):
    """401: the key is missing or wrong."""

    reason = "unauthorised"


class KeyUnusable(Unauthorised):
    """There is no key, or none that can be read or sent: this process' own trouble. Nothing was sent."""

    reason = "key"


class Forbidden(EndpointTrouble):
    """403: the key may not use this endpoint."""

    reason = "forbidden"


class OutOfCredit(EndpointTrouble):
    """402: the account's balance is used up."""

    reason = "out_of_credit"


class OutputUnavailable(BridgeError):
    """The object store did not do what it was asked: it is away, or does not have the output (any more)."""


class NotReplayable(BridgeError):
    """A dead letter cannot be sent again; the message says why, and what can be done instead."""


class JobError(BridgeError):
    """How a request ended when it did not end well; `args` is `(message, document)`, both JSON.

    Celery rebuilds these from the result backend by their positional arguments; a caller who has
    not installed the bridge gets Celery's stand-in class of the same name with the same arguments.
    """

    def __init__(self, message: str = "", document: Mapping[str, Any] | None = None) -> None:
        """`document` is the request's document (DESIGN, contracts), without large output."""
        super().__init__(message, dict(document or {}))

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return str(self.args[0])

    @property
    def document(self) -> dict[str, Any]:
        """The request's document at its end."""
        return dict(self.args[1])

    def __str__(self) -> str:
        """Only the sentence: the document belongs in a debugger, not in a log line."""
        return self.message

    def __repr__(self) -> str:
        """As Celery logs it: without the document, which holds what the caller sent (I11)."""
        return f"{type(self).__name__}({self.message!r})"


class JobFailed(JobError):
    """The handler failed, or RunPod lost its RunPod worker for good."""


class JobTimedOut(JobError):
    """A limit passed: RunPod's executionTimeout or ttl, or the caller's timeout or queue_timeout."""


class JobLost(JobError):
    """Nobody can tell how the job ended; `document["reason"]` says why."""


#: The `reason` of a refused command that breaks no rule: it may be sent again.
BUSY = "busy"


class JobRejected(JobError):
    """The request was refused before or by RunPod; the message names the field and the rule."""


class ResultUndeliverable(JobError):
    """The job ended, but its result could not be stored; the document says where it is kept."""


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what either was given as an argument."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        yield from (one for one in found.args if isinstance(one, BaseException))
        found = found.__cause__ or found.__context__
