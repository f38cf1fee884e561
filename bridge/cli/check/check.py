"""`bridge check`: what is wrong here, and how to mend it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import click

from bridge import __version__
from bridge.cli.check.amqp_queues import of_amqp_queues
from bridge.cli.check.callbacks import of_callbacks
from bridge.cli.check.files import of_files
from bridge.cli.check.streams import STARTING_S, of_streams
from bridge.cli.common import as_json, bridge
from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.findings import Finding, told
from bridge.errors import ApiError, BridgeError, LedgerUnavailable, OutputUnavailable, SchemaTooNew, SettingsError
from bridge.redis.outage import with_remedy

if TYPE_CHECKING:
    from bridge.process.components import Components
    from bridge.settings.config_file import Endpoint


@click.command()
@as_json
def check(*, as_json: bool) -> int:
    """Look at settings, ledger, broker, key and engines; say what is wrong and how to mend it."""
    has = bridge()
    ledger = _ledger(has)
    answers = len(ledger) > 1
    found = [
        *_names(),
        *ledger,
        *_broker(has, ledger_answers=answers),
        *_results(has),
        *_endpoints(has),
        *_blobs(has),
        *_traces(has),
        *(of_streams(has) if answers else []),  # one that hangs would be waited for again
        *(of_callbacks(has) if answers else []),
        *of_files(has.settings),
    ]
    if as_json:
        click.echo(json.dumps([{"level": level, "about": about, "says": says} for level, about, says in found]))
    else:
        told(found)
    return ExitCode.UNHEALTHY if any(level == "FAULT" for level, _, _ in found) else ExitCode.OK


_MORE = "`redis-cli CONFIG SET maxmemory` gives it more, docs/runbook.md says what grows"
#: Endpoints that are asked at once.
_ASKED = 16
_AWAY = "RunPod, or the way to it, is in trouble: requests wait and go on by themselves"
_KEY = "mend RUNPOD_API_KEY and restart, or put {} into the file that RUNPOD_API_KEY_FILE or api_key_file names"
#: By the word for a trouble of RunPod's side: what ends it.
_REMEDIES = {
    "unauthorised": _KEY.format("the right key"),
    "key": _KEY.format("a key"),
    "forbidden": "give the key a right to this endpoint, in RunPod's settings",
    "out_of_credit": "top up the account; nothing else has to be done",
    "paused": "raise its max workers in RunPod's own console",
    "endpoint_unknown": "RunPod knows no endpoint {id}: mend the id in RUNPOD_ENDPOINT_ID, BRIDGE_ENDPOINTS, the file"
    "; or RUNPOD_ENDPOINT_BASE_URL, where that does not end in RunPod's /v2",
    "endpoint_trouble": "mend RUNPOD_ENDPOINT_BASE_URL",
    "unreachable": f"is RUNPOD_ENDPOINT_BASE_URL right? Otherwise {_AWAY}",
}


def _names() -> list[Finding]:
    from bridge.settings.unknown_variables import strange_names  # noqa: PLC0415

    return [("WARN", "settings", says) for says in strange_names()]


def _ledger(has: Components) -> list[Finding]:
    from bridge.cli.check.durability import of_ledger  # noqa: PLC0415
    from bridge.ledger import inspect_server, run_a_script  # noqa: PLC0415

    variable = has.settings.ledger_variable
    try:
        server = inspect_server(has.client, variable)
        run_a_script(has.client, has.names.key("probe"), variable)
    except LedgerUnavailable as error:
        return [("FAULT", "ledger", with_remedy(str(error), f"is {variable} right?"))]
    except SettingsError as error:
        return [("FAULT", "ledger", _said(error))]
    found: list[Finding] = [("ok", "ledger", f"{'Valkey' if server.valkey else 'Redis'} {server.version}")]
    found += [("FAULT", "ledger", fault) for fault in server.faults(allow_eviction=has.settings.bridge_allow_eviction)]
    found += of_ledger(server, has.settings)
    try:
        has.ledger.engines.check_schema(__version__)
    except SchemaTooNew as error:
        found.append(("FAULT", "ledger", str(error)))
    if unreadable := has.ledger.unreadable():
        says = "; ".join(f"{name}: {fault}" for name, fault in list(unreadable.items())[:5])
        found.append(("FAULT", "records", f"{len(unreadable)} cannot be worked on: {says}"))
    if rollbacks := has.ledger.engines.rollbacks():
        says = f"came back {rollbacks} times without its latest writes; what was in doubt is marked possible_duplicate"
        found.append(("WARN", "ledger", says))
    if server.memory_ratio > has.settings.bridge_memory_ratio_max:
        found.append(
            ("FAULT", "ledger", f"{server.memory_ratio:.0%} of maxmemory is used: the doors are closed; {_MORE}")
        )
    engines = has.ledger.engines.count()
    found.append(
        ("ok" if engines else "FAULT", "engines", f"{engines} alive" if engines else "none: start `bridge worker`")
    )
    return found


def _broker(has: Components, *, ledger_answers: bool) -> list[Finding]:
    from bridge.cli.check.durability import of_broker  # noqa: PLC0415
    from bridge.doors.celery import servers  # noqa: PLC0415
    from bridge.doors.celery.consumer.queues import queues_read  # noqa: PLC0415

    try:
        uri = servers.open_broker(has.app)
        read = queues_read(has.app)
        closed = ledger_answers and _closed(has)
        followed = _follow_ups(has, read) if ledger_answers else []
        waiting = of_amqp_queues(has, closed=closed) if has.settings.amqp else _priority_lists(has)
    except BridgeError as error:
        return [("FAULT", "broker", _said(error))]
    doubts = servers.broker_doubts(has.app)
    found: list[Finding] = [("ok", "broker", uri), *of_broker(has.settings)]
    found += [("WARN", "broker", f"{servers.BROKER}: {says}") for says in doubts]
    if not has.app.connection_for_write().supports_exchange_type("fanout"):  # no worker can be asked what it reads
        return found
    wanted, until = ("bridge.run", "bridge.finish", "bridge.control"), time.monotonic() + STARTING_S
    while not read.issuperset(wanted) and time.monotonic() < until:  # a worker that has just been started
        time.sleep(0.2)
        read = queues_read(has.app)
    unread = [name for name in wanted if name not in read]
    if "bridge.run" in unread and closed:
        unread.remove("bridge.run")
    if len(unread) == len(wanted):
        found.append(("FAULT", "queues", f"nobody reads {', '.join(unread)}: start `bridge worker`"))
    else:
        found += [("FAULT", "queues", f"nobody reads {name}: `bridge worker -Q {name}`") for name in unread]
    return found + followed + waiting


def _closed(has: Components) -> bool:
    """Whether back-pressure keeps workers from reading bridge.run: then one worker more would not either."""
    try:
        return has.pressure.closed() is not None
    except BridgeError:
        return False


def _follow_ups(has: Components, read: set[str]) -> list[Finding]:
    """Queues of what follows requests. Raises BridgeError."""
    from bridge.doors.celery.follow_up_queues import depths  # noqa: PLC0415
    from bridge.engine.tell.follow_up_readers import unread  # noqa: PLC0415

    try:
        kept = has.ledger.follow_ups
        alone = unread(depths(has.app, kept.queues()), kept.depths(), lambda: read)
    except LedgerUnavailable:  # told beside the ledger
        return []
    says = (
        "nobody reads {0}, where {1} messages that follow requests wait: start a worker with `-Q {0}`, "
        "or name the right queue, in the signatures or in BRIDGE_DEFAULT_QUEUE"
    )
    return [("FAULT", "queues", says.format(queue, waiting)) for queue, waiting in alone.items()]


def _priority_lists(has: Components) -> list[Finding]:
    """Jobs of producers whose priorities are not the workers'. Raises BridgeError."""
    from bridge.doors.celery.consumer.priority_lists import unread_lists  # noqa: PLC0415

    says = (
        "{} messages wait in {}'s list of priority {}, which no worker reads: give the workers the `priority_steps` "
        "that the producers have, as broker_transport_options in the module that BRIDGE_CELERY_CONFIG names"
    )
    found = unread_lists(has.app, ("bridge.run", "bridge.control"))
    return [("FAULT", "queues", says.format(count, *place)) for place, count in found.items()]


def _results(has: Components) -> list[Finding]:
    from bridge.doors.celery import servers  # noqa: PLC0415

    try:
        name = servers.open_results(has.app)
        if name:
            servers.write_results(has.app)
    except BridgeError as error:
        return [("FAULT", "results", _said(error))]
    return [("ok", "results", name)] if name else []


def _said(error: BridgeError) -> str:
    return "; ".join(error.faults) if isinstance(error, SettingsError) else str(error)


def _endpoints(has: Components) -> list[Finding]:
    if not has.book.has_key:
        return [("FAULT", "key", " ".join(has.key_doubt()))]
    if (fault := has.route_fault()) is not None:
        return [("FAULT", "route", fault)]
    named = list(has.book.all().values())
    with ThreadPoolExecutor(_ASKED) as threads:
        found = list(threads.map(lambda endpoint: _endpoint(has, endpoint), named))
    return found or [("WARN", "endpoints", "none is named: set RUNPOD_ENDPOINT_ID or BRIDGE_ENDPOINTS")]


def _endpoint(has: Components, endpoint: Endpoint) -> Finding:
    try:
        heard = has.client_of(endpoint.name).health(endpoint.id)
    except ApiError as error:
        mend = _REMEDIES.get(getattr(error, "reason", ""), _AWAY).format(id=endpoint.id)
        return ("FAULT", endpoint.name, f"{type(error).__name__}: {error}; {mend}")
    return ("ok", endpoint.name, _workers(heard.workers))


def _workers(workers: Mapping[str, int]) -> str:
    """`2 workers: 1 running, 1 idle`, as RunPod counts them."""
    kinds = {name: count for name, count in workers.items() if count and name != "ready"}
    ready = workers.get("ready", 0) - workers.get("idle", 0)
    if ready > 0:
        kinds["ready"] = ready
    if not kinds:
        return "answers; no worker is up, the next job waits for a cold start"
    return "answers; workers: " + ", ".join(f"{count} {name}" for name, count in kinds.items())


def _traces(has: Components) -> list[Finding]:
    from bridge.process.process import check_export  # noqa: PLC0415  (heavy)

    try:
        check_export(has.settings)
    except SettingsError as error:
        return [("FAULT", "traces", _said(error))]
    return []


def _blobs(has: Components) -> list[Finding]:
    blobs = has.outputs.blobs
    if blobs is None:
        return []
    said: list[OutputUnavailable | None] = []

    def probe() -> None:
        try:
            blobs.probe()
        except OutputUnavailable as error:
            said.append(error)
        else:
            said.append(None)

    patience_s = 2 * has.settings.bridge_blob_timeout_s + 2
    thread = threading.Thread(target=probe, daemon=True)  # a store that hangs may hold its library for minutes
    thread.start()
    thread.join(patience_s)
    stays = "large outputs stay in the ledger until the store answers (BRIDGE_BLOB_URL, BRIDGE_BLOB_OPTIONS)"
    match said:
        case [None]:
            return [("ok", "outputs", f"{blobs.scheme}:// can be written, read and deleted")]
        case [error]:
            return [("FAULT", "outputs", f"{error}; {stays}")]
    return [("FAULT", "outputs", f"{blobs.scheme}:// has not answered within {patience_s:g} s; {stays}")]
