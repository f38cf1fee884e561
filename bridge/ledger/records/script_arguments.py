"""A change as the arguments of the scripts that write it, `accept` and `commit`, in the order in which they read."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

from bridge.job.change import Change, OutgoingEvent, Rules
from bridge.job.clocks import submit_score
from bridge.job.enums import SUBMITS, Step
from bridge.job.record import Record, difference

if TYPE_CHECKING:
    from bridge.ledger.clock import LedgerClock
    from bridge.ledger.keys import Names

#: How many values the scripts are given of each event (`tell` in `lua/_prelude.lua`).
TELLING_ARGS = 6


class Arguments:
    """For one ledger: its names, rules and clock."""

    def __init__(self, names: Names, rules: Rules, clock: LedgerClock) -> None:
        """The clock gives due times."""
        self._names, self._rules, self._clock = names, rules, clock

    def accept(self, change: Change, *, consumes: bool) -> list[Any]:
        """A new record. `consumes`: with the cancel that came before it."""
        record = change.record
        put, _ = difference(None, record)
        long = [part for item in change.put_long.items() if item[0] not in change.drop_long for part in item]
        args: list[Any] = [
            record.id,
            record.endpoint,
            record.phase.value,
            record.due,
            self._score(change),
            record.timer,
        ]
        args += ["1" if consumes else ""]
        args += (
            [self._rules.retention_ms, _tombstone(change), self._rules.id_memory_ms] if change.closes else ["", "", ""]
        )
        events = [self._telling(event) for event in change.events]
        args += [len(put) // 2, len(long) // 2, sum(map(len, events)) // TELLING_ARGS, record.replaces]
        return [*args, *put, *long, *chain.from_iterable(events)]

    def commit(self, change: Change, token: str) -> list[Any]:
        """A change of a record. The token tells a repeated call from another one's (I15)."""
        before, record = change.before, change.record
        assert before is not None  # noqa: S101  (only accept makes a record)
        old = before.record
        put, drop = difference(old, record)
        events = [self._telling(event) for event in change.events]
        long = [part for item in change.put_long.items() for part in item]
        args: list[Any] = [
            record.id, old.version, token, record.endpoint, old.phase.value, record.phase.value,
            old.due, record.due, self._score(change) if record.due else "",
            record.timer, record.lease_until if record.lease else "0",
        ]  # fmt: skip
        if change.closes:
            args += [
                self._rules.retention_ms,
                self._rules.output_retention_ms,
                _tombstone(change),
                self._rules.id_memory_ms,
            ]
        else:
            args += ["0" if change.reopens else "", "", "", ""]
        args += ["drop" if change.drop_output else "set" if change.output is not None else "", change.output or ""]
        args += [
            len(put) // 2,
            len(drop),
            len(long) // 2,
            len(change.drop_long),
            sum(map(len, events)) // TELLING_ARGS,
            len(change.orphans),
            len(change.chunks),
            "" if change.stream_ms is None else "-" if change.stream_ms < 0 else self._at(change.stream_ms),
            change.gpu_ms,
            change.paid_twice_ms,
        ]
        args += [*put, *drop, *long, *change.drop_long]
        args += chain.from_iterable(events)
        args += [orphan.as_json() for orphan in change.orphans]
        args += change.chunks
        return args

    def _at(self, delay_ms: int) -> str:
        """A due time, by this process' own clock; one that has not heard the ledger's time leaves it to the script.

        Between a step of the server's clock and the beat that takes it out, the script's would be an hour off.
        """
        return str(self._clock.now() + delay_ms) if self._clock.known else f"+{delay_ms}"

    def _score(self, change: Change) -> str:
        record: Record = change.record
        if record.due in SUBMITS:
            return str(submit_score(record))
        if record.due == Step.SCHEDULED:
            return str(record.not_before)
        return self._at(change.delay_ms) if record.due and not change.keeps_due else ""

    def _telling(self, event: OutgoingEvent) -> list[str]:
        relayed = [
            {name: reply.get(name) for name in ("to", "correlation_id")}
            for reply in event.replies
            if reply.get("via") == "amqp"
        ]
        copies = [self._names.reply(reply["to"]) for reply in event.replies if reply.get("via") != "amqp"]
        result = "1" if event.result == "amqp" else ""
        reply = json.dumps(relayed[0] if len(relayed) == 1 else relayed) if relayed else ""
        owed = json.dumps(event.callbacks) if event.callbacks else ""
        results = [self._names.results] if event.result == "redis" else []
        if event.whole and copies:  # who asked has the large output whole; a telling without a key is only copied
            args = [event.body, event.key, reply, " ".join(results), result, owed]
            return [*args, event.whole, "", "", " ".join(copies), "", ""]
        return [event.body, event.key, reply, " ".join([*copies, *results]), result, owed]


def _tombstone(change: Change) -> str:
    record = change.record
    told: dict[str, Any] = {
        "fp": record.fingerprint,
        "status": record.status,
        "reason": record.reason,
        "sq": record.sequence,
        "ep": record.endpoint,
    }
    if record.tenant:
        told["tn"] = record.tenant
    return json.dumps(told, separators=(",", ":"))
