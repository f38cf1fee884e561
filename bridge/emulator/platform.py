"""All parts of the emulated platform, put together on one event loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bridge.emulator.admin.actions import Admin
from bridge.emulator.admin.routes import Console
from bridge.emulator.api.app import Front, Others
from bridge.emulator.config import EndpointConfig
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.faults import Faults
from bridge.emulator.model.webhooks import Webhooks
from bridge.emulator.workers.builtin import BuiltinFleet
from bridge.emulator.workers.fleet import Fleet
from bridge.emulator.workers.processes import ProcessFleet
from bridge.emulator.workers.protocol import Protocol


class Platform:
    """Endpoints, their RunPod workers, faults, webhooks, clock and HTTP front."""

    def __init__(
        self,
        endpoints: Mapping[str, EndpointConfig],
        api_keys: frozenset[str],
        handlers: Mapping[str, Path],
        *,
        speed: float,
        limits: bool,
        loopback: bool,
    ) -> None:
        self.clock = Clock(speed)
        self.faults = Faults()
        self.webhooks = Webhooks(self.clock, self.faults)
        self.endpoints: dict[str, Endpoint] = {}
        for name, config in endpoints.items():
            endpoint = Endpoint(name, config, self.clock)
            fleet: Fleet = ProcessFleet(endpoint, handlers[name]) if name in handlers else BuiltinFleet(endpoint)
            endpoint.fleet = fleet
            endpoint.ended = self.webhooks.ended
            self.endpoints[name] = endpoint
        self.front = Front(self.clock, self.endpoints, self.faults, api_keys, limits=limits, loopback=loopback)
        self.admin = Admin(self)
        self.protocol = Protocol(self.endpoints)
        self.front.others = Others(console=Console(self.admin).answer, protocol=self.protocol.answer)

    def start(self, origin: str) -> None:
        """Start the RunPod workers that workers_min asks for; handler processes talk to `origin`."""
        for endpoint in self.endpoints.values():
            if isinstance(endpoint.fleet, ProcessFleet):
                endpoint.fleet.origin = origin
            endpoint.fleet.start()

    async def stop(self) -> None:
        """End handler processes and deliveries, forget all timers."""
        for endpoint in self.endpoints.values():
            endpoint.fleet.stop()
        for endpoint in self.endpoints.values():
            if isinstance(endpoint.fleet, ProcessFleet):
                await endpoint.fleet.gone()
        await self.webhooks.stop()
        self.clock.close()
