"""The only place that constructs: settings in; ledger, clients, doors' functions and the engine out.

`current()` is this process' own instance, built at first use and built anew after a fork, so that no connection and no
key is ever shared between processes. What only a bridge worker needs (Celery, the doors, the engine's loops) is loaded
when it is started: a command that asks the ledger does without.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge import __version__, gauges
from bridge.blob import Blobs
from bridge.endpoints import EndpointBook
from bridge.engine.accept import Accept, Verdict
from bridge.engine.control import Control
from bridge.engine.count import count
from bridge.engine.outputs import Outputs
from bridge.engine.pressure import Pressure
from bridge.engine.vitals import Vitals
from bridge.errors import SettingsError
from bridge.job.change import Change
from bridge.job.words import Step
from bridge.ledger import Ledger, Names, connect, inspect_server, run_a_script
from bridge.ledger.disk import Disk, fault_of
from bridge.ledger.load import measure
from bridge.runpod.budget import Budget
from bridge.runpod.client import RunPodClient
from bridge.runpod.gate import Gate
from bridge.runpod.operations import Limit, Operation
from bridge.settings import Settings, load
from bridge.strange_names import strange_names
from bridge.telemetry import register_snapshot, tell
from bridge.wiring.figures import marks, rules

if TYPE_CHECKING:
    from celery import Celery

    from bridge.doors.entrance import Entrance
    from bridge.doors.http import HttpDoor
    from bridge.engine.engine import Engine
    from bridge.engine.finish import Here
    from bridge.engine.states import States


class Bridge:
    """Everything one process has, without an engine until `start_engine`."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        """Connects to nothing yet; what cannot work is found by `check`."""
        self.settings = settings
        self.app = app
        self.names = Names(settings.bridge_namespace)
        self.client = connect(settings.ledger_url)
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
            self.ledger.disk = Disk(self.client, self.names.key("fsync"))
        self.book = EndpointBook(settings)
        self.budget = Budget(self.client, self.names.prefix, limit_of=self._limit_of, now=self._now)
        self.gate = Gate(self.client, self.names.prefix, self._now)
        self.vitals = Vitals(self.gate, self.budget, self.ledger.now, int(settings.bridge_gate_max_s * 1000))
        self.pressure = Pressure(lambda: measure(self.ledger), marks(settings), self.book.max_waiting)
        self._clients: dict[str, RunPodClient] = {}
        self._clients_lock = threading.Lock()
        self.accept = Accept(self.ledger, self.book, settings)
        blobs = (
            Blobs(settings.bridge_blob_url, settings.bridge_blob_options, timeout_s=settings.bridge_blob_timeout_s)
            if settings.bridge_blob_url
            else None
        )
        self.outputs = Outputs(self.ledger, blobs, settings.bridge_inline_limit, settings.bridge_blob_timeout_s)
        self.control = Control(
            self.ledger,
            self.book,
            self.vitals,
            self.client_of,
            self.noticed,
            settings.bridge_inline_limit,
            settings.bridge_message_limit,
            self.outputs.whole,
        )
        self.engine: Engine | None = None
        #: Endpoints whose cap on jobs in flight keeps requests waiting: an end of any of them makes room.
        self.capped: set[str] = set()
        self.http: HttpDoor | None = None
        self.entrance: Entrance | None = None
        self._scraped = False
        self._states: States | None = None

    @property
    def states(self) -> States:
        """Celery's view of requests on their way."""
        from bridge.engine.states import States  # noqa: PLC0415  (Celery's)

        with self._clients_lock:
            if self._states is None:
                self._states = States(self.ledger, self.app, self.vitals.waiting_for, self.settings.celery_limit)
        return self._states

    # Called by the doors

    def accepted(self, *verdicts: Verdict) -> None:
        """Requests are in: have them worked on, and told to Celery; one wake for all of them."""
        new = [v.accepted.held for v in verdicts if v.accepted.kind == "created" and v.accepted.held]
        if not new:
            return
        self.pressure.took(len(new))
        shown = [h for h in new if h.record.door == "celery" and not h.record.silent and not h.record.phase.ended]
        for held in shown:
            self.states.put(held)
        if self.engine is None:
            if shown:  # no loop of this process writes them
                self.states.once()
            self.ledger.wake()
            return
        for step, endpoint in {(held.record.step, held.record.endpoint) for held in new}:
            if step is not None:
                self.engine.accepted(step, endpoint)

    def noticed(self, change: Change) -> None:
        """A change was written: wake who works on, tell Celery's state, and count."""
        count(change)
        if self._states is not None:  # a process that writes no states has nobody to tell
            self._states.changed(change)
        if self.engine is not None:
            self.engine.changed(change)
            if self.capped and change.record.phase.ended:
                self.engine.wake(Step.SUBMIT)
        elif not change.empty:
            self.ledger.wake()

    def dead(self, reason: str, task_id: str, arguments: Mapping[str, Any], detail: str, task: str) -> None:
        """Keep what a task asked for and was refused without a record (I12): arguments as JSON, no secrets (I11)."""
        secret = isinstance(arguments.get("s3Config"), Mapping)
        kept = {**arguments, "s3Config": "***"} if secret else dict(arguments)
        self.ledger.dead_letter(
            reason,
            door="celery",
            body=json.dumps(kept, default=str),
            request_id=task_id,
            source=task,
            detail=detail,
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

    # Start and stop

    def check(self) -> None:
        """Refuse a ledger that cannot be trusted. Raises SettingsError with every fault, or LedgerUnavailable."""
        server = inspect_server(self.client)
        faults = server.faults(allow_eviction=self.settings.bridge_allow_eviction)
        if self.ledger.disk is not None and (fault := fault_of(server)):
            faults.append(fault)
        if faults:
            raise SettingsError(*faults)
        run_a_script(self.client, self.names.key("probe"))
        self.ledger.claim_schema(__version__)
        for says in strange_names():
            tell("settings.doubtful", setting=says.partition(" ")[0], says=says)
        if not self.book.has_key:  # once, by who starts to work; `bridge check` says it too
            says = (
                "is not set: RunPod will answer 401, and requests are refused or wait; set it, or RUNPOD_API_KEY_FILE"
            )
            tell("settings.doubtful", setting="RUNPOD_API_KEY", says=says)

    def start_engine(self, finish_here: Here | None = None, *, reads_finishes: bool = False) -> Engine:
        """Build the loops and start them.

        `finish_here` tells ends in this process, where Celery's tasks run in it; `reads_finishes` where it is a worker
        that takes `bridge.finish`.
        """
        from bridge.wiring.engine import build_engine  # noqa: PLC0415

        self.engine = build_engine(self, finish_here, reads_finishes=reads_finishes)
        self.engine.start()
        return self.engine

    def stop_engine(self) -> bool:
        """Whether everything under way was ended in time."""
        engine, self.engine = self.engine, None
        return engine.stop(self.settings.bridge_stop_grace_s) if engine is not None else True

    def start_doors(self) -> None:
        """Take what services send as plain JSON, unless BRIDGE_JSON_DOORS is off."""
        if self.settings.bridge_json_doors:
            from bridge.doors.entrance import Entrance  # noqa: PLC0415

            self.entrance = Entrance(self)
            self.entrance.start()

    def stop_doors(self) -> bool:
        """Whether everything that was taken is held or given back."""
        entrance, self.entrance = self.entrance, None
        return entrance.stop(self.settings.bridge_stop_grace_s) if entrance is not None else True

    def start_http(self) -> HttpDoor:
        """Health, metrics and callbacks. Raises SettingsError when an address that was set by hand is taken."""
        from bridge.doors.http import HttpDoor  # noqa: PLC0415

        if not self._scraped:
            self._scraped = True
            register_snapshot(lambda: gauges.read(self))
        self.http = HttpDoor(self)
        self.http.start()
        return self.http

    def broker_answers(self) -> None:
        """Raises OSError when the broker does not answer."""
        from kombu.exceptions import OperationalError  # noqa: PLC0415

        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
        except OperationalError as error:
            raise ConnectionError(str(error)) from error

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

    def purged_at(self, endpoint: str) -> int:
        """When the bridge last purged the endpoint's queue; 0 for never."""
        return self.ledger.counts(endpoint).get("purged_at", 0)


_lock = threading.Lock()
_built: tuple[int, Bridge] | None = None


def current(app: Celery) -> Bridge:
    """This process' own instance."""
    global _built  # noqa: PLW0603  (one per process, by pid)
    if _built is None or _built[0] != os.getpid():
        with _lock:
            if _built is None or _built[0] != os.getpid():
                _built = (os.getpid(), Bridge(load(), app))
    return _built[1]
