"""What one process has: settings in; ledger, clients, and the engine's plain functions out. Nothing runs yet.

`current()` is this process' own, built at first use and built anew after a fork, so that no connection and no key is
ever shared between processes. What only a bridge worker needs (Celery, the doors, the loops) is not loaded here: a
command that asks the ledger does without.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge import __version__
from bridge.engine.accept.accept import Accept
from bridge.engine.accept.back_pressure import Pressure
from bridge.engine.control import Control
from bridge.engine.endpoint_health import EndpointHealth
from bridge.engine.large_outputs import LargeOutputs
from bridge.engine.notifier import Notifier
from bridge.errors import SettingsError
from bridge.ledger import Ledger, Names, connect, inspect_server, run_a_script
from bridge.ledger.endpoints import pause as operators
from bridge.ledger.endpoints.load import measure
from bridge.ledger.server.disk import Disk, fault_of
from bridge.object_store import Blobs
from bridge.process.from_settings import marks, rules
from bridge.redis.address import is_sentinel
from bridge.runpod.client import RunPodClient
from bridge.runpod.limits.budget import Budget
from bridge.runpod.limits.circuit_breaker import CircuitBreaker
from bridge.runpod.operations import Limit, Operation
from bridge.settings import Settings, load
from bridge.settings.config_file import EndpointBook
from bridge.settings.unknown_variables import strange_names
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery

    from bridge.engine.tell.celery_states import States
    from bridge.job.transitions.watching import Purge


class Components:
    """Built once per process; all of it is thread-safe."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Connects to nothing yet; what cannot work is found by `check`."""
        self.settings = settings
        self.app = app
        self.names = Names(settings.bridge_namespace)
        self.client = connect(settings.ledger_url, variable=settings.ledger_variable)
        self.ledger = Ledger(
            self.client,
            self.names,
            rules(settings),
            wishes_max=settings.bridge_wishes_max,
            dead_max=settings.bridge_dead_max,
            dead_originals=settings.bridge_dead_originals,
            relayed=settings.amqp,
        )
        if settings.bridge_ledger_fsync == "wait":
            self.ledger.disk = Disk(self.client, self.names.key("fsync"), is_sentinel(settings.ledger_url))
        self.book = EndpointBook(settings)
        self.budget = Budget(self.client, self.names.prefix, limit_of=self._limit_of, now=self._now)
        self.gate = CircuitBreaker(self.client, self.names.prefix, self._now)
        self.endpoint_health = EndpointHealth(
            self.gate,
            self.budget,
            self.ledger.now,
            int(settings.bridge_gate_max_s * 1000),
            lambda endpoint, endpoint_id: self.client_of(endpoint).health(endpoint_id),
            self.book.stamp,
        )
        self.endpoint_health.decides = False
        self.pressure = Pressure(lambda: measure(self.ledger), marks(settings), self.book.max_waiting)
        self.notifier = Notifier(self.ledger, self.pressure, self._states)
        self._clients: dict[str, RunPodClient] = {}
        self._clients_lock = threading.Lock()
        self.accept = Accept(self.ledger, self.book, settings)
        blobs = (
            Blobs(settings.bridge_blob_url, settings.bridge_blob_options, timeout_s=settings.bridge_blob_timeout_s)
            if settings.bridge_blob_url
            else None
        )
        self.outputs = LargeOutputs(
            self.ledger,
            blobs,
            settings.bridge_inline_limit,
            settings.bridge_blob_timeout_s,
            settings.bridge_blob_link_s,
        )
        self.control = Control(
            self.ledger,
            self.book,
            self.endpoint_health,
            self.client_of,
            self.notifier.changed,
            settings.bridge_inline_limit,
            settings.bridge_message_limit,
            self.outputs.whole,
            self.outputs.link,
        )

    def client_of(self, endpoint: str) -> RunPodClient:
        """The HTTP client of an endpoint; one for all that share base URL and key."""
        found = self._clients.get(endpoint)
        if found is None:
            with self._clients_lock:
                found = self._clients.get(endpoint) or RunPodClient(
                    self.settings.runpod_endpoint_base_url,
                    lambda: self.book.api_key(endpoint),
                    connect_timeout_s=self.settings.bridge_connect_timeout_s,
                    read_timeout_s=self.settings.bridge_read_timeout_s,
                    # A connection for each thread that may call: one too few would be opened anew for each read.
                    pool_size=self.settings.bridge_stream_threads + 64,
                )
                self._clients[endpoint] = found
        return found

    def check(self) -> None:
        """Refuse a ledger that cannot be trusted. Raises SettingsError with every fault, or LedgerUnavailable."""
        variable = self.settings.ledger_variable
        server = inspect_server(self.client, variable)
        faults = server.faults(allow_eviction=self.settings.bridge_allow_eviction)
        disk = self.ledger.disk
        if disk is not None and (fault := fault_of(server, fails_over=disk.fails_over)):
            faults.append(fault)
        if faults:
            raise SettingsError(*faults)
        run_a_script(self.client, self.names.key("probe"), variable)
        self.ledger.engines.claim_schema(__version__)
        for says in strange_names():
            tell("settings.doubtful", setting=says.partition(" ")[0], says=says)
        if not self.book.has_key:  # once, by who starts to work; `bridge check` says it too
            setting, says = self.key_doubt()
            tell("settings.doubtful", setting=setting, says=says)
        if (fault := self.route_fault()) is not None:
            tell("settings.doubtful", setting="the way to RunPod", says=fault)

    def key_doubt(self) -> tuple[str, str]:
        """Which setting is to hold a key and holds none, and what follows."""
        follows = "RunPod will answer 401, and requests are refused or wait"
        if path := self.settings.runpod_api_key_file:  # goes before the variable, also while it is empty
            return "RUNPOD_API_KEY_FILE", f"names {path}, which is empty: {follows}; put the key into it"
        return "RUNPOD_API_KEY", f"is not set: {follows}; set it, or RUNPOD_API_KEY_FILE"

    def route_fault(self) -> str | None:
        """Why no call can reach RunPod by the proxy, CA bundle and address that are set; None when one may."""
        return self.client_of(next(iter(self.book.all()), "")).fault()

    def _states(self) -> States:
        """Celery's view of requests on their way."""
        from bridge.engine.tell.celery_states import States  # noqa: PLC0415  (loads Celery)

        return States(self.ledger, self.app, self.control.why.of, self.settings.celery_limit)

    def _now(self) -> int | None:
        """Ledger time, once the ledger has told it."""
        return self.ledger.now() if self.ledger.clock.known else None

    def _limit_of(self, endpoint_id: str, op: Operation, base: Limit) -> Limit:
        """The table's row with what the file departs from."""
        for row in self.book.limit_rows(endpoint_id, op.value):
            base = replace(base, **row.model_dump(exclude_none=True))
        return base

    def endpoint_id_of(self, name: str) -> str:
        """The id whose budget an endpoint's calls are counted on."""
        known = self.book.all().get(name)
        return known.id if known else name

    def last_purge(self, endpoint: str) -> Purge:
        """When the bridge last purged the endpoint's queue, and who asked for it."""
        return operators.last_purge(self.ledger, endpoint)


_lock = threading.Lock()
_built: tuple[int, Components] | None = None


def current(app: Celery) -> Components:
    """This process' own instance."""
    global _built  # noqa: PLW0603  (one per process, by pid)
    if _built is None or _built[0] != os.getpid():
        with _lock:
            if _built is None or _built[0] != os.getpid():
                _built = (os.getpid(), Components(load(), app))
    return _built[1]
