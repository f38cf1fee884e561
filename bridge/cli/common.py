"""What verbs share: this process' bridge without an engine, who is asking, and how answers are shown."""

from __future__ import annotations

import getpass
import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import click

from bridge.cli.terminal.findings import readable

if TYPE_CHECKING:
    from celery import Celery

    from bridge.engine.control import Asker
    from bridge.process.components import Components

as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def bridge() -> Components:
    """The ledger, control and clients of this process, as the environment sets them."""
    from bridge.process import components  # noqa: PLC0415  (heavy)
    from bridge.telemetry import configure_logging  # noqa: PLC0415

    made = components.current(cast("Celery", _Later()))
    configure_logging("error", as_json=made.settings.bridge_log_json)
    return made


def bridge_to_change() -> Components:
    """The same for verbs that change what is in the ledger, as a process that starts. Raises SchemaTooNew."""
    from bridge import __version__  # noqa: PLC0415

    made = bridge()
    made.ledger.engines.check_schema(__version__)
    return made


class _Later:
    """The Celery app, loaded by the first verb that sends a task or asks the broker: the others do without."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_app(), name)


@cache
def _app() -> Celery:
    """Ours, which does not wait in a command for an AMQP broker that takes no messages from anybody."""
    from bridge.app import app  # noqa: PLC0415  (heavy)
    from bridge.doors.celery import servers  # noqa: PLC0415  (heavy)

    options = app.conf.broker_transport_options
    if "confirm_publish" in options:
        app.conf.broker_transport_options = {**options, "on_open": servers.refuses_when_blocked}
    return app


def servers_open(has: Components) -> None:
    """Broker and results, before a task is sent: Celery would try again for a minute, and end in a traceback.

    Raises SettingsError or ServerUnavailable.
    """
    from bridge.doors.celery import servers  # noqa: PLC0415  (heavy)

    servers.open_broker(has.app)
    servers.open_results(has.app)


def asker() -> Asker:
    """The user of this shell."""
    from bridge.engine.control import Asker  # noqa: PLC0415

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return Asker(by=name, door="cli")


def show(answer: Any, *, as_json: bool) -> None:
    """A document: JSON for machines, `name  value` lines for people."""
    if as_json:
        click.echo(json.dumps(answer))
        return
    for document in answer if isinstance(answer, list) else [answer]:
        _lines(document, "")


def _lines(value: Any, indent: str) -> None:
    if not isinstance(value, dict):
        _echo(f"{indent}{value}")
        return
    width = max((len(str(name)) for name in value), default=0)
    for name, item in value.items():
        if item is None or item in ({}, []):
            continue
        if isinstance(item, dict):
            _echo(f"{indent}{name}")
            _lines(item, indent + "  ")
        else:
            text = item if isinstance(item, str | int | float) else json.dumps(item)
            _echo(f"{indent}{name:{width}}  {text}")


def _echo(text: str) -> None:
    """A line, also of what the terminal cannot spell (half of a surrogate pair is no character), or would obey."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(readable(text.encode(encoding, "backslashreplace").decode(encoding)))
