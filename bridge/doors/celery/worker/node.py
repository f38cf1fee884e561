"""The bridge worker as a process of Celery's: its name on the broker, and the exit code of every way in which it ends.

Celery's own worker ends with 1 and a traceback for whatever stops it. Here what an operator can mend is a sentence,
with the exit code that the `bridge` command has for it (bridge/cli/exit_codes.py).
"""

from __future__ import annotations

import socket
import traceback
from typing import Any

import click
from celery.apps.worker import Worker
from celery.exceptions import ImproperlyConfigured, WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.utils.nodenames import nodename
from click.core import ParameterSource

from bridge.doors.celery import servers
from bridge.errors import SETTINGS_CODE, STOPPED_CODE, UNAVAILABLE_CODE, SettingsError
from bridge.telemetry import redact, tell

#: What stands before the host: Celery's own `celery@host` is another team's worker on the same machine.
NAME = "bridge"
_PLAIN = (str, int, float, bool, type(None))
#: Pools of Celery's that have one size from their start to their end.
_FIXED_POOLS = ("celery.concurrency.thread", "celery.concurrency.solo")


class Unusable(click.ClickException, SettingsError):
    """Faults of the settings as the `celery` command shows them: sentences, not a traceback."""

    exit_code = SETTINGS_CODE

    def __init__(self, *faults: str) -> None:
        """One line a fault."""
        super().__init__("the settings cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.args = self.faults = faults


class Node(Worker):  # type: ignore[misc]
    """`app.Worker`, which is how every command starts one."""

    def __init__(self, app: Any = None, hostname: str | None = None, **options: Any) -> None:
        """Raises Unusable for settings that no worker could start with; nothing is connected to yet."""
        if not _was_named(hostname):
            hostname = nodename(NAME, socket.gethostname())
        try:
            servers.recognise(app or self.app)
        except SettingsError as error:
            raise Unusable(*error.faults) from None
        try:
            super().__init__(app, hostname, **options)
        except ImproperlyConfigured as error:  # a queue that is none, say
            raise Unusable(" ".join(str(redact("", str(error))).split())) from None
        if getattr(self.pool_cls, "__module__", "") == "celery.concurrency.gevent" and not _patched():
            raise Unusable(
                "the gevent pool was seen too late to patch Python's sockets: write `-P gevent` or `--pool=gevent` on "
                "the command line (Celery looks neither at `worker_pool` nor at `-Pgevent` in time)"
            )
        if self.autoscale and fixed_pool(self.pool_cls):  # each message would be refused for what the scaling raises
            raise Unusable(
                "--autoscale: this pool has a fixed size; leave it out and name the size with -c (a job holds no "
                "thread), or take `-P prefork` or `-P gevent`"
            )

    def start(self) -> None:
        """As Celery's, with a sentence and a code for what stops it."""
        try:
            self.blueprint.start(self)
        except WorkerTerminate as end:
            self.exitcode = self._code(end)
            self.terminate()
        except SystemExit as end:
            self.stop(exitcode=self._code(end))
        except KeyboardInterrupt:
            self.stop(exitcode=STOPPED_CODE)
        except Exception as error:  # noqa: BLE001  (nothing above it would tell what happened without a secret in it)
            self.stop(exitcode=self._told(error))

    def stats(self) -> dict[str, Any]:
        """As Celery's, for `inspect stats`: of the connection what JSON can say, not the bridge's parts of it."""
        told: dict[str, Any] = super().stats()
        connection = self.consumer.connection
        if connection is not None and isinstance(told.get("broker"), dict):
            options = {k: v for k, v in (connection.transport_options or {}).items() if isinstance(v, _PLAIN)}
            told["broker"] |= {"transport": connection.transport.driver_type, "transport_options": options}
        return told

    def _code(self, end: SystemExit) -> int:
        """Celery ends with its 1 what a signal but SIGTERM stops, and what it has given up because of an error."""
        if isinstance(end.__cause__, Exception):
            return self._told(end.__cause__)
        return STOPPED_CODE if end.code in {EX_FAILURE, True} else int(end.code or 0)

    def _told(self, error: Exception) -> int:
        if servers.is_locked(error):
            says = (
                f"another worker on this broker is called {self.hostname}: give each its own name, for example "
                f"`-n {NAME}2@%h`; one that was killed is forgotten by RabbitMQ within its heartbeat"
            )
            tell("settings.unusable", error=says)
            return SETTINGS_CODE
        known = servers.explained(error)
        if isinstance(known, SettingsError):
            tell("settings.unusable", error=str(known))
            return SETTINGS_CODE
        if known is not None:
            tell("broker.unavailable", error=str(known))
            return UNAVAILABLE_CODE
        lines = "".join(traceback.format_exception(error))
        tell("worker.crashed", error=f"{type(error).__name__}: {error}", traceback=redact("", lines))
        return int(EX_FAILURE)


def fixed_pool(pool: Any) -> bool:
    """Of a pool or its class: whether Celery cannot make it larger or smaller while it runs."""
    return (pool if isinstance(pool, type) else type(pool)).__module__ in _FIXED_POOLS


def _was_named(hostname: str | None) -> bool:
    """Whether somebody chose the name: the `celery` command gives its own default as if it had been asked for."""
    context = click.get_current_context(silent=True)
    if context is None:
        return bool(hostname)
    return context.get_parameter_source("hostname") not in {None, ParameterSource.DEFAULT}


def _patched() -> bool:
    from gevent.monkey import is_module_patched  # noqa: PLC0415  (only where that pool is asked for)

    return bool(is_module_patched("socket") and is_module_patched("threading"))
