"""Verbs that change something: cancel, retry, purge, pause, resume; and health, which asks."""

from __future__ import annotations

import click

from bridge.cli.codes import ExitCode
from bridge.cli.house import as_json, asker, bridge, show


@click.command()
@click.argument("request_ids", metavar="ID...", nargs=-1)
@click.option(
    "--where", multiple=True, metavar="NAME=VALUE", help="Every request whose metadata says so, that has not ended."
)
@as_json
def cancel(request_ids: tuple[str, ...], where: tuple[str, ...], *, as_json: bool) -> int:
    """Cancel requests in whatever phase they are; running ones are cancelled at RunPod."""
    house = bridge()
    if where:
        if any("=" not in pair for pair in where):
            raise click.UsageError("--where: must be NAME=VALUE")
        wanted = dict(pair.split("=", 1) for pair in where)
        request_ids = (*request_ids, *house.control.find(wanted))
    if not request_ids:
        raise click.UsageError("name a request, or --where NAME=VALUE that matches one")
    answers = [house.control.cancel(id=request_id, asker=asker()) for request_id in request_ids]
    show(answers if len(answers) > 1 else answers[0], as_json=as_json)
    return ExitCode.UNKNOWN if all(answer["outcome"] == "unknown" for answer in answers) else ExitCode.OK


@click.command()
@click.argument("request_id", metavar="ID")
@as_json
def retry(request_id: str, *, as_json: bool) -> int:
    """Run a FAILED or TIMED_OUT request once more, while RunPod keeps its job."""
    show(bridge().control.retry(id=request_id, asker=asker()), as_json=as_json)
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
    house = bridge()
    if not yes:
        told = house.control.health(endpoint)
        queued = (told["runpod"] or {}).get("jobs", {}).get("inQueue", "unknown")
        ours = sum(told["bridge"]["phases"].get(phase, 0) for phase in ("TRACKED", "SUBMITTING"))
        click.echo(
            f"{told['endpoint']}: {queued} jobs in RunPod's queue, whoever sent them; {ours} are the bridge's own."
        )
        click.confirm("Purge?", abort=True)
    show(house.control.purge(endpoint, asker(), pending=pending), as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("endpoint")
@click.option("--reason", help="Shown to whoever asks why requests wait.")
@as_json
def pause(endpoint: str, reason: str | None, *, as_json: bool) -> int:
    """Let no submit leave for an endpoint; running jobs are watched, requests wait."""
    show(bridge().control.pause(endpoint, reason, asker()), as_json=as_json)
    return ExitCode.OK


@click.command()
@click.argument("endpoint")
@as_json
def resume(endpoint: str, *, as_json: bool) -> int:
    """Let submits leave again."""
    show(bridge().control.resume(endpoint, asker()), as_json=as_json)
    return ExitCode.OK
