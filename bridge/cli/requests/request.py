"""Verbs about one request: run, status, watch."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import as_json, bridge, servers_open, show
from bridge.cli.exit_codes import ExitCode
from bridge.cli.requests.outputs import content_of, with_output
from bridge.cli.requests.refusals import Refusals
from bridge.cli.terminal.findings import readable
from bridge.job.enums import ENDS

if TYPE_CHECKING:
    from bridge.process.components import Components

#: Seconds between looks where nothing is heard.
LOOK_S = 0.5


@click.command()
@click.option("--input", "given", metavar="JSON|@FILE|-", help="The job's input: a JSON object, a file, or stdin.")
@click.option("--endpoint", help="Endpoint name; RUNPOD_ENDPOINT_ID when it is not given.")
@click.option(
    "--id",
    "request_id",
    help="Request id, the idempotency key; made when not given.",
)
@click.option("--name", help="A batch's name, in the ids of its lines; else it is made of the file's content.")
@click.option("--timeout", type=int, help="Milliseconds from acceptance to end; then the job is cancelled.")
@click.option(
    "--policy", metavar="JSON", help='RunPod\'s policy: {"executionTimeout": ms, "ttl": ms, "lowPriority": bool}.'
)
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Kept with the request and told in its events.")
@click.option("--not-before", metavar="TIME", help="Submit no earlier: RFC 3339 with offset, or epoch milliseconds.")
@click.option("--stream", is_flag=True, help="Show the handler's chunks as they come.")
@click.option("--batch", "lane", is_flag=True, help="By RunPod's Batch API: for what may take hours.")
@click.option("--no-wait", is_flag=True, help="Print the id and go.")
@click.option("--file", "batch", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One input a line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where a batch's results go, one a line.")
@as_json
def run(given: str | None, batch: Path | None, out: Path | None, *, as_json: bool, **options: Any) -> int:
    """Submit a request through the broker and watch it to its end; print its output.

    `--file in.jsonl --out out.jsonl` runs a batch, one input a line: ids are the batch's name and the line's number, so
    a second run goes on where the first one stopped. The name is made of the file's name and content, or is --name's.
    Bad lines are told by number, and the rest goes on.
    """
    from bridge.job.strict_json import check_json  # noqa: PLC0415  (heavy)

    unused = (
        {"--out": out, "--name": options["name"]}
        if batch is None
        else {"--input": given, "--no-wait": options["no_wait"]}
    )
    for option, value in unused.items():
        if value:
            raise click.UsageError(f"{option} is {'' if batch is None else 'not '}for --file")
    has = bridge()
    servers_open(has)
    if batch is not None:
        from bridge.cli.requests.batch import run_batch  # noqa: PLC0415

        if out is None:
            raise click.UsageError("--file needs --out")
        arguments = _arguments(options)
        check_json(arguments)
        return run_batch(has, batch, out, arguments, name=options["name"] or options["request_id"], as_json=as_json)
    if given is None:
        raise click.UsageError("--input or --file is needed")
    request_id = options["request_id"] or str(uuid.uuid4())
    # Nothing of a new request is told before it is sent; one that exists may have told all of it already.
    after = "-" if options["request_id"] else f"({has.ledger.outbox.newest()}"
    arguments = {"input": _object("--input", given), **_arguments(options)}
    check_json(arguments)
    fingerprint, letters = check(has, request_id, arguments), Refusals(has)
    if options["request_id"]:
        refuse_another(has, request_id, fingerprint)
    send(has, request_id, arguments)
    if options["no_wait"]:
        show({"id": request_id}, as_json=as_json)
        return ExitCode.OK
    stream = bool(options["stream"])
    return follow(
        has, request_id, as_json=as_json, stream=stream, after=after, fingerprint=fingerprint, letters=letters
    )


def check(has: Components, request_id: str, arguments: dict[str, Any]) -> str:
    """What any door would refuse is not sent; answers the request's fingerprint. Raises JobRejected."""
    from bridge.engine.accept.accept import Origin  # noqa: PLC0415
    from bridge.job.request import parse_run  # noqa: PLC0415

    return has.accept.prepare(request_id, parse_run(arguments), Origin(door="cli")).held.record.fingerprint


def refuse_another(has: Components, request_id: str, fingerprint: str) -> bool:
    """Whether the id is known, as this request. Raises JobRejected where it is another's, whose output is not ours."""
    from bridge.engine.accept.accept import id_conflict  # noqa: PLC0415

    held = has.ledger.load(request_id)
    tombstone = has.ledger.tombstone(request_id) if held is None else None
    known = held.record.fingerprint if held is not None else (tombstone or {}).get("fp")
    if known is not None and known != fingerprint:
        raise id_conflict(request_id)
    return known is not None


def send(has: Components, request_id: str, arguments: dict[str, Any]) -> None:
    """As any Celery producer does; the result is kept in the ledger, not in Celery."""
    has.app.send_task("bridge.run", kwargs=arguments, task_id=request_id, queue="bridge.run", ignore_result=False)


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: options[name] for name in ("endpoint", "timeout") if options.get(name) is not None}
    if options.get("policy"):
        found["policy"] = _object("--policy", options["policy"])
    if options.get("metadata"):
        found["metadata"] = dict(_pair(text) for text in options["metadata"])
    if options.get("lane"):
        found["lane"] = "batch"
    if options.get("stream"):
        found["stream"] = True
    if options.get("not_before"):
        text = options["not_before"]
        found["not_before"] = int(text) if text.isdigit() else text
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--metadata {text}: must be NAME=VALUE")
    return name, value


def _object(option: str, text: str) -> Any:
    from bridge.job.strict_json import Fault, read_object  # noqa: PLC0415  (heavy)

    if text == "-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"{text[1:]}: {error.strerror}") from None
    else:
        raw = text.encode(errors="surrogateescape")
    try:
        return read_object(raw)
    except Fault as fault:
        where = f"{option} {text}" if text.startswith(("-", "@")) else option
        raise click.UsageError(f"{where}: {fault.rule}") from None


@click.command()
@click.argument("request_id", metavar="ID")
@click.option("--refresh", is_flag=True, help="Have RunPod asked now.")
@click.option("--content", is_flag=True, help="A large output itself, not its reference.")
@as_json
def status(request_id: str, *, refresh: bool, content: bool, as_json: bool) -> int:
    """The document of a request."""
    has = bridge()
    told = has.control.status(id=request_id, refresh=refresh, content=content)
    if content:
        told = with_output(has, told)
    show(told, as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("request_id", metavar="ID")
@as_json
def watch(request_id: str, *, as_json: bool) -> int:
    """Follow a request's transitions to its end."""
    has = bridge()
    told = has.control.status(id=request_id)  # one that nobody knows would be watched for ever
    return follow(has, told["id"], as_json=as_json, stream=True)


def follow(
    has: Components, request_id: str, *, as_json: bool, stream: bool, after: str = "-", fingerprint: str | None = None,
    letters: Refusals | None = None,
) -> int:  # fmt: skip
    """Show each event as it comes; the exit code tells the end.

    Raises JobRejected where the id was another's first, and where a door could not take the request.
    """
    for event in events(has, request_id, after, letters):
        if fingerprint is not None and refuse_another(has, request_id, fingerprint):
            fingerprint = None  # looked at once: an id's first request stays its request
        name, data = event["type"].rpartition(".")[2], event["data"]
        if as_json:
            if name in ENDS:
                click.echo(json.dumps(with_output(has, data)))
        elif name == "chunk":
            if stream:
                text = data["output"] if isinstance(data["output"], str) else json.dumps(data["output"])
                click.echo(readable(text) if sys.stdout.isatty() else text, nl=False)
        else:
            click.echo(f"{event['time'][11:23]}  {name:10} {readable(_detail(name, data))}", err=True)
        if name in ENDS:
            if not as_json and data["status"] == "COMPLETED":
                output = data["output"] if "output" in data else content_of(has, request_id)
                click.echo(json.dumps(output, indent=2))
            return ExitCode.of_status(data["status"])
    return ExitCode.UNKNOWN


def _detail(name: str, data: dict[str, Any]) -> str:
    if name in ENDS and data.get("error"):
        from bridge.job.document import error_text  # noqa: PLC0415

        return f"{data.get('reason') or ''} {error_text(data['error'])}".strip()
    if name == "progress":
        return json.dumps(data.get("progress"))
    return str(data.get("job_id") or data.get("endpoint") or "")


def _not_taken(letters: Refusals, request_id: str) -> None:
    """Of one that has no record: raises JobRejected where no door could take it, and says where none has come to it."""
    from bridge.errors import JobRejected  # noqa: PLC0415

    if (refused := letters.of(request_id)) is not None:
        raise JobRejected(refused, {"id": request_id, "status": "REJECTED", "reason": "rejected"})
    if letters.doubtful():
        click.echo("no bridge worker has taken it yet; `bridge check` says whether one runs", err=True)


def events(
    has: Components, request_id: str, after: str = "-", letters: Refusals | None = None
) -> Iterator[dict[str, Any]]:
    """A request's events from the stream, to its end; where they are trimmed, its chunks and its end.

    Raises JobRejected where `letters` say that a door could not take it.
    """
    cursor, last, chunks, over = after, 0, 0, False
    while True:
        found = has.ledger.outbox.read(cursor, count=500)
        for entry_id, event in found:
            cursor = f"({entry_id}"
            if event["subject"] != request_id or int(event["sequence"]) <= last:
                continue
            last = int(event["sequence"])
            if isinstance(index := event["data"].get("index"), int):
                chunks = max(chunks, index + 1)
            yield event
            if event["type"].rpartition(".")[2] in ENDS:
                return
        if found:
            continue
        if over:  # its end was written before this look, and is not there: the stream was trimmed
            yield from _of_record(has, request_id, chunks)
            return
        time.sleep(LOOK_S / 10)
        over = _over(has, request_id, letters if not last else None)


def _over(has: Components, request_id: str, letters: Refusals | None) -> bool:
    """Whether it has ended, as far as the ledger knows. Raises JobRejected where `letters` tell a refusal."""
    held = has.ledger.load(request_id)
    if held is not None:
        return held.record.phase.ended
    if letters is not None:
        _not_taken(letters, request_id)
    return letters is None  # it was there: no more than its end is remembered


def _of_record(has: Components, request_id: str, chunks: int) -> Iterator[dict[str, Any]]:
    """What is left of a request whose events are trimmed: its chunks from a number on, and its end."""
    told = has.control.status(id=request_id)
    at = told["ended_at"] or ""
    for chunk in has.ledger.chunks(request_id, chunks):
        yield {"type": "bridge.job.chunk", "time": at, "data": chunk, "sequence": "0"}
    yield {"type": f"bridge.job.{str(told['status']).lower()}", "time": at, "data": told, "sequence": "0"}
