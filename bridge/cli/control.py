"""Verbs that change something: cancel, retry, purge, pause, resume; and health, which asks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import as_json, asker, bridge, bridge_to_change, show
from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.progress import Progress

if TYPE_CHECKING:
    from bridge.process.components import Components


@click.command()
@click.argument("request_ids", metavar="ID...", nargs=-1)
@click.option(
    "--where", multiple=True, metavar="NAME=VALUE", help="Every request whose metadata says so, that has not ended."
)
@click.option(
    "--group", metavar="ID", help="Every request of a Celery group (or a chord's header), that has not ended."
)
@click.option("--wait", is_flag=True, help="Until all of them have ended; their status is told then.")
@as_json
def cancel(
    request_ids: tuple[str, ...], where: tuple[str, ...], group: str | None, *, wait: bool, as_json: bool
) -> int:
    """Cancel requests in whatever phase they are; running ones are cancelled at RunPod."""
    if any("=" not in pair for pair in where):
        raise click.UsageError("--where: must be NAME=VALUE")
    if not (request_ids or where or group):
        raise click.UsageError("name a request, or --where NAME=VALUE, or --group ID")
    has = bridge_to_change()
    selected = [*request_ids]
    if where:
        selected += has.control.find(dict(pair.split("=", 1) for pair in where))
    if group:
        selected += has.control.find_group(group)
    selected = list(dict.fromkeys(selected))
    progress = Progress(len(selected))
    answers = [progress.step(answer) for answer in has.control.cancel_many(selected, asker())]
    if wait:
        _wait(has, answers, progress)
    progress.done()
    if as_json or len(answers) == 1:
        show(answers if len(answers) != 1 or where or group else answers[0], as_json=as_json)
    else:
        click.echo(progress.summary)
    if unknown := [answer["id"] for answer in answers if answer["outcome"] == "unknown"]:
        some = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")  # noqa: PLR2004
        click.echo(
            f"{some}: the bridge knows no such request (yet); the cancel is kept for 24 h, and ends it if it comes",
            err=True,
        )
    return ExitCode.UNKNOWN if all(answer["outcome"] == "unknown" for answer in answers) else ExitCode.OK


def _wait(has: Components, answers: list[dict[str, Any]], progress: Progress) -> None:
    """Until none of them can end any more; RunPod takes 100 cancels in 10 s for an endpoint."""
    left = {answer["id"]: answer for answer in answers if answer["outcome"] == "requested"}
    progress.begin("ended", len(left))
    while left:
        ended = {key: held for key, held in has.control.records(list(left)).items() if held.record.phase.ended}
        for key, held in ended.items():
            progress.step(left.pop(key) | {"outcome": held.record.status})
        for answer in answers:
            if answer["id"] in ended:
                answer["status"] = ended[answer["id"]].record.status
        if left:
            time.sleep(0.2)


@click.command()
@click.argument("request_id", metavar="ID")
@as_json
def retry(request_id: str, *, as_json: bool) -> int:
    """Run a FAILED or TIMED_OUT request once more, while RunPod keeps its job."""
    show(bridge_to_change().control.retry(id=request_id, asker=asker()), as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("endpoint", required=False)
@as_json
def health(endpoint: str | None, *, as_json: bool) -> int:
    """RunPod's counters and the bridge's own, with a verdict; all endpoints when none is named."""
    told = bridge().control.health(endpoint)
    show(told, as_json=as_json)
    verdicts = {one["verdict"] for one in (told if isinstance(told, list) else [told])}
    return ExitCode.OK if verdicts <= {"ok", "cold", "paused"} else ExitCode.UNHEALTHY


@click.command()
@click.argument("endpoint")
@click.option("--pending", is_flag=True, help="Also end the bridge's own requests that have not left yet.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def purge(endpoint: str, *, pending: bool, yes: bool, as_json: bool) -> int:
    """Clear an endpoint's queue at RunPod: for everyone on that endpoint. Running jobs go on."""
    from bridge.errors import EndpointUnknown  # noqa: PLC0415  (heavy)
    from bridge.job.request import rejected  # noqa: PLC0415

    has = bridge_to_change()
    if not yes:
        told = has.control.health(endpoint)
        queued = (told["runpod"] or {}).get("jobs", {}).get("inQueue", "unknown")
        ours, waiting = has.control.queued(endpoint), told["bridge"]["phases"]["ACCEPTED"]
        click.echo(
            f"{told['endpoint']}: {queued} jobs in RunPod's queue, whoever sent them; {ours} are the bridge's own."
        )
        if pending:
            click.echo(f"{waiting} more wait with the bridge and would end too.")
        click.confirm("Purge?", abort=True)
    try:
        told = has.control.purge(endpoint, asker(), pending=pending)
    except EndpointUnknown:
        raise rejected("endpoint", f"endpoint: RunPod knows no {endpoint!r} that this key may use") from None
    show(told, as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("endpoint")
@click.option("--reason", help="Shown to whoever asks why requests wait.")
@as_json
def pause(endpoint: str, reason: str | None, *, as_json: bool) -> int:
    """Let no submit leave for an endpoint; running jobs are watched, requests wait."""
    show(bridge_to_change().control.pause(endpoint, reason, asker()), as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("endpoint")
@click.option("--reason", help="Stands in the event.")
@as_json
def resume(endpoint: str, reason: str | None, *, as_json: bool) -> int:
    """Let submits leave again."""
    show(bridge_to_change().control.resume(endpoint, asker(), reason), as_json=as_json)
    return ExitCode.OK
