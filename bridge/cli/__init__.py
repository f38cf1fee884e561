"""The `bridge` command. Importing it is quick; each verb loads what it needs.

`VERBS` says which file has which verb; `requests/` those about requests, `check/` what `bridge check` looks at;
`terminal/` is how things look, `common` what verbs share, `exit_codes` what they end with.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

from bridge import __version__
from bridge.cli.exit_codes import EPILOG, ExitCode
from bridge.errors import BridgeError, SettingsError

#: verb -> the module below this one that has it, as a click command of the same name; and what the overview says of it
VERBS: Mapping[str, tuple[str, str]] = {
    "worker": (
        "serve",
        "Consume the bridge's queues and run the engine: `celery -A bridge.app worker ARGS`.",
    ),
    "engine": ("serve", "Run the engine alone, for workers that have BRIDGE_ENGINE=off."),
    "emulate": ("serve", "Run RunPod Serverless on this machine."),
    "run": (
        "requests.request",
        "Submit a request through the broker and watch it to its end; print its output.",
    ),
    "status": ("requests.request", "The document of a request."),
    "watch": ("requests.request", "Follow a request's transitions to its end."),
    "jobs": ("requests.jobs", "Requests, the newest first: all, or those that the options name."),
    "top": ("top", "How everything stands, live: endpoints, rates, the oldest request, budgets."),
    "cancel": (
        "control",
        "Cancel requests in whatever phase they are; running ones are cancelled at RunPod.",
    ),
    "retry": ("control", "Run a FAILED or TIMED_OUT request once more, while RunPod keeps its job."),
    "health": (
        "control",
        "RunPod's counters and the bridge's own, with a verdict; all endpoints when none is named.",
    ),
    "purge": ("control", "Clear an endpoint's queue at RunPod: for everyone on that endpoint."),
    "pause": (
        "control",
        "Let no submit leave for an endpoint; running jobs are watched, requests wait.",
    ),
    "resume": ("control", "Let submits leave again."),
    "dead": ("dead", "What could not be taken or told, and parked requests."),
    "topology": ("topology", "The queues the bridge consumes, and whether the broker has them."),
    "check": (
        "check.check",
        "Look at settings, ledger, broker, key and engines; say what is wrong and how to mend it.",
    ),
    "token": (
        "token",
        "Make a token: itself on stderr, and on stdout what BRIDGE_API_TOKENS_FILE is to have of it.",
    ),
    "schema": (
        "schema",
        "The JSON Schemas of requests and documents (or that of NAME), or a document of all channels or all of HTTP.",
    ),
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
        found = getattr(importlib.import_module(f"bridge.cli.{VERBS[name][0]}"), name)
        return found() if not isinstance(found, click.Command) else found

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without loading any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in VERBS.items()])


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bridge")
def cli() -> None:
    """Bridge message queues to RunPod Serverless: run a worker, submit and watch jobs, cancel, check, emulate."""


def unforeseen(error: Exception) -> ExitCode:
    """A server that went away meanwhile is a sentence; anything else a traceback, without secrets."""
    import traceback  # noqa: PLC0415

    from bridge.doors.celery.servers import explained  # noqa: PLC0415  (heavy)
    from bridge.telemetry import redact  # noqa: PLC0415

    if (known := explained(error, "broker or results")) is not None:
        click.echo(f"{type(known).__name__}: {known}", err=True)
        return ExitCode.of(known)
    click.echo(redact("", "".join(traceback.format_exception(error))), err=True)
    return ExitCode.CRASHED


def main() -> None:
    """The entry point: errors are told to people, never as tracebacks."""
    try:
        code = cli.main(standalone_mode=False)
    except SettingsError as error:
        click.echo("The settings cannot be used:", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(ExitCode.SETTINGS)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(ExitCode.STOPPED)
    except SystemExit:  # so click says that nobody reads any more: `| head`
        sys.exit(ExitCode.STOPPED)
    except BridgeError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(ExitCode.of(error))
    except Exception as error:  # noqa: BLE001  (its traceback may hold an address with its password)
        sys.exit(unforeseen(error))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
