"""The submit loop by itself: a real Redis and the emulator, and nobody else who works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bridge.emulator import Emulator, EndpointConfig
from bridge.engine.calls.threads import Callers
from bridge.engine.calls.write_queue import WriteQueue
from bridge.engine.endpoint_health import EndpointHealth
from bridge.engine.submit.submit import Submit
from bridge.engine.watch.poll_pace import Pace
from bridge.job.change import Rules
from bridge.ledger import Ledger, Names, connect
from bridge.runpod.client import RunPodClient
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.circuit_breaker import CircuitBreaker
from bridge.settings import Settings
from bridge.settings.config_file import EndpointBook
from tests.support.house import API_KEY, born


@dataclass(frozen=True)
class Submitter:
    """`submit` with what it works on; `writes` is not started."""

    submit: Submit
    ledger: Ledger
    emulator: Emulator
    callers: Callers
    writes: WriteQueue

    def accept(self, *request_ids: str) -> None:
        """Requests for `demo`."""
        self.ledger.accept_many([(one, born(one, self.ledger)) for one in request_ids])


@contextmanager
def submitter(redis_url: str, settings: Settings | None = None) -> Iterator[Submitter]:
    """For the endpoint `demo`."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    with Emulator(endpoints={"demo": EndpointConfig()}, api_keys=[API_KEY]) as emulator:
        runpod = RunPodClient(emulator.base_url, lambda: API_KEY)
        budget = Budget(client)
        endpoint_health = EndpointHealth(CircuitBreaker(client), budget, ledger.now)
        writes = WriteQueue(ledger, lambda _: None)
        callers = Callers("test", 16)
        pace, book = Pace(ledger.runs, budget, lambda name: name), EndpointBook(settings or Settings())
        submit = Submit(
            ledger, writes, endpoint_health, book, callers, callers, pace, lambda _: runpod, 60_000,
            60_000, lambda *_: None,
        )  # fmt: skip
        yield Submitter(submit, ledger, emulator, callers, writes)
        callers.close()
        runpod.close()
    client.close()
