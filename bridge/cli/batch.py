"""A batch from a file: one input a line in, one result a line out; a second run goes on where the first stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.codes import ExitCode

if TYPE_CHECKING:
    from bridge.wiring import Bridge

#: Requests of one batch under way at once; the ledger would hold more, a file of results is read in order of ends.
WINDOW = 1_000
LOOK_S = 0.2


def run_batch(house: Bridge, batch: Path, out: Path, arguments: dict[str, Any], *, as_json: bool) -> int:
    """Exit 0 when every line has COMPLETED, now or in an earlier run."""
    done = _done(out)
    lines = [
        (f"{batch.stem}:{n}", line) for n, line in enumerate(batch.read_text().splitlines(), start=1) if line.strip()
    ]
    todo = [(request_id, line) for request_id, line in lines if request_id not in done]
    failed = sum(1 for status in done.values() if status != "COMPLETED")
    waiting: dict[str, None] = {}
    endpoint = house.book.resolve(arguments.get("endpoint")).name
    with out.open("a") as results, _bar(len(lines), len(done), quiet=as_json) as bar:
        while todo or waiting:
            while todo and len(waiting) < WINDOW and house.pressure.closed(endpoint) is None:
                request_id, line = todo.pop(0)
                _send(house, request_id, line, arguments)
                waiting[request_id] = None
            for told in _ended(house, list(waiting)):
                waiting.pop(told["id"])
                failed += told["status"] != "COMPLETED"
                results.write(
                    json.dumps({k: told.get(k) for k in ("id", "status", "reason", "output", "error")}) + "\n"
                )
                results.flush()
                bar.update(1)
            time.sleep(LOOK_S)
    if as_json:
        click.echo(json.dumps({"lines": len(lines), "failed": failed, "out": str(out)}))
    else:
        click.echo(f"{len(lines) - failed} of {len(lines)} completed; results in {out}", err=True)
    return ExitCode.FAILED if failed else ExitCode.OK


def _send(house: Bridge, request_id: str, line: str, arguments: dict[str, Any]) -> None:
    from bridge.cli.requests import send  # noqa: PLC0415  (they import each other)

    try:
        given = json.loads(line)
    except ValueError as error:
        raise click.UsageError(f"{request_id}: not JSON: {error}") from None
    send(house, request_id, {"input": given, **arguments})


def _ended(house: Bridge, request_ids: list[str]) -> list[dict[str, Any]]:
    phases = house.ledger.phases(request_ids) if request_ids else []
    return [
        house.control.status(id=request_id)
        for request_id, phase in zip(request_ids, phases, strict=True)
        if phase is not None and phase.ended
    ]


def _done(out: Path) -> dict[str, str]:
    if not out.exists():
        return {}
    told = [json.loads(line) for line in out.read_text().splitlines() if line.strip()]
    return {one["id"]: one["status"] for one in told}


def _bar(length: int, done: int, *, quiet: bool) -> Any:
    bar = click.progressbar(length=length, label="batch", hidden=quiet)
    bar.update(done)
    return bar
