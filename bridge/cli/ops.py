"""Verbs of who runs the bridge: check, topology, schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.callbacks import of_callbacks
from bridge.cli.codes import ExitCode
from bridge.cli.findings import told
from bridge.cli.shared import as_json, bridge, show
from bridge.errors import ApiError, BridgeError, LedgerUnavailable, OutputUnavailable, SettingsError

if TYPE_CHECKING:
    from bridge.process.components import Components


@click.command()
@as_json
def check(*, as_json: bool) -> int:
    """Look at settings, ledger, broker, key and engines; say what is wrong and how to mend it."""
    has = bridge()
    found = [
        *_names(),
        *_ledger(has),
        *_broker(has),
        *_results(has),
        *_endpoints(has),
        *_blobs(has),
        *of_callbacks(has),
    ]
    if as_json:
        click.echo(json.dumps([{"level": level, "about": about, "says": says} for level, about, says in found]))
    else:
        told(found)
    return ExitCode.UNHEALTHY if any(level == "FAULT" for level, _, _ in found) else ExitCode.OK


Finding = tuple[str, str, str]


def _names() -> list[Finding]:
    from bridge.settings.unknown_variables import strange_names  # noqa: PLC0415

    return [("WARN", "settings", says) for says in strange_names()]


def _ledger(has: Components) -> list[Finding]:
    from bridge.cli.durability import of_ledger  # noqa: PLC0415
    from bridge.ledger import inspect_server, run_a_script  # noqa: PLC0415

    try:
        server = inspect_server(has.client)
        run_a_script(has.client, has.names.key("probe"))
    except LedgerUnavailable as error:
        return [("FAULT", "ledger", f"{error}; is BRIDGE_REDIS_URL right?")]
    except SettingsError as error:
        return [("FAULT", "ledger", _said(error))]
    found: list[Finding] = [("ok", "ledger", f"{'Valkey' if server.valkey else 'Redis'} {server.version}")]
    found += [("FAULT", "ledger", fault) for fault in server.faults(allow_eviction=has.settings.bridge_allow_eviction)]
    found += of_ledger(server, has.settings)
    if unreadable := has.ledger.unreadable():
        says = "; ".join(f"{name}: {fault}" for name, fault in list(unreadable.items())[:5])
        found.append(("FAULT", "records", f"{len(unreadable)} cannot be worked on: {says}"))
    if rollbacks := has.ledger.engines.rollbacks():
        says = f"came back {rollbacks} times without its latest writes; what was in doubt is marked possible_duplicate"
        found.append(("WARN", "ledger", says))
    if server.memory_ratio > has.settings.bridge_memory_ratio_max:
        found.append(("FAULT", "ledger", f"{server.memory_ratio:.0%} of maxmemory is used: the doors are closed"))
    engines = has.ledger.engines.count()
    found.append(
        ("ok" if engines else "FAULT", "engines", f"{engines} alive" if engines else "none: start `bridge worker`")
    )
    return found


def _broker(has: Components) -> list[Finding]:
    from bridge.cli.durability import of_broker  # noqa: PLC0415
    from bridge.doors.celery import servers  # noqa: PLC0415
    from bridge.doors.celery.consumer.queues import queues_read  # noqa: PLC0415

    try:
        uri = servers.open_broker(has.app)
        read = queues_read(has.app)
        followed = _follow_ups(has, read)
    except BridgeError as error:
        return [("FAULT", "broker", _said(error))]
    doubts = servers.broker_doubts(has.app)
    found: list[Finding] = [("ok", "broker", uri), *of_broker(has.settings)]
    found += [("WARN", "broker", f"{servers.BROKER}: {says}") for says in doubts]
    if not has.app.connection_for_write().supports_exchange_type("fanout"):  # no worker can be asked what it reads
        return found
    unread = [name for name in ("bridge.run", "bridge.finish", "bridge.control") if name not in read]
    found += [("FAULT", "queues", f"nobody reads {name}: `bridge worker -Q {name}`") for name in unread]
    return found + followed


def _follow_ups(has: Components, read: set[str]) -> list[Finding]:
    """Queues of what follows requests. Raises BridgeError."""
    from bridge.doors.celery.follow_up_queues import depths  # noqa: PLC0415
    from bridge.engine.tell.follow_ups import unread  # noqa: PLC0415

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


def _results(has: Components) -> list[Finding]:
    from bridge.doors.celery import servers  # noqa: PLC0415

    try:
        name = servers.open_results(has.app)
    except BridgeError as error:
        return [("FAULT", "results", _said(error))]
    return [("ok", "results", name)] if name else []


def _said(error: BridgeError) -> str:
    return "; ".join(error.faults) if isinstance(error, SettingsError) else str(error)


def _endpoints(has: Components) -> list[Finding]:
    if not has.book.has_key:
        return [("FAULT", "key", "RUNPOD_API_KEY is not set, nor RUNPOD_API_KEY_FILE")]
    if (fault := has.route_fault()) is not None:
        return [("FAULT", "route", fault)]
    found: list[Finding] = []
    for name, endpoint in has.book.all().items():
        try:
            heard = has.client_of(name).health(endpoint.id)
        except ApiError as error:
            found.append(("FAULT", name, f"{type(error).__name__}: {error}"))
        else:
            found.append(("ok", name, _workers(heard.workers)))
    return found or [("WARN", "endpoints", "none is named: set RUNPOD_ENDPOINT_ID or BRIDGE_ENDPOINTS")]


def _workers(workers: Mapping[str, int]) -> str:
    """`2 workers: 1 running, 1 idle`, as RunPod counts them."""
    kinds = {name: count for name, count in workers.items() if count and name != "ready"}
    ready = workers.get("ready", 0) - workers.get("idle", 0)
    if ready > 0:
        kinds["ready"] = ready
    if not kinds:
        return "answers; no worker is up, the next job waits for a cold start"
    return "answers; workers: " + ", ".join(f"{count} {name}" for name, count in kinds.items())


def _blobs(has: Components) -> list[Finding]:
    blobs = has.outputs.blobs
    if blobs is None:
        return []
    try:
        blobs.probe()
    except OutputUnavailable as error:
        return [("FAULT", "outputs", f"{error}; large outputs stay in the ledger")]
    return [("ok", "outputs", f"{blobs.scheme}:// can be written, read and deleted")]


@click.command()
@click.option("--declare", is_flag=True, help="Declare what is missing.")
@as_json
def topology(*, declare: bool, as_json: bool) -> int:
    """The queues the bridge consumes, and whether the broker has them."""
    from bridge.doors.celery import servers  # noqa: PLC0415
    from bridge.doors.celery.consumer.queues import find_queues  # noqa: PLC0415

    has = bridge()
    servers.open_broker(has.app)
    names = [*has.app.amqp.queues]
    with has.app.connection_for_write() as connection:
        existed = find_queues(has.app, connection)
        if declare:
            for name, queue in has.app.amqp.queues.items():
                if not existed.get(name):
                    queue(connection.default_channel).declare()
        if has.settings.amqp:
            from bridge.doors.json import amqp  # noqa: PLC0415  (only where the broker speaks AMQP)

            existed |= amqp.look(connection)
            names += [name for name, _ in amqp.QUEUES.values()]
            if declare:
                for kind in amqp.QUEUES:
                    amqp.declare(connection, kind, quorum=has.settings.bridge_queue_type == "quorum")
    show([{"queue": name, "existed": existed.get(name)} for name in names], as_json=as_json)
    return ExitCode.OK


@click.command()
@click.option(
    "--write", "folder", type=click.Path(file_okay=False, path_type=Path), help="Write them into this folder."
)
@click.option(
    "--check",
    "against",
    type=click.Path(file_okay=False, path_type=Path),
    help="Exit 4 unless this folder has them, and they hold only additions to those in its folder `released`.",
)
@click.option("--asyncapi", is_flag=True, help="The AsyncAPI document instead: asyncapi.json.")
@click.option("--openapi", is_flag=True, help="The OpenAPI document of /v1 instead: openapi.json.")
@click.argument("wanted", metavar="[NAME]", required=False)
def schema(wanted: str | None, folder: Path | None, against: Path | None, *, asyncapi: bool, openapi: bool) -> int:
    """The JSON Schemas of requests and documents (or that of NAME), or a document of all channels or all of HTTP."""
    from bridge.job.contract.compatibility import as_text  # noqa: PLC0415

    if asyncapi and openapi:
        raise click.UsageError("--asyncapi and --openapi are two documents; name one")
    whole = "asyncapi" if asyncapi else "openapi" if openapi else None
    made = _made(whole)
    if wanted is not None:
        if whole or folder or against:
            raise click.UsageError("NAME prints one schema; it goes with no option")
        if wanted not in made:
            raise click.UsageError(f"there is no schema {wanted!r}; there are {', '.join(made)}")
        click.echo(as_text(made[wanted]), nl=False)
        return ExitCode.OK
    texts = {f"{name}.json": as_text(body) for name, body in made.items()}
    if against is not None:
        faults = [
            f"{against / name} is not current: run `bridge schema {f'--{whole} ' if whole else ''}--write {against}`"
            for name, text in texts.items()
            if not (against / name).is_file() or (against / name).read_text() != text
        ]
        faults += _broken(against / "released", made, whole)
        for fault in faults:
            click.echo(fault, err=True)
        return ExitCode.FAILED if faults else ExitCode.OK
    if folder is None:
        click.echo(as_text(made[whole] if whole else made), nl=False)
        return ExitCode.OK
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        click.echo(str(folder / name))
    return ExitCode.OK


def _made(whole: str | None) -> dict[str, Any]:
    """One document by its name, or all schemas."""
    if whole == "asyncapi":
        from bridge.job.contract import asyncapi  # noqa: PLC0415

        return {whole: asyncapi.document()}
    if whole == "openapi":
        from bridge.doors.http.api.description import openapi  # noqa: PLC0415

        return {whole: openapi.document()}
    from bridge.job.contract.models import schemas  # noqa: PLC0415

    return schemas()


def _broken(released: Path, made: dict[str, Any], whole: str | None) -> list[str]:
    """What the current schemas would break for those who know the released ones."""
    from bridge.job.contract.compatibility import breaks, of_openapi  # noqa: PLC0415
    from bridge.job.contract.models import INCOMING  # noqa: PLC0415

    if whole is not None:
        path = released / f"{whole}.json"
        return of_openapi(json.loads(path.read_text()), made[whole]) if whole == "openapi" and path.is_file() else []
    found = []
    for path in sorted(released.glob("*.json")):
        if path.stem not in made:
            found.append(f"{path.stem}: the whole document is gone, and was released")
            continue
        old = json.loads(path.read_text())
        found += [f"{path.stem}: {what}" for what in breaks(old, made[path.stem], incoming=path.stem in INCOMING)]
    return found
