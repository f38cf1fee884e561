"""The `bridge` command: one file per group of verbs. Importing it is quick; each verb loads what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

from bridge import __version__
from bridge.cli.codes import EPILOG, ExitCode
from bridge.errors import BridgeError, SettingsError

#: verb -> the module that has it, as a click command of the same name
VERBS: Mapping[str, str] = {
    "worker": "bridge.cli.serve",
    "engine": "bridge.cli.serve",
    "emulate": "bridge.cli.serve",
    "run": "bridge.cli.requests",
    "status": "bridge.cli.requests",
    "watch": "bridge.cli.requests",
    "cancel": "bridge.cli.control",
    "retry": "bridge.cli.control",
    "health": "bridge.cli.control",
    "purge": "bridge.cli.control",
    "pause": "bridge.cli.control",
    "resume": "bridge.cli.control",
    "dead": "bridge.cli.dead",
    "topology": "bridge.cli.ops",
    "check": "bridge.cli.ops",
    "schema": "bridge.cli.ops",
}


class Verbs(click.Group):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """In the order of VERBS."""
        return list(VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The verb, None for an unknown one."""
        if name not in VERBS:
            return None
        found = getattr(importlib.import_module(VERBS[name]), name)
        return found() if not isinstance(found, click.Command) else found


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bridge")
def cli() -> None:
    """Bridge message queues to RunPod Serverless: run a worker, submit and watch jobs, cancel, check, emulate."""


def main() -> None:
    """The entry point: errors are told to people, never as tracebacks."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(ExitCode.STOPPED)
    except SettingsError as error:
        click.echo("The settings cannot be used:", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(ExitCode.SETTINGS)
    except BridgeError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(ExitCode.of(error))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
