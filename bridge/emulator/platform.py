"""All parts of the emulated platform, put together on one event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bridge.emulator.admin.actions import Admin
from bridge.emulator.admin.routes import Routes
from bridge.emulator.api.app import Front, Others
from bridge.emulator.config import EndpointConfig, Handler
from bridge.emulator.model.batches import Batches
from bridge.emulator.model.calls import Calls
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.faults import Faults
from bridge.emulator.model.webhooks import Webhooks
from bridge.emulator.workers.builtin import BuiltinFleet
from bridge.emulator.workers.fleet import Fleet
from bridge.emulator.workers.processes import ProcessFleet
from bridge.emulator.workers.protocol import Protocol

#: Ends the path at which the handler processes of an endpoint's batches ask for jobs.
BATCH_LANE = "--batch"


class Platform:
    """Endpoints, their RunPod workers, faults, webhooks, clock and HTTP front."""

    def __init__(
        self,
        endpoints: Mapping[str, EndpointConfig],
        api_keys: frozenset[str],
        handlers: Mapping[str, Handler],
        *,
        speed: float,
        limits: bool,
        loopback: bool,
    ) -> None:
        self.clock = Clock(speed)
        self.endpoints = {name: Endpoint(name, config, self.clock) for name, config in endpoints.items()}
        faults, calls = Faults(), Calls()
        self._webhooks = Webhooks(self.clock, faults)
        self._processes: dict[str, ProcessFleet] = {}
        self._fleets: list[Fleet] = []
        for endpoint in list(self.endpoints.values()):
            self._man(endpoint, endpoint.name, handlers.get(endpoint.name))
            lane = Endpoint(endpoint.name, replace(endpoint.config, workers_min=0), self.clock)
            self._man(lane, f"{endpoint.name}{BATCH_LANE}", handlers.get(endpoint.name))
            endpoint.batches = Batches(endpoint.name, endpoint.config, self.clock, lane)
        self.admin = Admin(self.clock, self.endpoints, faults, self._webhooks, calls)
        self.front = Front(
            self.clock,
            self.endpoints,
            faults,
            calls,
            api_keys,
            Others(Routes(self.admin).answer, Protocol(self._processes).answer),
            limits=limits,
            loopback=loopback,
        )

    def _man(self, endpoint: Endpoint, path: str, handler: Handler | None) -> None:
        """Give an endpoint its RunPod workers; handler processes ask for jobs below `path`."""
        fleet: Fleet
        if handler is None:
            fleet = BuiltinFleet(endpoint)
        else:
            fleet = self._processes[path] = ProcessFleet(endpoint, handler, path)
        endpoint.runners = fleet
        endpoint.ended = self._webhooks.ended
        self._fleets.append(fleet)

    def start(self, origin: str) -> None:
        """Start the RunPod workers that workers_min asks for; handler processes talk to `origin`."""
        for processes in self._processes.values():
            processes.origin = origin
        for fleet in self._fleets:
            fleet.start()

    async def stop(self) -> None:
        """End handler processes and deliveries, forget all timers."""
        for fleet in self._fleets:
            fleet.stop()
        for processes in self._processes.values():
            await processes.gone()
        await self._webhooks.stop()
        self.clock.close()
