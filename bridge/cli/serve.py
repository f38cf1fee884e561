"""Verbs that stay: worker, engine, emulate."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from bridge.cli.codes import ExitCode

#: Celery's own options that are most used, as they are handed on.
SHORT = {"queues": "-Q", "pool": "-P", "concurrency": "-c", "hostname": "-n", "loglevel": "-l"}


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "-Q", "--queues", metavar="NAMES", help="Read these alone (all: bridge.run,bridge.finish,bridge.control)."
)
@click.option("-P", "--pool", metavar="NAME", help="threads (the default), prefork or gevent.")
@click.option("-c", "--concurrency", metavar="N", help="Threads that take messages; jobs in flight need none.")
@click.option("-n", "--hostname", metavar="NAME", help="This worker's name among the others.")
@click.option("-l", "--loglevel", metavar="LEVEL", help="Of Celery's log; BRIDGE_LOG_LEVEL is the bridge's.")
@click.option("--celery-help", is_flag=True, help="All options of `celery worker`; each of them may be given.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def worker(args: tuple[str, ...], *, celery_help: bool, **said: str | None) -> None:
    """Consume the bridge's queues and run the engine: `celery -A bridge.app worker ARGS`.

    In its place, not in this process: only at Celery's own start is a gevent pool seen before anything is imported.
    All else is set by BRIDGE_* variables (docs/configuration.md); `bridge check` says what is missing.
    """
    if celery_help:
        args = ("--help",)
    args = (*(part for name, value in said.items() if value for part in (SHORT[name], value)), *args)
    from bridge.settings import load  # noqa: PLC0415

    settings = load()
    level = [] if any(arg.startswith(("-l", "--loglevel")) for arg in args) else ["-l", settings.bridge_log_level]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", "bridge.app", "worker", *level, *args])  # noqa: S606


@click.command()
def engine() -> int:
    """Run the engine alone, for workers that have BRIDGE_ENGINE=off. SIGTERM stops it in good order."""
    from bridge.app import app  # noqa: PLC0415
    from bridge.doors.celery.consumer import servers  # noqa: PLC0415
    from bridge.process import components  # noqa: PLC0415
    from bridge.process.process import Process  # noqa: PLC0415

    servers.recognise(app)
    process = Process(components.current(app))
    # A pipe, for an Event that is set by a handler while it is about to be waited for hangs for ever.
    told, tell = os.pipe()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: os.write(tell, b"x"))
    process.check()
    process.start(engine=True)
    click.echo(f"engine {process.engine.engine_id if process.engine else ''} ready")
    os.read(told, 1)
    return ExitCode.OK if process.stop() else ExitCode.FAILED


def emulate() -> click.Command:
    """The emulator's own command, loaded when it is asked for: nothing else of the bridge imports it."""
    found: click.Command = importlib.import_module("bridge.emulator.command").emulate
    return found
