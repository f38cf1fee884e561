"""`bridge schema`: JSON Schemas, the AsyncAPI and the OpenAPI document, printed, written or compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bridge.cli.exit_codes import ExitCode


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
            click.echo(str(folder / name))
    except OSError as error:
        raise click.UsageError(f"--write: {error.filename}: {error.strerror}") from None
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
