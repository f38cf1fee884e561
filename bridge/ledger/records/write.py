"""Changing records, by compare-and-set.

A change is made in Python from what was read (`job.transitions`), and written by one script that refuses it when
somebody else was faster; then it is made anew from what is there now. So the state table lives in one place,
and no script knows it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.errors import LedgerError, LedgerFault
from bridge.job.change import Change, Rules
from bridge.job.document import Held
from bridge.job.record import Long, altered
from bridge.job.transitions import Table
from bridge.ledger.records.read import COMMON, Reader
from bridge.ledger.records.script_arguments import Arguments
from bridge.ledger.scripts import run, run_many
from bridge.redis.outage import mapped
from bridge.telemetry import tell

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names
    from bridge.ledger.server.disk import Disk

#: How often a change is made anew before somebody must look (each try means that another process was faster).
TRIES = 50
FAULTS_MAX = 10_000
WISH_KEPT_MS = 24 * 3_600_000
#: Of so many parts of the room for wishes each tenant has one more, of its own.
TENANTS_PART = 10

Make = Callable[[Held, int], Change]
#: Makes the first change of a request, from the time and a cancel that came before it.
Build = Callable[[int, Mapping[str, Any] | None], Change]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a request at the door: `created`, `exists` (with the record) or `remembered` (its tombstone)."""

    kind: str
    held: Held | None = None
    tombstone: Mapping[str, Any] | None = None


class Writer(Reader):
    """Every method is one script; all may be repeated (I15)."""

    def __init__(self, client: redis.Redis, names: Names, rules: Rules, *, wishes_max: int) -> None:
        """`wishes_max`: so many cancels of requests that are not known yet are kept."""
        super().__init__(client, names)
        self.rules = rules
        self.table = Table(rules)
        self._arguments = Arguments(names, rules, self.clock)
        #: Set where BRIDGE_LEDGER_FSYNC=wait.
        self.disk: Disk | None = None
        #: How many changes the ledger has seen, as far as this process was told.
        self.changes = 0
        self._wishes_max = wishes_max

    def accept(self, request_id: str, build: Build) -> Accepted:
        """Write a new record, unless its id is known (I2). `build` gets the time and a cancel that came first."""
        wish: Mapping[str, Any] | None = None
        for _ in range(TRIES):
            change = build(self.now(), wish)
            args = self._arguments.accept(change, consumes=wish is not None)
            answer = run_many(self.client, "accept", self._keys(), [args], self.disk)[0]
            self.clock.heard(answer[1])
            accepted = self._accepted(request_id, change, answer)
            if accepted is not None:
                return accepted
            wish = json.loads(answer[2])
        fault = f"accept of {request_id} met a new wish each time"
        raise LedgerError(fault)

    def accept_many(self, many: Sequence[tuple[str, Build]]) -> list[Accepted]:
        """`accept` of several requests in one round trip, in their order; the same id twice is found by the second."""
        now = self.now()
        changes = [build(now, None) for _, build in many]
        answers = run_many(
            self.client,
            "accept",
            self._keys(),
            [self._arguments.accept(change, consumes=False) for change in changes],
            self.disk,
        )
        found = []
        for (request_id, build), change, answer in zip(many, changes, answers, strict=True):
            self.clock.heard(answer[1])
            accepted = self._accepted(request_id, change, answer)
            found.append(accepted or self.accept(request_id, build))  # a cancel came first: made anew, born ended
        return found

    def _accepted(self, request_id: str, change: Change, answer: Any) -> Accepted | None:
        match answer[0]:
            case 1:
                self.counted(answer[2])
                return Accepted("created", change.after._replace(record=altered(change.record, version=1)))
            case 0:
                return Accepted("exists", self._held(request_id, answer[2], (), ()))
            case 2:
                return Accepted("remembered", tombstone=json.loads(answer[2]))
            case _:
                return None

    def change(self, held: Held, make: Make) -> Change:
        """Make a change from what is known, write it, and make it anew while others are faster.

        Returns the change that stands; `empty` when there was nothing to write. A record that is gone is left alone;
        one that cannot be written is set aside and comes back as it was, with the verdict `fault`.
        """
        return self.change_many([(held, make)])[0]

    def change_many(self, changes: Sequence[tuple[Held, Make]], *, durable: bool = False) -> list[Change]:
        """Several changes of different records in one round trip; those that came too late are made anew one by one.

        `durable`: they are on the ledger's disk when this returns, where BRIDGE_LEDGER_FSYNC says so.
        """
        self.table.clock_offset = self.clock.offset
        now = self.now()
        made = [make(held, now) for held, make in changes]
        tokens = [secrets.token_hex(6) for _ in made]
        todo = [i for i, change in enumerate(made) if not change.empty]
        if not todo:
            return made
        disk = self.disk if durable else None
        todo_args = [self._arguments.commit(made[i], tokens[i]) for i in todo]
        try:
            answers = run_many(self.client, "commit", self._keys(), todo_args, disk)
        except LedgerFault:  # one of them cannot be written: each alone, and none twice, for the tokens are the same
            answers = [None] * len(todo)
        for i, args, answer in zip(todo, todo_args, answers, strict=True):
            made[i] = self._settled_apart(made[i], args, answer, changes[i][1], disk)
        return made

    def _settled_apart(self, change: Change, args: Sequence[Any], answer: Any, make: Make, disk: Disk | None) -> Change:
        """A change that cannot be written is set aside, with its record; the others go on (docs, "Outage or fault")."""
        try:
            if answer is None:
                answer = run_many(self.client, "commit", self._keys(), [args], disk)[0]
            return self._settled(change, answer, make, disk)
        except LedgerFault as error:
            record = change.record
            tell("record.failed", request_id=record.id, endpoint=record.endpoint, error=str(error))
            self.isolate(record.id, str(error))
            assert change.before is not None  # noqa: S101  (only accept makes a record)
            return change._replace(verdict="fault", after=change.before, events=())

    def _settled(self, change: Change, answer: Any, make: Make, disk: Disk | None = None) -> Change:
        wanted: tuple[Long, ...] = tuple(set(COMMON) | set(change.after.long))
        request_id = change.record.id
        for _ in range(TRIES):
            self.clock.heard(answer[1])
            if answer[0] == 1:
                self.counted(answer[3])
                after = change.after._replace(record=altered(change.record, version=answer[2]))
                return change._replace(after=after)
            fresh = (
                self.load(request_id, wanted=wanted, output=change.after.output is not None) if answer[0] == 0 else None
            )
            if fresh is None:  # pruned meanwhile: nobody is waiting any more
                assert change.before is not None  # noqa: S101  (only accept makes a record)
                return change._replace(verdict="unknown", after=change.before, events=())
            change = make(fresh, self.now())
            if change.empty:
                return change
            args = self._arguments.commit(change, secrets.token_hex(6))
            answer = run_many(self.client, "commit", self._keys(), [args], disk)[0]
        fault = f"record {request_id} changed {TRIES} times while one change was made"
        raise LedgerError(fault)

    def wish(self, request_id: str, wish: Mapping[str, Any], tenant: str | None = None) -> str:
        """Keep a cancel for a request that is not known yet: `kept`, `known`, `ended`, `replaced` (see `replacing`).

        Of a `tenant` it waits for a request of that tenant alone; each has room for a part of `wishes_max`.
        """
        most, whose = self._wishes_max, ""
        if tenant is not None:
            most, whose = max(1, most // TENANTS_PART), f"{tenant}/"
        args = [request_id, json.dumps(wish), WISH_KEPT_MS, most, whose]
        return ("known", "kept", "ended", "replaced")[int(run(self.client, "early_cancel", [self.names.prefix], args))]

    def isolate(self, request_id: str, fault: str) -> None:
        """A row that cannot be read stops nobody: its lease runs out, and from the tenth time on it is parked."""
        self.fault_noted(request_id, fault)
        with mapped():
            self.client.zadd(self.names.key("timer"), {request_id: self.now() + 3_600_000}, xx=True)

    def fault_noted(self, request_id: str, fault: str) -> None:
        """Why a record could not be worked on, for whoever looks (`parked_requests`); the last 10,000 of a week."""
        key = self.names.key("unreadable")
        with mapped():
            if int(self.client.hlen(key)) < FAULTS_MAX or self.client.hexists(key, request_id):
                self.client.hset(key, request_id, fault[:500])
                self.client.expire(key, 7 * 24 * 3600)

    def counted(self, changes: int) -> None:
        """How many changes the ledger has seen: one that comes back with less has lost writes (HARDENING 19)."""
        self.changes = max(self.changes, int(changes))

    def _keys(self) -> list[str]:
        return [self.names.prefix, self.names.events]
