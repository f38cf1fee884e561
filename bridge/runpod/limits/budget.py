"""The calls that all processes together may make to one endpoint and operation (I9): a window and concurrency slots.

A permit is out from its grant until its call has ended (or its slot's deadline, when the process died), and counts for
10 s more: RunPod saw the call somewhere in between, so no 10 s of RunPod's clock can hold more than the limit. What
that costs is the calls' own latency: 20 ms of 10 s, 0.2 % of the rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import redis

from bridge.errors import LedgerError
from bridge.redis.pipelined import Work, alone
from bridge.runpod.limits.scripts import WHAT, asked, first_in, ledger_now, read, run, write
from bridge.runpod.operations import LIMITS, Limit, Operation
from bridge.telemetry import tell

#: How much of the whole comes back each second, once a limit learned from a 429 was held long enough.
RECOVERY = 0.005
#: Ended calls are told to Redis with the next grant, or after this many seconds.
FLUSH_S = 0.2
#: An endpoint's budget is forgotten when nobody has asked for so long.
KEEP_MS = 3_600_000
#: Seconds that this process lets no call leave after a 429: as long as the shared pause, which needs a round trip.
HALT_S = 0.5
#: How long the number of running RunPod workers is believed.
WORKERS_MS = 60_000

Kind = Literal["", "small", "paced"]


@dataclass(frozen=True, slots=True)
class Grant:
    """Permits handed out, and how long to wait when there were none."""

    count: int
    retry_after_ms: int


class Budget:
    """Thread-safe. One script call for a batch of permits, which carries back those that have ended since."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "bridge:_:",
        limits: Mapping[Operation, Limit] = LIMITS,
        limit_of: Callable[[str, Operation, Limit], Limit] | None = None,
        now: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`limit_of` departs from the table for single endpoints: it is given the id, the operation, the row.

        `now` is ledger time by this process' own clock, None while it does not know it.
        """
        self.client = client
        self._prefix = prefix
        self._limits = limits
        self._limit_of = limit_of
        self._now = now
        self._lock = threading.Lock()
        self._out: dict[tuple[str, Operation], dict[str, int]] = {}  # permits under way, by token
        self._untold: dict[tuple[str, Operation], dict[str, int]] = {}  # of which tokens ends wait; how many unused
        self._flushed_at = time.monotonic()
        self._halted: dict[tuple[str, Operation], float] = {}

    def acquire(
        self, endpoint_id: str, op: Operation, wanted: int, *, token: str, slot_ms: int, kind: Kind = ""
    ) -> Grant:
        """Up to `wanted` permits. A process that dies with them loses them `slot_ms` later.

        `small` is for single calls beside the loops': refused, they have 10 % of the limit left to them for a while.
        `paced` is for calls in bulk: beyond half of the limit they are spread evenly over the seconds.
        """
        return alone(
            self.client, self.acquiring(endpoint_id, op, wanted, token=token, slot_ms=slot_ms, kind=kind), WHAT
        )

    def acquiring(
        self, endpoint_id: str, op: Operation, wanted: int, *, token: str, slot_ms: int, kind: Kind = ""
    ) -> Work[Grant]:
        """The same, in step with others' work."""
        granted, wait = yield from self._acquiring(endpoint_id, op, wanted, token, slot_ms, kind)
        if granted:
            with self._lock:
                self._out.setdefault((endpoint_id, op), {})[token] = granted
        return Grant(granted, wait)

    def release(self, endpoint_id: str, op: Operation, token: str, *, used: int, unused: int) -> None:
        """Calls have ended, or were never made. Told to the others with the next grant, or by `flush`."""
        with self._lock:
            out = self._out.get((endpoint_id, op), {})
            if token in out:
                out[token] = max(0, out[token] - used - unused)
                untold = self._untold.setdefault((endpoint_id, op), {})
                untold[token] = untold.get(token, 0) + unused

    def flush(self) -> None:
        """Tell the others what has ended; called by the sweep, for the time when nobody asks."""
        if time.monotonic() - self._flushed_at < FLUSH_S:
            return
        self._flushed_at = time.monotonic()
        with self._lock:
            waiting = [key for key, tokens in self._untold.items() if tokens]
        for endpoint_id, op in waiting:
            alone(self.client, self._acquiring(endpoint_id, op, 0, "", 0), WHAT)

    def throttled(self, endpoint_id: str, op: Operation, delay_s: float | None) -> None:
        """RunPod said 429: pause, as long as it asked; then single calls find out what it takes (docs/budget.md)."""
        limit = self.limit(endpoint_id, op)
        pause_ms = int((delay_s or 0) * 1000)
        with self._lock:
            self._halted[endpoint_id, op] = time.monotonic() + max(HALT_S, pause_ms / 1000)
        args = [endpoint_id, op.value, pause_ms, limit.calls, limit.per_worker, RECOVERY]
        if run(self.client, "throttled", self._prefix, args, self._now()):
            tell("budget.throttled", endpoint=endpoint_id, op=op.value, delay_s=delay_s)

    def raise_to(self, endpoint_id: str, running_workers: int) -> None:
        """Health has seen so many RunPod workers running: the limit is the larger of base and workers' share."""
        heard = {"workers": running_workers, "workers_at": ledger_now(self.client, self._prefix)}
        for op in Operation:
            if self.limit(endpoint_id, op).per_worker:
                write(self.client, self._key(endpoint_id, op), heard, keep_ms=KEEP_MS)

    def limit(self, endpoint_id: str, op: Operation) -> Limit:
        """The table's figures for one endpoint and operation."""
        base = self._limits[op]
        return self._limit_of(endpoint_id, op, base) if self._limit_of is not None else base

    def halted(self, endpoint_id: str, op: Operation) -> bool:
        """Whether this process has just heard a 429: calls that have permits and have not left yet stay."""
        until = self._halted.get((endpoint_id, op))
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        with self._lock:
            self._halted.pop((endpoint_id, op), None)
        return False

    def may_ask(self, endpoint_id: str, every_ms: int) -> bool:
        """Whether this process may ask for the endpoint's health now; one of all processes in that time."""
        return first_in(self.client, f"{self._prefix}asked:{endpoint_id}", every_ms)

    def state(self, endpoint_id: str) -> dict[str, Any]:
        """What is left of each operation's budget, for health."""
        now = ledger_now(self.client, self._prefix)
        ops = Operation.RUN, Operation.STATUS, Operation.CANCEL
        return {op.value: self._state(endpoint_id, op, now) for op in ops}

    def state_of(self, endpoint_id: str, op: Operation) -> dict[str, int]:
        """`limit`, `left`, `under_way`, `cuts_by_429` of one operation."""
        return self._state(endpoint_id, op, ledger_now(self.client, self._prefix))

    def _state(self, endpoint_id: str, op: Operation, now: int) -> dict[str, int]:
        found = read(self.client, self._key(endpoint_id, op))
        out = sum(int(count) for count in read(self.client, self._key(endpoint_id, op) + ":held").values())
        recent = sum(int(count) for name, count in found.items() if name.startswith("b:") and _in_window(name, now))
        limit = _limit_now(found, now, self.limit(endpoint_id, op))
        held_back = "probing" in found or float(found.get("pause_until", 0)) > now  # after a 429
        return {
            "limit": limit,
            "left": 0 if held_back else max(0, limit - recent - out),
            "under_way": out,
            "cuts_by_429": int(found.get("cuts", 0)),
        }

    def _key(self, endpoint_id: str, op: Operation) -> str:
        return f"{self._prefix}budget:{endpoint_id}:{op.value}"

    def _acquiring(
        self, endpoint_id: str, op: Operation, wanted: int, token: str, slot_ms: int, kind: Kind = ""
    ) -> Work[tuple[int, int]]:
        key = endpoint_id, op
        with self._lock:
            untold = self._untold.pop(key, {})
            left = {name: self._out[key].get(name, 0) for name in untold}
        limit = self.limit(endpoint_id, op)
        args: list[Any] = [endpoint_id, op.value, wanted, token, slot_ms, limit.calls, limit.concurrent]
        args += (limit.per_worker, RECOVERY, kind)
        for name, unused in untold.items():
            args += (name, left[name], unused)
        try:
            granted, wait = yield asked("acquire", self._prefix, args, self._now())
        except LedgerError:
            with self._lock:  # told again with the next call, which is right also when this one did arrive
                again = self._untold.setdefault(key, {})
                for name, unused in untold.items():
                    again[name] = again.get(name, 0) + unused
            raise
        with self._lock:
            for name, count in left.items():
                if count == 0:
                    self._out[key].pop(name, None)
        return int(granted), int(wait)


def _limit_now(found: Mapping[str, str], now: int, limit: Limit) -> int:
    """The limit that holds now, as `acquire.lua` reckons it."""
    whole = limit.calls
    if "workers" in found and now - int(found["workers_at"]) < WORKERS_MS:
        whole = max(whole, int(found["workers"]) * limit.per_worker)
    if "limit" not in found:
        return whole
    growing = max(0, now - int(found["limit_at"]) - int(found.get("hold", 0))) / 1000
    return max(1, int(min(whole, float(found["limit"]) + growing * RECOVERY * whole)))


def _in_window(field: str, now: int) -> bool:
    return (int(field[2:]) + 1) * 250 + 10_000 > now
