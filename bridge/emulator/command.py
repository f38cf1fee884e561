"""`bridge emulate`: RunPod Serverless on this machine, until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from bridge import __version__
from bridge.emulator.config import EndpointConfig, Handler
from bridge.emulator.server import Emulator


@click.command(short_help="Run RunPod Serverless on this machine.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--endpoint", "endpoints", multiple=True, metavar="NAME", help="An endpoint; may be given often.")
@click.option("--api-key", "keys", multiple=True, metavar="KEY", help="A key to let in [default: test-key].")
@click.option(
    "--handler", "handlers", multiple=True, metavar="FILE|NAME=FILE", help="An unmodified RunPod handler to run."
)
@click.option(
    "--python", "pythons", multiple=True, metavar="PATH|NAME=PATH", help="The Python that runs handlers, or NAME's."
)
@click.option("--workers", default=3, show_default=True, type=click.IntRange(0), help="Most RunPod workers each.")
@click.option("--jobs-per-worker", default=1000, show_default=True, type=click.IntRange(1), help="Of a built-in one.")
@click.option("--cold-start", default=0.0, show_default=True, type=click.FloatRange(0), help="Seconds, built-in.")
@click.option("--speed", default=1.0, show_default=True, type=float, help="Virtual seconds per second.")
@click.option("--no-echo", is_flag=True, help='Without mock_return "Hello World!", as RunPod\'s mock worker.')
@click.option("--no-limits", is_flag=True, help="Do not enforce RunPod's rate limits.")
@click.version_option(__version__, prog_name="runpod-emulator")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS OF THE HANDLERS]")
def emulate(
    host: str,
    port: int,
    endpoints: tuple[str, ...],
    keys: tuple[str, ...],
    handlers: tuple[str, ...],
    pythons: tuple[str, ...],
    workers: int,
    jobs_per_worker: int,
    cold_start: float,
    speed: float,
    no_echo: bool,
    no_limits: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run RunPod Serverless on this machine: its HTTP API, and RunPod workers behind it.

    Without --handler the built-in RunPod worker echoes its input, or does what mock_delay, mock_return, mock_error,
    mock_crash, mock_progress and mock_stream in it say.
    """
    names = list(endpoints)
    files: dict[str, Path] = {}
    for text in handlers:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = (names or ["demo"])[0], text
        if name in files:
            raise click.UsageError(f"endpoint {name!r} has two handlers: {files[name]} and {file}")
        files[name] = Path(file)
        if name not in names:
            names.append(name)
    if (pythons or arguments) and not files:
        raise click.UsageError("--python and arguments are for handlers: give one with --handler FILE")
    programs = _programs(pythons, files)
    config = EndpointConfig(
        workers_max=workers, jobs_per_worker=jobs_per_worker, cold_start_s=cold_start, echo=not no_echo
    )
    try:
        emulator = Emulator(
            dict.fromkeys(names or ["demo"], config),
            api_keys=keys or ("test-key",),
            host=host,
            port=port,
            speed=speed,
            handlers={name: Handler(file, programs[name], arguments) for name, file in files.items()},
            limits=not no_limits,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # A pipe, for an Event that is set by a handler while it is about to be waited for hangs for ever.
    told, tell = os.pipe()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.write(tell, b"x"))
    try:
        emulator.start()
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        click.echo(f"export RUNPOD_ENDPOINT_BASE_URL={emulator.base_url}")
        click.echo(f"export RUNPOD_API_KEY={(keys or ('test-key',))[0]}")
        os.read(told, 1)
    finally:
        emulator.stop()


def _programs(pythons: tuple[str, ...], files: dict[str, Path]) -> dict[str, str]:
    """Return the Python of each endpoint with a handler."""
    own: dict[str, str] = {}
    for text in pythons:
        name, equals, path = text.partition("=")
        if equals and name not in files:
            raise click.UsageError(f"--python {text}: endpoint {name!r} has no handler")
        own[name if equals else ""] = path if equals else text
    return {name: own.get(name, own.get("", sys.executable)) for name in files}
