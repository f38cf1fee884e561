"""RunPod's operations and their documented limits (RunPod docs, `serverless/endpoints/send-requests`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Operation(StrEnum):
    """One method of the client each; the words are RunPod's."""

    RUN = "run"
    RUNSYNC = "runsync"
    STATUS = "status"
    STREAM = "stream"
    CANCEL = "cancel"
    RETRY = "retry"
    PURGE = "purge-queue"
    HEALTH = "health"
    BATCH = "batch"  # all calls of the Batch API, which has no published limits


@dataclass(frozen=True, slots=True)
class Limit:
    """What one endpoint allows of one operation, for all callers together."""

    calls: int  # per 10 s
    concurrent: int
    per_worker: int = 0  # calls per 10 s for each running RunPod worker, where that is more


#: Base figures. RunPod publishes none for retry, health and batch: theirs are modest by our own choice.
LIMITS: Mapping[Operation, Limit] = {
    Operation.RUN: Limit(1000, 200, 50),
    Operation.RUNSYNC: Limit(2000, 400, 50),
    Operation.STATUS: Limit(2000, 400, 50),
    Operation.STREAM: Limit(2000, 400, 50),
    Operation.CANCEL: Limit(100, 20),
    Operation.RETRY: Limit(100, 20),
    Operation.PURGE: Limit(2, 1),
    Operation.HEALTH: Limit(100, 20),
    Operation.BATCH: Limit(200, 20),
}
