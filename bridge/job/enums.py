"""The closed lists of words, each with its predicates beside it. Nothing here imports the rest of the house."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a record stands with the bridge."""

    ACCEPTED = "ACCEPTED"  # held by the ledger; nothing has left for RunPod
    SUBMITTING = "SUBMITTING"  # the POST leaves now, or has left
    UNANSWERED = "UNANSWERED"  # the POST's answer was lost: a job may exist
    TRACKED = "TRACKED"  # a job id is known and watched
    RETRYING = "RETRYING"  # RunPod's /retry leaves now, or has left
    SETTLED = "SETTLED"  # ended; somebody still has to be told
    CLOSED = "CLOSED"  # ended, and everybody who asked has been told

    @property
    def ended(self) -> bool:
        """Whether the request has an end."""
        return self in {Phase.SETTLED, Phase.CLOSED}


class Status(StrEnum):
    """RunPod's words verbatim (docs: job states), then the bridge's own three. An unknown word is kept as it came."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    ACCEPTED = "ACCEPTED"  # ours: before RunPod's first word
    LOST = "LOST"  # ours: nobody can tell how it ended
    REJECTED = "REJECTED"  # ours: refused before it ran


#: The statuses after which RunPod changes a job no more (but for an asked /retry).
RUNPOD_ENDS = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT})

#: News must have a higher rank than what is known: late and repeated news changes nothing.
#: An unknown word ranks with IN_QUEUE and counts as not ended.
RANK = {
    Status.ACCEPTED: 0,
    Status.IN_QUEUE: 1,
    Status.IN_PROGRESS: 2,
    Status.CANCELLED: 3,
    Status.TIMED_OUT: 3,
    Status.FAILED: 3,
    Status.COMPLETED: 4,
    Status.LOST: 3,
    Status.REJECTED: 3,
}


def is_end(status: str) -> bool:
    """Whether this word of RunPod's ends a job."""
    return status in RUNPOD_ENDS


def rank(status: str) -> int:
    """How much this word knows."""
    return RANK.get(status, 1)  # type: ignore[call-overload, no-any-return]


class Reason(StrEnum):
    """Why a request ended as it did; a closed list, a label everywhere."""

    HANDLER_ERROR = "handler_error"
    EXECUTION_TIMEOUT = "execution_timeout"
    WORKER_LOST = "worker_lost"
    TTL_EXPIRED = "ttl_expired"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    CANCELLED = "cancelled"
    PURGED = "purged"
    UNANSWERED = "unanswered"
    VANISHED = "vanished"
    STUCK = "stuck"
    RESULT_EXPIRED = "result_expired"
    UNREADABLE = "unreadable"
    UNDELIVERABLE = "undeliverable"
    ID_CONFLICT = "id_conflict"
    REJECTED = "rejected"


class Wish(StrEnum):
    """Why somebody wants the request to end early. The first wish wins."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"


class Delivery(StrEnum):
    """What to do when RunPod's answer to a submit was lost. It has no idempotency key: there is no third choice."""

    AT_LEAST_ONCE = "at_least_once"  # submit again, marked `possible_duplicate`
    AT_MOST_ONCE = "at_most_once"  # never again: the request ends LOST (`unanswered`)


class Step(StrEnum):
    """What a record waits for; one due set per endpoint and step, worked in this order (I5)."""

    FINISH = "finish"
    CANCEL = "cancel"
    RESCUE = "rescue"  # a poll whose result RunPod is about to forget (I10)
    RETRY = "retry"
    SUBMIT = "submit"
    SUBMIT_SYNC = "submit_sync"  # by /runsync, whose calls last: threads and order of their own
    SUBMIT_BATCH = "submit_batch"  # by the Batch API, many in one batch
    POLL = "poll"
    STREAM = "stream"  # stands beside the record's own step: its stream is to be read
    SCHEDULED = "scheduled"  # `not_before` has not come: then it stands among the submits
    PARKED = "parked"  # worked over and over without a recorded change: looked at once a day (HARDENING 14)


#: The steps that are ordered by priority and age.
SUBMITS = frozenset({Step.SUBMIT, Step.SUBMIT_SYNC, Step.SUBMIT_BATCH})


class Sink(StrEnum):
    """Who has to be told of an end before the record may close."""

    CELERY = "celery"
    REPLY = "reply"
    RESULTS = "results"
    CALLBACK = "callback"


class Outcome(StrEnum):
    """What a cancel came to."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    ALREADY_ENDED = "already_ended"
    UNKNOWN = "unknown"


class DeadReason(StrEnum):
    """Why a message or an end became a dead letter; a closed list, a label of `bridge_dead_letters_total`."""

    MALFORMED = "malformed"  # no JSON document: bytes, charset, depth, duplicate names
    TOO_LARGE = "too_large"  # more bytes, objects or names than the doors read
    UNKNOWN_KIND = "unknown_kind"  # JSON, but neither a request nor a command
    REJECTED = "rejected"  # a document that breaks a rule
    ID_CONFLICT = "id_conflict"  # the id has been used for another request
    UNDELIVERABLE = "undeliverable"  # an end, event or reply that nobody would take


class EventName(StrEnum):
    """The transitions that are told; an event's `type` is `bridge.job.<name>`."""

    ACCEPTED = "accepted"
    SUBMITTED = "submitted"
    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    CHUNK = "chunk"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    REJECTED = "rejected"
    RETRIED = "retried"
    # Of endpoints
    PURGED = "purged"
    PAUSED = "paused"
    RESUMED = "resumed"


#: The event that tells each end.
END_EVENT = {
    Status.COMPLETED: EventName.COMPLETED,
    Status.FAILED: EventName.FAILED,
    Status.CANCELLED: EventName.CANCELLED,
    Status.TIMED_OUT: EventName.TIMED_OUT,
    Status.LOST: EventName.LOST,
    Status.REJECTED: EventName.REJECTED,
}
ENDS = tuple(END_EVENT.values())
