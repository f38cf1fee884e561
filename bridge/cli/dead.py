"""`bridge dead`: what could not be taken or told, and records that engines could not work."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import as_json, bridge, bridge_to_change, show
from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.findings import hanging, printable
from bridge.cli.terminal.times import since

if TYPE_CHECKING:
    from bridge.process.components import Components


@click.group()
def dead() -> None:
    """What could not be taken or told, and parked requests."""


@dead.command("list")
@click.option("--reason", help="Only these: malformed, too_large, rejected, id_conflict, undeliverable, parked ...")
@click.option("--count", default=1_000, show_default=True, type=click.IntRange(1, 100_000), help="How many at most.")
@as_json
def dead_list(*, reason: str | None, count: int, as_json: bool) -> None:
    """The newest first, without their originals; parked requests with their last error."""
    from bridge.ledger.queries.parked_requests import parked  # noqa: PLC0415

    has = bridge()
    letters = [_shown(has, letter, ("original",)) for letter in has.ledger.dead.newest(count)]
    found = [one for one in [*parked(has.ledger), *letters] if reason in (None, one["reason"])]
    if as_json:
        show(found, as_json=True)
        return
    if not found:
        click.echo(f"none with the reason {reason}" if reason else "none: nothing was refused, and nothing is parked")
    for one in found:
        about = one.get("source") or one.get("endpoint") or one["door"] or ""
        size = f"{one['size']} bytes" if "size" in one else f"phase {one['phase']}"
        line = f"{one['id']}  {one['time'] or ''}  {one['reason']:13} {about}  {size}"
        if sys.stdout.isatty():
            click.echo(
                f"{one['id']}  {since(one['time'], int(time.time() * 1000)):>4}  {one['reason']:13} {about}  {size}"
            )
            hanging("    ", printable(one["detail"][:160]), 4)
        else:
            click.echo(f"{line}  {printable(one['detail'][:160])}")


@dead.command("show")
@click.argument("letter_id", metavar="ID")
@as_json
def dead_show(letter_id: str, *, as_json: bool) -> None:
    """One, with its original; secrets are blotted out."""
    has = bridge()
    show(_shown(has, _found(has, letter_id)), as_json=as_json)


@dead.command("replay")
@click.argument("letter_ids", metavar="ID...", nargs=-1)
@click.option("--reason", help="All letters with this reason.")
@click.option("--id", "request_id", help="Give the request another id (with a single letter).")
@as_json
def dead_replay(letter_ids: tuple[str, ...], *, reason: str | None, request_id: str | None, as_json: bool) -> int:
    """Send letters again through the door they came by, and forget them; have parked requests worked now."""
    from bridge.doors.replay import replay  # noqa: PLC0415
    from bridge.errors import NotReplayable  # noqa: PLC0415
    from bridge.ledger.queries.parked_requests import unpark  # noqa: PLC0415

    has = bridge_to_change()
    if reason is not None:
        letter_ids += tuple(letter["id"] for letter in has.ledger.dead.newest() if letter["reason"] == reason)[::-1]
    if not letter_ids:
        raise click.UsageError("name a letter, or --reason of some that are there")
    if request_id is not None and len(letter_ids) > 1:
        raise click.UsageError("--id: one letter at a time")
    told: list[dict[str, Any]] = []
    for letter_id in letter_ids:
        letter = _found(has, letter_id)
        try:
            if letter.get("kind") == "parked":
                unpark(has.ledger, letter_id)
                told.append({"id": letter_id, "replayed": True, "to": "engine"})
                continue
            where = replay(has.app, has.ledger, letter, amqp=has.settings.amqp, request_id=request_id)
        except NotReplayable as error:
            told.append({"id": letter_id, "replayed": False, "why": str(error)})
            continue
        has.ledger.dead.drop([letter_id])
        told.append({"id": letter_id, "replayed": True, "to": where})
    if as_json:
        show(told, as_json=True)
    for one in () if as_json else told:
        click.echo(f"{one['id']}  {'sent to ' + one['to'] if one['replayed'] else 'not sent: ' + one['why']}")
    return ExitCode.OK if all(one["replayed"] for one in told) else ExitCode.REJECTED


@dead.command("drop")
@click.argument("letter_ids", metavar="ID...", nargs=-1, required=True)
@as_json
def dead_drop(letter_ids: tuple[str, ...], *, as_json: bool) -> int:
    """Forget some. A parked request is not dropped: cancel it."""
    from bridge.job.request import REQUEST_ID  # noqa: PLC0415

    has = bridge_to_change()
    letters = [one for one in letter_ids if _is_letter(one)]
    dropped = has.ledger.dead.drop(letters)
    others = [one for one in letter_ids if one not in letters]
    requests = [one for one in others if REQUEST_ID.fullmatch(one) and has.ledger.knows(one)]
    if as_json:
        show({"dropped": dropped, "not_letters": others}, as_json=True)
    else:
        click.echo(f"{dropped} dropped")
        for one in others:
            said = f"is a request: `bridge cancel {one}` ends it" if one in requests else "is no dead letter"
            click.echo(f"{one} {said}", err=True)
        if dropped < len(letters):
            click.echo(f"{len(letters) - dropped} not there: dropped before, or trimmed", err=True)
    return ExitCode.OK if dropped == len(letter_ids) else ExitCode.UNKNOWN


def _is_letter(letter_id: str) -> bool:
    at, dash, number = letter_id.partition("-")
    return bool(dash) and all(part.isdecimal() and int(part) < 1 << 64 for part in (at, number))


def _found(has: Components, letter_id: str) -> dict[str, Any]:
    from bridge.errors import JobRejected  # noqa: PLC0415
    from bridge.ledger.queries.parked_requests import parked  # noqa: PLC0415

    letter = has.ledger.dead.get(letter_id) if _is_letter(letter_id) else None
    if letter is None:
        letter = next((one for one in parked(has.ledger) if one["id"] == letter_id), None)
    if letter is None:
        fault = f"there is no dead letter and no parked request {letter_id}"
        raise JobRejected(fault, {"field": "id", "id": letter_id, "unknown": True})
    return letter


def _shown(has: Components, letter: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """As it may be shown: no secrets, at any depth of the original (HARDENING 21)."""
    from bridge.ledger.streams.dead_letters import shown  # noqa: PLC0415

    return shown(letter, has.settings.bridge_redact, without)
