"""Verbs that stay: worker, engine, emulate."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys

import click

from bridge.cli.exit_codes import ExitCode

#: Celery's own options that are most used, as they are handed on.
SHORT = {"queues": "-Q", "pool": "-P", "concurrency": "-c", "hostname": "-n", "loglevel": "-l"}

#: Signals that end the engine, and seconds beyond its grace after which a stop that hangs is given up.
ENDS, STUCK_S = (signal.SIGTERM, signal.SIGINT), 30.0


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "-Q", "--queues", metavar="NAMES", help="Read these alone (all: bridge.run,bridge.finish,bridge.control)."
)
@click.option("-P", "--pool", metavar="NAME", help="threads (the default), prefork, gevent or solo.")
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
    if said.get("pool") == "gevent":
        _find_gevent()
    args = (*(part for name, value in said.items() if value for part in (SHORT[name], value)), *args)
    from bridge.settings import load  # noqa: PLC0415
    from bridge.settings.unknown_variables import overruling  # noqa: PLC0415

    settings = load()
    for says in overruling():  # afterwards nobody can tell
        click.echo(f"WARN  settings   {says}", err=True)
    level = [] if any(arg.startswith(("-l", "--loglevel")) for arg in args) else ["-l", settings.bridge_log_level]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", "bridge.app", "worker", *level, *args])  # noqa: S606


def _find_gevent() -> None:
    """Celery imports it before anything else, and would end in a traceback."""
    try:
        importlib.import_module("gevent")
    except ImportError:
        fault = "-P gevent: gevent is not installed: pip install gevent. The default pool, threads, needs nothing more"
        raise click.UsageError(fault) from None


@click.command()
def engine() -> int:
    """Run the engine alone, for workers that have BRIDGE_ENGINE=off. SIGTERM stops it in good order."""
    from bridge.app import app  # noqa: PLC0415
    from bridge.doors.celery import servers  # noqa: PLC0415
    from bridge.process import components  # noqa: PLC0415
    from bridge.process.process import Process  # noqa: PLC0415

    servers.recognise(app)
    has = components.current(app)
    process = Process(has)
    # Python writes the byte where the signal comes in. A handler would run in this thread alone, which may be about to
    # read: then nothing wakes it.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for name in ENDS:
        signal.signal(name, lambda *_: None)
    process.check()
    process.start(engine=True, others_code=False)
    click.echo(f"engine {process.engine.engine_id if process.engine else ''} ready")
    while os.read(told, 1)[0] not in ENDS:
        pass
    # Whatever hangs, here or in a library: all threads' stacks are told, and leases do the rest, as after a kill.
    faulthandler.dump_traceback_later(STUCK_S + 2 * has.settings.bridge_stop_grace_s, exit=True)
    stopped = process.stop()
    faulthandler.cancel_dump_traceback_later()
    return ExitCode.OK if stopped else ExitCode.FAILED


def emulate() -> click.Command:
    """The emulator's own command, loaded when it is asked for: nothing else of the bridge imports it."""
    found: click.Command = importlib.import_module("bridge.emulator.command").emulate
    return found
