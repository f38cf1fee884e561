"""Leases: the right to work on a record or an orphaned job, for as long as a token holds (I5, I15)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.errors import BridgeError
from bridge.job.change import OrphanJob
from bridge.job.clocks import submit_score
from bridge.job.document import Held
from bridge.job.enums import SUBMITS, Step
from bridge.job.record import Long
from bridge.ledger.records.read import COMMON
from bridge.ledger.records.write import Writer
from bridge.ledger.scripts import asked, run
from bridge.redis.outage import mapped
from bridge.redis.pipelined import Work, alone


@dataclass(frozen=True, slots=True)
class Claimed:
    """Leased records, and the token that holds them."""

    token: str
    step: Step
    records: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Due:
    """How much of one step an endpoint has to do."""

    endpoint: str
    step: Step
    ready: int
    wait_ms: int


class Leases(Writer):
    """Hands records out, and takes them back."""

    def due(self, *steps: Step) -> list[Due]:
        """What is to be done, per endpoint; nothing is taken."""
        answer = run(self.client, "due", [self.names.prefix], [step.value for step in steps])
        self.clock.heard(answer[0])
        return [Due(answer[i], Step(answer[i + 1]), answer[i + 2], answer[i + 3]) for i in range(1, len(answer), 4)]

    def claim(
        self,
        step: Step,
        wanted: Mapping[str, int],
        *,
        lease_ms: int,
        long: Sequence[Long] = COMMON,
        shares: Mapping[str, Any] | None = None,
    ) -> Claimed:
        """Lease due records: at most so many of each endpoint.

        `shares` are the caps and weights of submits: `{"endpoints": {name: cap}, "tenants": {name: {weight, cap}}}`;
        the tenant `*` stands for those that are not named, and not for requests without one.
        """
        return alone(self.client, self.claiming(step, wanted, lease_ms=lease_ms, long=long, shares=shares))

    def claiming(
        self,
        step: Step,
        wanted: Mapping[str, int],
        *,
        lease_ms: int,
        long: Sequence[Long] = COMMON,
        shares: Mapping[str, Any] | None = None,
    ) -> Work[Claimed]:
        """The same, in step with others' work."""
        token, pairs = secrets.token_hex(8), _pairs(wanted)
        if not pairs:
            return Claimed(token, step, ())
        args: list[Any] = [token, step.value, lease_ms, json.dumps(shares) if shares else "", self.changes]
        args += [len(long), *long, *pairs]
        answer = yield asked("claim", [self.names.prefix], args)
        self.clock.heard(answer[0])
        return Claimed(token, step, self._read(answer[1:], long))

    def begin_scheduled(self, limit: int = 500) -> tuple[int, int]:
        """Let requests whose `not_before` has come be submitted: how many, and ms until the next one (-1: none)."""
        moved, wait_ms = run(self.client, "due_requests", [self.names.prefix], [limit])
        return int(moved), int(wait_ms)

    def streams(self, wanted: Mapping[str, int], *, lease_ms: int) -> Claimed:
        """Records whose stream is to be read now, at most so many of each endpoint; the token is their reader."""
        token, pairs = secrets.token_hex(8), _pairs(wanted)
        if not pairs:
            return Claimed(token, Step.STREAM, ())
        answer = run(
            self.client, "claim_chunk_reads", [self.names.prefix], [token, lease_ms, len(COMMON), *COMMON, *pairs]
        )
        self.clock.heard(answer[0])
        return Claimed(token, Step.STREAM, self._read(answer[1:], COMMON))

    def timers(self, limit: int = 200) -> tuple[list[Held], int]:
        """Records one of whose clocks has run out, and how many ms until the next one (-1: none runs)."""
        wanted = (*COMMON, Long.INPUT)
        answer = run(self.client, "timers", [self.names.prefix], [limit, len(wanted), *wanted])
        self.clock.heard(answer[0])  # what has run out there has run out here
        return self._read(answer[2:], wanted), int(answer[1])

    def give_back(self, claimed: Claimed, unused: Iterable[Held]) -> int:
        """Return leases that were not used; a lease that is no longer ours is left alone."""
        args: list[Any] = [claimed.token, claimed.step.value]
        now = self.now()
        for held in unused:
            record = held.record
            args += (record.endpoint, record.id, submit_score(record) if claimed.step in SUBMITS else now)
        return int(run(self.client, "give_back", [self.names.prefix], args)) if len(args) > 2 else 0  # noqa: PLR2004

    def begins(self, token: str, request_id: str) -> bool:
        """This one of many claimed records is worked on now; whether the lease still holds.

        A process that dies before `survived` counts against it alone: after ten of them it is parked (HARDENING 14).
        """
        return bool(run(self.client, "poison_count", [self.names.prefix], [token, request_id, "begins"]))

    def survived(self, token: str, request_id: str) -> None:
        """Nothing died of it."""
        run(self.client, "poison_count", [self.names.prefix], [token, request_id, "survived"])

    def _read(self, flat: Sequence[Any], long: Sequence[Long]) -> list[Held]:
        found = []
        for i in range(0, len(flat), 3):
            try:
                found.append(self._held(flat[i], flat[i + 1], long, flat[i + 2]))
            except BridgeError as error:
                self.isolate(flat[i], str(error))
        return found

    def unreadable(self, limit: int = 100) -> dict[str, str]:
        """Records that cannot be worked on, and why: somebody has edited them, or a newer version wrote them."""
        with mapped():
            answer: Any = self.client.hscan(self.names.key("unreadable"), count=limit)
        return dict(list(answer[1].items())[:limit])

    def orphans(self, limit: int = 20, *, lease_ms: int = 60_000) -> list[OrphanJob]:
        """Jobs that no longer count and may still run."""
        answer = run(self.client, "orphan", [self.names.prefix], [limit, lease_ms])
        return [OrphanJob(*json.loads(member)) for member in answer[1:]]

    def orphan_seen(self, orphan: OrphanJob, *, again_ms: int | None, paid_twice_ms: int = 0) -> None:
        """Look at an orphan again, or (None) forget it, and book what it cost, once."""
        again = "" if again_ms is None else again_ms
        args = [orphan.as_json(), orphan.endpoint, orphan.request_id, again, paid_twice_ms]
        run(self.client, "orphan_seen", [self.names.prefix], args)


def _pairs(wanted: Mapping[str, int]) -> list[Any]:
    """As the scripts take them: an endpoint, how many, the next endpoint; without those of which none is wanted."""
    return [part for endpoint, count in wanted.items() if count > 0 for part in (endpoint, count)]
