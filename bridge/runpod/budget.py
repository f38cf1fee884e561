"""The calls that all processes together may make to one endpoint and operation (I9): a window and concurrency slots.

A permit is out from its grant until its call has ended (or its slot's deadline, when the process died), and counts for
10 s more: RunPod saw the call somewhere in between, so no 10 s of RunPod's clock can hold more than the limit. What
that costs is the calls' own latency: 20 ms of 10 s, 0.2 % of the rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from bridge.runpod.operations import LIMITS, Limit, Operation
from bridge.runpod.shared import read, run, write
from bridge.telemetry import tell

#: What is left of the rate after a 429, and how much of the whole comes back each second.
CUT, RECOVERY = 0.8, 0.005
#: Ended calls are told to Redis with the next grant, or after this many seconds.
FLUSH_S = 0.2


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
        overrides: Mapping[str, Mapping[Operation, Limit]] | None = None,
    ) -> None:
        """`overrides` are limits of single endpoint ids."""
        self._client = client
        self._prefix = prefix
        self._limits = limits
        self._overrides = overrides or {}
        self._lock = threading.Lock()
        self._ended: dict[tuple[str, Operation], dict[str, list[int]]] = {}
        self._flushed_at = time.monotonic()

    def acquire(self, endpoint_id: str, op: Operation, wanted: int, *, token: str, slot_ms: int) -> Grant:
        """Up to `wanted` permits. A process that dies with them loses them `slot_ms` later."""
        granted, wait = run(self._client, "acquire", self._prefix, self._args(endpoint_id, op, wanted, token, slot_ms))
        return Grant(int(granted), int(wait))

    def release(self, endpoint_id: str, op: Operation, token: str, *, used: int, unused: int) -> None:
        """Calls have ended, or were never made. Told to the others with the next grant, or by `flush`."""
        with self._lock:
            counts = self._ended.setdefault((endpoint_id, op), {}).setdefault(token, [0, 0])
            counts[0] += used
            counts[1] += unused

    def flush(self) -> None:
        """Tell the others what has ended; called by the sweep, for the time when nobody asks."""
        if time.monotonic() - self._flushed_at < FLUSH_S:
            return
        self._flushed_at = time.monotonic()
        with self._lock:
            waiting = [key for key, tokens in self._ended.items() if tokens]
        for endpoint_id, op in waiting:
            run(self._client, "acquire", self._prefix, self._args(endpoint_id, op, 0, "", 0))

    def throttled(self, endpoint_id: str, op: Operation, delay_s: float | None) -> None:
        """RunPod said 429: pause as it asked, and let everybody go on slower for a while."""
        args = [endpoint_id, op.value, int((delay_s or 0) * 1000), CUT, RECOVERY]
        if run(self._client, "throttled", self._prefix, args):
            tell("budget.throttled", endpoint=endpoint_id, op=op.value, delay_s=delay_s)

    def raise_to(self, endpoint_id: str, running_workers: int) -> None:
        """Health has seen so many RunPod workers running: the limit is the larger of base and workers' share."""
        for op in (Operation.RUN, Operation.RUNSYNC, Operation.STATUS, Operation.STREAM):
            limit = self.limit(endpoint_id, op)
            if running_workers * limit.per_worker > limit.calls:
                key = self._key(endpoint_id, op)
                write(self._client, key, {"workers": running_workers, "workers_at": self._now()})

    def limit(self, endpoint_id: str, op: Operation) -> Limit:
        """The table's figures for one endpoint and operation."""
        return self._overrides.get(endpoint_id, {}).get(op) or self._limits[op]

    def state(self, endpoint_id: str) -> dict[str, Any]:
        """What is left of each operation's budget, for health."""
        told: dict[str, Any] = {}
        for op in (Operation.RUN, Operation.STATUS, Operation.CANCEL):
            found = read(self._client, self._key(endpoint_id, op))
            out = sum(int(count) for count in read(self._client, self._key(endpoint_id, op) + ":held").values())
            recent = sum(int(count) for name, count in found.items() if name.startswith("b:") and self._in_window(name))
            limit = self.limit(endpoint_id, op)
            told[op.value] = {
                "limit": limit.calls,
                "left": max(0, limit.calls - recent - out),
                "under_way": out,
                "cuts_by_429": int(found.get("cuts", 0)),
            }
        return told

    def _in_window(self, field: str) -> bool:
        return (int(field[2:]) + 1) * 250 + 10_000 > self._now()

    def _now(self) -> int:
        seconds, micros = self._client.time()  # type: ignore[misc]
        offset = self._client.hget(f"{self._prefix}meta", "clock_offset")
        return int(seconds) * 1000 + int(micros) // 1000 + int(offset or 0)  # type: ignore[arg-type]

    def _key(self, endpoint_id: str, op: Operation) -> str:
        return f"{self._prefix}budget:{endpoint_id}:{op.value}"

    def _args(self, endpoint_id: str, op: Operation, wanted: int, token: str, slot_ms: int) -> list[Any]:
        with self._lock:
            ended = self._ended.pop((endpoint_id, op), {})
        limit = self.limit(endpoint_id, op)
        args: list[Any] = [
            endpoint_id,
            op.value,
            wanted,
            token,
            slot_ms,
            limit.calls,
            limit.concurrent,
            limit.per_worker,
            RECOVERY,
        ]
        for name, (used, unused) in ended.items():
            args += (name, used, unused)
        return args
