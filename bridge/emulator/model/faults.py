"""Faults on demand: what goes wrong, on which operation and endpoint, how often or how probably."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

#: Instead of the operation: nothing is accepted.
BEFORE = frozenset(
    {"429", "500", "502", "reset", "html", "out_of_credit", "unauthorised", "forbidden", "endpoint_gone"}
)
#: The operation is carried out, and then its answer suffers.
AFTER = frozenset({"502_after", "lost_reply", "hang", "slow"})
#: Before the operation, to the job it names.
JOB = frozenset({"vanish"})
#: To a batch, at once.
OF_A_BATCH = frozenset({"batch_failed"})
#: To an endpoint, until the faults are cleared.
LASTING = frozenset({"paused"})
#: To deliveries of webhooks.
WEBHOOK = frozenset({"webhook_late", "webhook_repeat", "webhook_lost"})
KINDS = BEFORE | AFTER | JOB | OF_A_BATCH | LASTING | WEBHOOK

#: Operations a fault can be for; None is any.
OPERATIONS = frozenset(
    {
        *("run", "runsync", "status", "status-sync", "stream", "cancel", "retry", "purge-queue"),
        *("health", "requests", "metrics", "openai"),
        *("batch-create", "batch-list", "batch-status", "batch-update", "batch-add", "batch-requests"),
        *("batch-remove", "batch-finalize", "batch-cancel"),
    }
)

#: Arguments a kind takes.
ARGUMENTS: dict[str, frozenset[str]] = {
    "429": frozenset({"retry_after"}),
    "hang": frozenset({"seconds", "before"}),
    "slow": frozenset({"seconds", "pieces"}),
    "vanish": frozenset({"job_id"}),
    "batch_failed": frozenset({"batch_id"}),
    "lost_reply": frozenset({"seconds"}),
    "webhook_late": frozenset({"seconds"}),
    "webhook_repeat": frozenset({"repeats", "seconds"}),
}


@dataclass(slots=True)
class Fault:
    """One fault that waits for calls to hit."""

    kind: str
    op: str | None = None
    endpoint: str | None = None
    #: Calls it still hits; None: until cleared. Not looked at when `probability` is set.
    times: int | None = 1
    #: Each call is hit with this chance, until cleared.
    probability: float | None = None
    args: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    def __post_init__(self) -> None:
        """Refuse what no fault can be, naming what can."""
        if not _is_one_of(KINDS, self.kind):
            raise ValueError(f"unknown fault {self.kind!r}; known: {', '.join(sorted(KINDS))}")
        if self.op is not None and not _is_one_of(OPERATIONS, self.op):
            raise ValueError(f"unknown operation {self.op!r}; known: {', '.join(sorted(OPERATIONS))}")
        if self.op is not None and self.kind in WEBHOOK:  # it would wait for ever
            raise ValueError(f"fault {self.kind!r} is for webhooks, not for operation {self.op!r}")
        if unknown := set(self.args) - ARGUMENTS.get(self.kind, frozenset()):
            known = ", ".join(sorted(ARGUMENTS.get(self.kind, frozenset()))) or "none"
            raise ValueError(f"fault {self.kind!r} takes no {', '.join(sorted(unknown))}; it takes: {known}")
        for name in ("seconds", "retry_after", "pieces", "repeats"):
            value = self.args.get(name)
            if value is not None and not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        # Half a call is never used up.
        if self.times is not None and not (_is_number(self.times, whole=True) and self.times >= 1):
            raise ValueError(f"times must be a whole number of at least 1, or null for ever, not {self.times!r}")
        if self.probability is not None and not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise ValueError(f"probability must lie between 0 and 1, not {self.probability!r}")

    def shown(self) -> dict[str, Any]:
        """Return the fault as the admin API lists it."""
        return {
            "kind": self.kind,
            "op": self.op,
            "endpoint": self.endpoint,
            "times": self.times,
            "probability": self.probability,
            "hits": self.hits,
            **self.args,
        }


class Faults:
    """All faults that wait. The first that fits a call hits it."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self._chance = random.Random(7)  # noqa: S311 - a run of tests should be repeatable

    def add(self, fault: Fault) -> None:
        """Let `fault` wait for calls."""
        self.waiting.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self.waiting.clear()

    def hit(self, op: str, endpoint: str) -> Fault | None:
        """Return the fault that hits this call of `op`, and count it."""
        return self._first(op, endpoint, webhook=False)

    def hit_webhook(self, endpoint: str) -> Fault | None:
        """Return the fault that hits this delivery of a webhook, and count it."""
        return self._first("webhook", endpoint, webhook=True)

    def paused(self, endpoint: str) -> bool:
        """Return whether `endpoint` is paused."""
        return any(f.kind == "paused" and f.endpoint in {None, endpoint} for f in self.waiting)

    def _first(self, op: str, endpoint: str, *, webhook: bool) -> Fault | None:
        for fault in self.waiting:
            if (fault.kind in WEBHOOK) is not webhook or fault.kind in LASTING:
                continue
            if (fault.op is not None and fault.op != op) or fault.endpoint not in {None, endpoint}:
                continue
            if fault.probability is not None:
                if self._chance.random() >= fault.probability:
                    continue
            elif fault.times is not None:
                fault.times -= 1
                if not fault.times:
                    self.waiting.remove(fault)
            fault.hits += 1
            return fault
        return None


def _is_one_of(known: frozenset[str], value: Any) -> bool:
    """Return whether `value`, which a JSON body may have brought, is one of the `known` names."""
    return isinstance(value, str) and value in known


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)
