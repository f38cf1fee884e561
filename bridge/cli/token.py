"""A token for the HTTP door: shown once, kept as a hash."""

from __future__ import annotations

import re

import click

from bridge.cli.exit_codes import ExitCode


@click.command()
@click.argument("name")
@click.option("--tenant", help="Whose requests it sends and reads (metadata.tenant).")
@click.option(
    "--right",
    "rights",
    type=click.Choice(["submit", "read", "read_all", "control"]),
    multiple=True,
    help="What it may; submit and read where none is named.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=100, help="Requests a second [100].")
def token(name: str, tenant: str | None, rights: tuple[str, ...], rate: float) -> int:
    """Make a token: itself on stderr, and on stdout what BRIDGE_API_TOKENS_FILE is to have of it.

    bridge token web --tenant acme >> tokens.toml
    """
    from bridge.doors.http.api.tokens import NAME, Tokens, hashed, new_token, row  # noqa: PLC0415  (heavy)

    for what, given in (("NAME", name), ("--tenant", tenant)):
        if given is not None and not re.fullmatch(NAME, given):
            raise click.UsageError(f"{what}: must be 1 to 40 of A-Z a-z 0-9 . _ -")
    made = new_token()
    lines = row(name, hashed(made), tenant, rights or ("submit", "read"), rate)
    try:
        Tokens.parse(lines)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(lines, nl=False)
    click.echo(f"{made}\n(the token: it is shown this once)", err=True)
    return ExitCode.OK
