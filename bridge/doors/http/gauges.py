"""Ledger-wide gauges, read when somebody scrapes: the same in every process, so `max by`, never `sum`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from bridge.engine.control.engine_lag import TOLD, budget_used, engine_lag
from bridge.errors import BridgeError
from bridge.job.enums import Phase, Step
from bridge.ledger import inspect_server, run_a_script
from bridge.ledger.endpoints import ages, gpu_time
from bridge.runtime.look import Flight, Look

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.ledger import Ledger

Gauge = tuple[str, str, Mapping[str, str], float]
#: Seconds; under Prometheus' `scrape_timeout`, which is no longer than its interval.
WAIT_S = 2.0
_LIVE = [phase for phase in Phase if phase is not Phase.CLOSED]


class Gauges:
    """Called by whoever scrapes. Answers within WAIT_S, whatever hangs: a scrape that comes too late is none."""

    def __init__(
        self, ledger: Ledger, control: Control, pressure: Pressure, *, probe: str, broker_answers: Callable[[], None]
    ) -> None:
        """`probe` is a key that may be written; `broker_answers` raises OSError when it does not."""
        self._ledger = Look(lambda: list(_of_ledger(ledger, control, pressure, probe)), WAIT_S)
        self._broker = Look(broker_answers, WAIT_S)

    def __call__(self) -> Iterator[Gauge]:
        """(name, help, labels, value); of the ledger nothing while it is away, or writes nothing."""
        ledger, broker = self._ledger.begin(), self._broker.begin()
        yield from self._of_ledger(ledger)
        yield "bridge_broker_up", "Whether this process reaches the broker.", {}, not self._broker.fault(broker)

    def _of_ledger(self, flight: Flight[list[Gauge]]) -> Iterator[Gauge]:
        try:
            found = self._ledger.found(flight) or []
        except BridgeError:
            found = []
        yield from found
        up = any(name == "bridge_engines" for name, *_ in found)
        yield "bridge_ledger_up", "Whether this process can read and write the ledger.", {}, up


def _of_ledger(ledger: Ledger, control: Control, pressure: Pressure, probe: str) -> Iterator[Gauge]:
    """Raises BridgeError, or ends early, where it writes nothing: what engines would have written is not there."""
    ratio = inspect_server(ledger.client).memory_ratio
    yield "bridge_ledger_memory_ratio", "Used part of the ledger's maxmemory.", {}, ratio
    try:
        run_a_script(ledger.client, probe)
    except BridgeError:
        return
    yield from _read(ledger, control, pressure)


def _read(ledger: Ledger, control: Control, pressure: Pressure) -> Iterator[Gauge]:
    for endpoint in filter(control.in_use, ledger.endpoints()):
        counts, scheduled = ledger.counts(endpoint), ledger.scheduled(endpoint)
        phases = {phase.value: counts.get(phase.value, 0) for phase in _LIVE}
        phases[Phase.ACCEPTED.value] = max(0, phases[Phase.ACCEPTED.value] - scheduled)
        for phase, count in {**phases, "SCHEDULED": scheduled}.items():
            yield "bridge_requests", "Requests by phase.", {"endpoint": endpoint, "phase": phase}, count
        spent = gpu_time.read(ledger, endpoint)
        yield "bridge_gpu_seconds_today", "executionTime of today (UTC).", {"endpoint": endpoint}, spent.ms / 1000
        twice = counts.get("paid_twice_ms", 0) / 1000
        yield "bridge_gpu_paid_twice_seconds", "GPU time paid twice; should be 0.", {"endpoint": endpoint}, twice
        verdict = control.verdict(endpoint)
        lag = engine_lag(control, endpoint)
        yield "bridge_engine_lag_seconds", "How late work is that an engine more could do.", {"endpoint": endpoint}, lag
        for op in TOLD:
            used = budget_used(control, endpoint, op)
            labels = {"endpoint": endpoint, "op": op.value}
            yield "bridge_budget_used_ratio", "Used part of the calls that RunPod allows now.", labels, used
        yield "bridge_endpoint_verdict", "1 for the verdict that holds.", {"endpoint": endpoint, "verdict": verdict}, 1
    lags = ages.lags(ledger)
    yield "bridge_oldest_seconds", "Age of the oldest request that waits to be submitted.", {}, lags["oldest"]
    yield "bridge_due_lag_seconds", "How late the latest due poll is.", {}, lags[Step.POLL.value]
    yield "bridge_finish_lag_seconds", "How late the latest due finish is.", {}, lags[Step.FINISH.value]
    yield (
        "bridge_outbox_lag_seconds",
        "How long the oldest event has waited for RabbitMQ.",
        {},
        lags["outbox"],
    )
    owed_since = ledger.callbacks.oldest_ms()
    late = max(0, ledger.now() - owed_since) / 1000 if owed_since else 0
    yield "bridge_callbacks_owed", "Callbacks that no receiver has taken yet.", {}, ledger.callbacks.count()
    yield "bridge_callback_lag_seconds", "Since when the oldest of them is owed.", {}, late
    yield (
        "bridge_result_expiry_seconds",
        "Least time until RunPod forgets a result that may be there.",
        {},
        lags["expiry"],
    )
    yield (
        "bridge_ledger_rollbacks",
        "How often the ledger came back without its latest writes.",
        {},
        ledger.engines.rollbacks(),
    )
    yield "bridge_engines", "Engines alive.", {}, ledger.engines.count()
    yield (
        "bridge_commands_later",
        "Control tasks for later; chord bodies that wait for the broker.",
        {},
        ledger.later.count(),
    )
    for queue, waiting in ledger.follow_ups.unread().items():
        yield "bridge_follow_ups_unread", "What follows requests, in a queue nobody reads.", {"queue": queue}, waiting
    closed = pressure.closed()
    yield (
        "bridge_intake_closed",
        "1 while nothing more is taken off the queue, and why.",
        {"reason": closed or ""},
        bool(closed),
    )
