"""`bridge top`: how everything stands, live, as `htop` shows a machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import as_json, bridge
from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.full_screen import console, live
from bridge.cli.terminal.times import span

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds that a look waits for the broker, and for which its answer serves.
BROKER_S, BROKER_KEPT_S = 1.5, 5.0
#: Columns from which on the last hour is drawn beside each endpoint.
WIDE = 110
BARS = " ▁▂▃▄▅▆▇█"
VERDICTS = {"ok": "green", "cold": "blue", "paused": "yellow", "throttled": "yellow"}


@click.command()
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.2, 60), help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print it once: for a pipe, or a log.")
@as_json
def top(*, every: float, once: bool, as_json: bool) -> int:
    """How everything stands, live: endpoints, rates, the oldest request, budgets.

    WAIT and FLY are requests that wait to be submitted, and that are with RunPod; /MIN those that ended in the last
    minute; BUDGET how much of RunPod's calls of /run in 10 s is used up; GPU today's executionTime. q ends it.
    """
    from bridge.doors.celery.consumer.queues import broker_answers  # noqa: PLC0415  (heavy)
    from bridge.engine.control.overview import overview  # noqa: PLC0415
    from bridge.runtime.look import Look  # noqa: PLC0415

    has = bridge()

    broker = Look(partial(broker_answers, has.app), BROKER_S, keep_s=BROKER_KEPT_S)

    def look() -> dict[str, Any]:
        flight = broker.begin()
        told = overview(has.ledger, has.control, has.pressure)
        return {**told, "broker": broker.fault(flight) or "ok"}

    shown = console()
    if as_json:
        click.echo(json.dumps(look()))
    elif once:
        shown.print(drawn(look(), shown.width))
    else:
        live(lambda: drawn(look(), shown.width), every, "--once, or --json,")
    return ExitCode.OK


def drawn(told: dict[str, Any], width: int) -> RenderableType:
    """The screen."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = sorted(told["endpoints"], key=lambda one: (-one["waiting"] - one["in_flight"], one["endpoint"]))
    lines = [_head(told, rows), Text(""), _table(rows, width)]
    if not rows:
        lines = [*lines[:1], Text("\nno endpoint yet: set RUNPOD_ENDPOINT_ID or BRIDGE_ENDPOINTS")]
    if told["broker"] != "ok":
        lines.append(Text(f"broker: {told['broker']}", "red", no_wrap=True, overflow="ellipsis"))
    for one in rows:
        for reason in one["reasons"] if one["verdict"] not in {"ok", "cold", None} else []:
            lines.append(Text(f"{one['endpoint']}: {reason}", "yellow", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def _head(told: dict[str, Any], rows: Sequence[dict[str, Any]]) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415

    def total(name: str) -> int:
        return int(sum(one[name] for one in rows))

    engines, intake = told["engines"], told["intake"]
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, value, style in (
        ("waiting", f"{total('waiting'):,}", ""),
        ("in flight", f"{total('in_flight'):,}", ""),
        ("ended/min", f"{sum(one['ended_per_min'] for one in rows):,.0f}", ""),
        ("kept", f"{told['kept']:,}", ""),
        ("dead", f"{told['dead']:,}", "yellow" if told["dead"] else ""),
    ):
        text.append(f"{name} ", "dim")
        text.append(f"{value}   ", style or "bold")
    text.append("\nengines ", "dim")
    text.append(f"{engines}   ", "bold" if engines else "bold red")
    text.append("intake ", "dim")
    text.append(intake if intake == "open" else f"closed ({intake})", "bold" if intake == "open" else "bold red")
    text.append("   broker ", "dim")
    text.append("ok" if told["broker"] == "ok" else "away", "bold" if told["broker"] == "ok" else "bold red")
    text.append("   ledger ", "dim")
    ratio = told["memory_ratio"]
    text.append(f"{ratio:.0%} of maxmemory   " if ratio else "no maxmemory   ", "bold")
    text.append("polls late ", "dim")
    text.append(span(told["lags"]["poll_s"]), "bold")
    return text


def _table(rows: Sequence[dict[str, Any]], width: int) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="reverse")
    table.add_column("ENDPOINT", no_wrap=True, overflow="ellipsis", min_width=8, max_width=24)
    table.add_column("VERDICT", no_wrap=True)
    for name in ("WAIT", "FLY", "/MIN", "OLDEST", "429", "BUDGET", "GPU"):
        table.add_column(name, no_wrap=True, justify="right")
    if width >= WIDE:
        table.add_column("ENDED, LAST HOUR", no_wrap=True)
    for one in rows:
        run, verdict = one["budget"]["run"], one["verdict"] or "-"
        used = 1 - run["left"] / run["limit"] if run["limit"] else 0.0
        cells: list[Any] = [
            one["endpoint"],
            Text(verdict, VERDICTS.get(verdict, "red" if one["verdict"] else "dim")),
            f"{one['waiting']:,}",
            f"{one['in_flight']:,}",
            f"{one['ended_per_min']:,.0f}",
            span(one["oldest_waiting_s"]),
            Text(str(one["answers_429"]), "yellow" if one["answers_429"] else ""),
            Text(f"{used:.0%}", "yellow" if used > 0.8 else ""),  # noqa: PLR2004
            span(one["gpu_seconds"]),
        ]
        table.add_row(*cells, *([sparkline(one["history"]["ended"][-30:])] if width >= WIDE else []))
    return table


def sparkline(values: Sequence[float]) -> str:
    """One character a value."""
    highest = max(values, default=0) or 1
    return "".join(BARS[math.ceil(value / highest * (len(BARS) - 1))] for value in values)
