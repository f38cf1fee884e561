"""RunPod's limits: calls per 10 s and calls at once, per operation of one endpoint."""

from __future__ import annotations

from bridge.emulator.config import LIMITED_AS, Limit
from bridge.emulator.model.endpoint import Endpoint

WINDOW_S = 10.0


class Gauge:
    """How much of one limit is used: calls in this window, calls at once."""

    __slots__ = ("at_once", "calls", "limit", "window")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.window = -1.0
        self.calls = 0
        self.at_once = 0


class Limits:
    """The limits of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._gauges = {op: Gauge(limit) for op, limit in endpoint.config.limits.items()}

    def gauge(self, op: str) -> Gauge | None:
        """Return what counts calls of `op`; None when nothing limits them."""
        return self._gauges.get(LIMITED_AS.get(op, op))

    def enter(self, gauge: Gauge | None, op: str) -> bool:
        """Count one call in; False when it is over a limit. Who is let in takes one off `at_once` on leaving."""
        if op in {"run", "runsync"} and self._queue_full():
            return False
        if gauge is None:
            return True
        now = self._endpoint.clock.now()
        if now - gauge.window >= WINDOW_S:
            gauge.window = now - now % WINDOW_S
            gauge.calls = 0
        limit = gauge.limit
        if gauge.calls >= limit.rate and gauge.calls >= self._raised():
            return False
        if limit.concurrent is not None and gauge.at_once >= limit.concurrent:
            return False
        gauge.calls += 1
        gauge.at_once += 1
        return True

    def _queue_full(self) -> bool:
        """Return whether the old queue limit is on and reached: over 50 jobs and over workers_max x 500."""
        config, queued = self._endpoint.config, self._endpoint.queued
        return config.queue_limit and queued > 50 and queued > config.workers_max * 500  # noqa: PLR2004

    def _raised(self) -> int:
        config = self._endpoint.config
        return self._endpoint.runners.counts()["running"] * config.requests_per_worker
