"""`bridge jobs`: which requests there are, the newest first."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import as_json, bridge
from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.full_screen import console, live
from bridge.cli.terminal.times import moment_ms, since

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bridge.ledger.queries.listing import Page
    from bridge.process.components import Components

#: Names for several phases.
GROUPS = {
    "waiting": ("ACCEPTED",),
    "in-flight": ("SUBMITTING", "UNANSWERED", "TRACKED", "RETRYING"),
    "open": ("ACCEPTED", "SUBMITTING", "UNANSWERED", "TRACKED", "RETRYING"),
    "ended": ("SETTLED", "CLOSED"),
}
PHASES = ("ACCEPTED", "SUBMITTING", "UNANSWERED", "TRACKED", "RETRYING", "SETTLED", "CLOSED")
#: Columns from which on there is room for tenants.
WIDE = 110
STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "LOST": "bold red",
    "REJECTED": "red",
    "CANCELLED": "yellow",
    "IN_PROGRESS": "cyan",
}


@click.command()
@click.argument("text", metavar="[ID]", default="")
@click.option("--endpoint", "-e", multiple=True, metavar="NAME", help="Of this endpoint (may be repeated).")
@click.option(
    "--phase",
    "-p",
    multiple=True,
    type=click.Choice([*GROUPS, *PHASES], case_sensitive=False),
    help="Where they stand with the bridge: one of its phases, or waiting, in-flight, open, ended.",
)
@click.option("--status", "-s", multiple=True, metavar="STATUS", help="RunPod's word: IN_PROGRESS, FAILED ...")
@click.option("--reason", "-r", multiple=True, metavar="REASON", help="Why they ended: handler_error, timeout ...")
@click.option("--tenant", "-t", multiple=True, metavar="NAME", help="Of this tenant.")
@click.option("--task", multiple=True, metavar="ID", help="By which this Celery task has replaced itself.")
@click.option("--since", "since_", metavar="TIME", help="Accepted since: 15m, 4h, 2d, or 2026-11-28T09:30:00Z.")
@click.option("--until", metavar="TIME", help="Accepted until.")
@click.option("--count", "-n", default=50, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@click.option("--after", default="", metavar="PLACE", help="Go on behind this place of an earlier list.")
@click.option("--watch", is_flag=True, help="Again every second, until q or Ctrl-C.")
@as_json
def jobs(
    text: str,
    endpoint: tuple[str, ...],
    phase: tuple[str, ...],
    status: tuple[str, ...],
    reason: tuple[str, ...],
    tenant: tuple[str, ...],
    task: tuple[str, ...],
    since_: str | None,
    until: str | None,
    count: int,
    after: str,
    *,
    watch: bool,
    as_json: bool,
) -> int:
    """Requests, the newest first: all, or those that the options name.

    ID is what the request's id begins with, or the whole id of its RunPod job, or of the task that it has replaced.
    """
    from bridge.ledger.queries import listing  # noqa: PLC0415  (heavy)

    has, now = bridge(), int(time.time() * 1000)
    phases = [one for name in phase for one in GROUPS.get(name.lower(), (name.upper(),))]
    named = {"endpoint": endpoint, "phase": phases, "reason": reason, "tenant": tenant, "task": task}
    named["status"] = tuple(one.upper() for one in status)
    offset = has.ledger.clock.offset
    wanted = listing.Wanted(
        text=text,
        where={name: list(values) for name, values in named.items() if values},
        since=_shifted(moment_ms("--since", since_, now), offset),
        until=_shifted(moment_ms("--until", until, now), offset),
    )
    if not listing.is_place(after):
        raise click.UsageError("--after: is no place of an earlier list, which ends with `more: --after PLACE`")
    if watch:
        if as_json:
            raise click.UsageError("--watch is for people; with --json list again")
        shown = console()
        live(
            lambda: _table(has, _walk(has, wanted, "", min(count, max(1, shown.height - 2)))[0], shown.width),
            1.0,
            "no --watch",
        )
        return ExitCode.OK
    found, page = _walk(has, wanted, after, count)
    if as_json:
        click.echo(json.dumps({"requests": found, "after": page.goes_on or None}))
        return ExitCode.OK
    if found:
        shown = console()
        shown.print(_table(has, found, shown.width))
    if page.goes_on and len(found) >= count:
        click.echo(f"more: --after {page.goes_on}", err=True)
    elif not found:
        click.echo(f"none{_misspelt(has, named)}", err=True)
    return ExitCode.OK


def _misspelt(has: Components, named: Mapping[str, Sequence[str]]) -> str:
    """Which words of the filters nobody knows: they are not refused, since RunPod may have statuses of its own."""
    from bridge.job.enums import Reason, Status  # noqa: PLC0415  (heavy)

    known = {"status": [*Status], "reason": [*Reason], "endpoint": sorted({*has.book.all(), *has.ledger.endpoints()})}
    return "".join(
        f"; {word!r} is no {name} that is known here: {', '.join(words)}"
        for name, words in known.items()
        for word in named[name]
        if word not in words
    )


def _shifted(moment: int, offset: int) -> int:
    return moment and moment + offset


def _walk(has: Components, wanted: Any, after: str, count: int) -> tuple[list[dict[str, Any]], Page]:
    """So many, or all there are: a person who asks waits for a long walk, where a page of the console stops."""
    from bridge.engine.control.overview import told_of  # noqa: PLC0415
    from bridge.ledger.queries import listing  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    while True:
        page = listing.page(has.ledger, wanted, after=after, count=count - len(found))
        found += [told_of(has.ledger, one.record) for one in page.held]
        after = page.goes_on
        if not after or len(found) >= count:
            return found, page


def _table(has: Components, found: list[dict[str, Any]], width: int) -> RenderableType:
    """Ids and statuses are never cut where a line of 80 has room for them: they are what is copied and looked for."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    now = has.ledger.now() - has.ledger.clock.offset
    narrow = width < WIDE
    table = Table(box=None, padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("AGE", no_wrap=True, justify="right")
    longest = max((len(one["id"]) for one in found), default=2)
    table.add_column("ID", no_wrap=True, overflow="ellipsis", min_width=min(36, longest) if narrow else longest)
    table.add_column("ENDPOINT", no_wrap=True, overflow="ellipsis", max_width=11 if narrow else None)
    table.add_column("STATUS", no_wrap=True, min_width=max((len(_status(one)) for one in found), default=6))
    reasons, tenants = any(one["reason"] for one in found), not narrow and any(one["tenant"] for one in found)
    for name, shown in (("REASON", reasons), ("TENANT", tenants)):
        if shown:
            table.add_column(name, no_wrap=True, overflow="ellipsis")
    for one in found:
        cells = [since(one["accepted_at"], now), one["id"], one["endpoint"], Text(_status(one), _style(one))]
        cells += [one["reason"] or ""] if reasons else []
        table.add_row(*cells, *([one["tenant"] or ""] if tenants else []))
    return table


def _style(one: dict[str, Any]) -> str:
    return STYLES.get(one["status"], "")


def _status(one: dict[str, Any]) -> str:
    """RunPod's word; the bridge's own phase where that says more."""
    if one["phase"] in {"SUBMITTING", "UNANSWERED", "RETRYING"}:
        return str(one["phase"])
    if one["possible_duplicate"]:
        return f"{one['status']}*"
    return "SCHEDULED" if one["phase"] == "ACCEPTED" and one["not_before"] else str(one["status"])
