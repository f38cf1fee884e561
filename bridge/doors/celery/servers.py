"""Broker and result backend: whether they can be opened, and what to do where they cannot, in one sentence.

An outage is tried again by whoever needs the server; a fault (a wrong password or vhost, a scheme or driver that is not
there) is told at once and is an operator's. Nothing told here holds any part of a password (I11).
"""

from __future__ import annotations

import importlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from amqp import exceptions as amqp
from celery import states
from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES

from bridge.errors import BridgeError, ServerUnavailable, SettingsError, chain_of
from bridge.ledger.server.connect import refusal_of
from bridge.redis.outage import is_outage, with_remedy
from bridge.runtime import broker_connection
from bridge.telemetry import redact

if TYPE_CHECKING:
    from celery import Celery

BROKER, RESULTS, LEDGER = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"
#: Seconds for one try.
CONNECT_S = 5.0
#: Backends that are no server of their own, or that nothing can be read from without taking it.
_NO_SERVER = frozenset({"DisabledBackend", "RPCBackend", "CacheBackend"})


#: The id of a result that is nobody's.
_PROBE = "bridge:probe"
#: What would start and never work.
_NEVER_BROKERS = {
    "memory": "memory:// lives inside one process, and no producer is in it",
    "confluentkafka": "Kafka confirms no single message, so what a worker holds when it dies is lost or done twice; a "
    "consumer of yours can put such messages on the stream bridge:requests (docs/services.md)",
}
_NEVER_RESULTS = {"cache+memory": "cache+memory:// lives inside the worker's process, where no caller can read it"}
#: Brokers that scripts/compat tries.
_TRIED = frozenset({"redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp", "sqs"})


@dataclass(slots=True)
class Standing:
    """How this process' consumer stands with the broker."""

    #: Why a broker that had let it in refuses it now.
    refused: str | None = None


standing = Standing()

_AWAY = (OperationalError, amqp.ConnectionError, ConnectionError, TimeoutError, socket.gaierror)


def recognise(app: Celery) -> None:
    """Build what would connect, and connect to nothing. Raises SettingsError with every fault."""
    faults: list[str] = []
    for build in (_transport, _backend):
        try:
            build(app)
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(*dict.fromkeys(faults))  # settings that cannot be read are told by either


def broker_doubts(app: Celery) -> list[str]:
    """What this broker does not carry, or what nobody has tried with it."""
    connection = app.connection_for_write()
    scheme = str(app.conf.broker_write_url or "").partition("://")[0].partition("+")[0]
    found = []
    if scheme not in _TRIED:
        found.append(f"is {scheme}://, which nobody has tried with the bridge; see docs/compatibility.md")
    if not connection.supports_exchange_type("fanout"):
        found.append(
            f"{scheme}:// carries no broadcasts: `revoke()` and `inspect` reach no worker; what cancels is the task "
            "bridge.cancel, `bridge cancel ID`, and a message on bridge:commands"
        )
    return found


def open_broker(app: Celery) -> str:
    """The broker's address without its password. Raises SettingsError or ServerUnavailable."""
    _transport(app)
    try:
        with app.connection_for_write(connect_timeout=CONNECT_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_S)
            connection.default_channel  # noqa: B018  (opens it: Redis is first asked something here)
            return str(connection.as_uri())
    except Exception as error:  # noqa: BLE001  (each transport has its own)
        raise explained(error, BROKER) or ServerUnavailable(f"{BROKER}: {said(error)}") from None


def open_results(app: Celery) -> str | None:
    """The result backend's name, once it has answered; None where there is no server to ask.

    Raises SettingsError or ServerUnavailable.
    """
    backend = _backend(app)
    if type(backend).__name__ in _NO_SERVER:
        return None
    variable = _results_variable()
    try:
        backend._get_task_meta_for(_PROBE)  # noqa: SLF001  (one read, without the retries of its public form)
    except Exception as error:  # noqa: BLE001  (drivers of databases have words of their own)
        raise explained(error, variable) or ServerUnavailable(
            f"{variable}: the result backend cannot be read: {said(error)}; is its address right, and is it up?"
        ) from None
    return str(backend.as_uri())


def write_results(app: Celery) -> None:
    """Store a result and forget it. Raises SettingsError or ServerUnavailable where the backend stores none."""
    variable = _results_variable()
    try:
        app.backend.store_result(_PROBE, None, states.PENDING)
        app.backend.forget(_PROBE)
    except NotImplementedError:  # a backend that can forget nothing has stored it all the same
        return
    except Exception as error:  # noqa: BLE001  (drivers of databases have words of their own)
        raise explained(error, variable) or ServerUnavailable(
            f"{variable}: the result backend can be read, and stores nothing: {said(error)}; ends wait in the ledger"
        ) from None


def refuses_when_blocked(connection: amqp.Connection) -> None:
    """For py-amqp's `on_open`: ServerUnavailable at once if RabbitMQ blocks this connection, as it publishes."""

    def blocked(_reason: str) -> NoReturn:
        connection.transport.sock.settimeout(broker_connection.CLOSE_S)  # nobody reads that it is closed
        raise ServerUnavailable(
            f"{BROKER}: RabbitMQ takes no messages from anybody now, for its memory or its disk is short: `rabbitmqctl "
            "status` names the alarm; what was being sent may still be taken when that is over"
        )

    connection.on_blocked = blocked


def explained(error: BaseException, variable: str = BROKER) -> BridgeError | None:
    """The sentence for what connecting raised, None for what has nothing to do with that."""
    chain = list(chain_of(error))
    for one in chain:
        if (fault := _fault(one)) is not None:
            return SettingsError(f"{variable}: {fault}")
    for one in chain:
        if isinstance(one, _AWAY) or is_outage(one):
            fault = f"the server does not answer, or does not do what it is asked: {said(one)}"
            fault = with_remedy(fault, "is the address right?")
            return ServerUnavailable(f"{variable}: {fault}")
    return None


def is_locked(error: BaseException) -> bool:
    """Whether a queue that belongs to one connection alone is another worker's."""
    return any(isinstance(one, amqp.ResourceLocked) for one in chain_of(error))


def _fault(error: BaseException) -> str | None:
    """What trying again cannot mend."""
    match error:
        case amqp.AccessRefused():
            return (
                "RabbitMQ refuses the user (ACCESS_REFUSED): wrong user or password, or no permission on the vhost; "
                "mend the address (a password is percent-encoded in it), or `rabbitmqctl set_permissions`"
            )
        case amqp.NotAllowed():
            return (
                "RabbitMQ does not let the user into the vhost, or has no such vhost (NOT_ALLOWED); the default one is "
                "written %2F; `rabbitmqctl add_vhost` and `set_permissions` make another"
            )
        case amqp.PreconditionFailed():
            return (
                f"RabbitMQ does not let the worker declare or read what it needs: {said(error)}; mend the limit, "
                "policy or queue that it names"
            )
        case ImproperlyConfigured() | ImportError() | NameError():  # a transport whose driver was not there to import
            return f"cannot be opened: {said(error)}; install the driver that its scheme needs"
    return refusal_of(error)


def _transport(app: Celery) -> Any:
    url = str(app.conf.broker_write_url or "")
    scheme = url.partition("://")[0].partition("+")[0]
    if why := _NEVER_BROKERS.get(scheme):
        raise SettingsError(f"{BROKER}: {why}; the broker is Redis, RabbitMQ or SQS (docs/compatibility.md)")
    if scheme not in TRANSPORT_ALIASES and "." not in scheme:
        raise SettingsError(
            f"{BROKER}: Celery knows no broker {scheme}://; it is redis://, rediss://, sentinel://, unix://, amqp://, "
            "amqps:// or sqs://"
        )
    try:
        return app.connection_for_write().transport
    except Exception as error:  # noqa: BLE001  (each transport has its own; what they say may hold the address)
        raise explained(error, BROKER) or SettingsError(
            f"{BROKER}: the address cannot be used ({type(error).__name__}); see docs/configuration.md"
        ) from None


def django_ready(results: str) -> None:
    """Where a team's Django settings are named, its models can be loaded: `django-db` keeps results in them.

    `results` is the result backend's address. Only that one needs Django: a variable of the whole host is passed over
    where Django is not installed. Raises SettingsError for settings that cannot be used, at which Celery would stumble.
    """
    named = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not named:
        return
    try:
        django = importlib.import_module("django")
    except ImportError:
        if results.startswith("django-"):
            raise
        return
    try:
        django.setup()
    except Exception as error:  # noqa: BLE001  (whatever another team's settings and models raise)
        raise SettingsError(
            f"DJANGO_SETTINGS_MODULE: {named} cannot be used ({said(error)}); start the worker in the project's "
            "folder, or put that on PYTHONPATH, or leave the variable out: only results in django-db need it"
        ) from None


def _backend(app: Celery) -> Any:
    variable, url = _results_variable(), str(app.conf["result_backend"] or "")
    if why := _NEVER_RESULTS.get(url.partition("://")[0]):
        raise SettingsError(f"{variable}: {why}; name a server for results (docs/compatibility.md)")
    try:
        django_ready(url)
        by_url(url, loader=app.loader)
    except (ImproperlyConfigured, ImportError, AttributeError):
        scheme = url.partition("://")[0].partition("+")[0]
        raise SettingsError(
            f"{variable}: Celery knows no result backend {scheme!r}, or its driver is not installed; "
            "Redis is redis:// or rediss://, a database db+postgresql:// and the like"
        ) from None
    try:
        return app.backend
    except Exception as error:  # noqa: BLE001  (each driver has its own; what they say may hold the address)
        raise explained(error, variable) or SettingsError(
            f"{variable}: the address cannot be used ({type(error).__name__}); see docs/configuration.md"
        ) from None


def _results_variable() -> str:
    """Which variable names the result backend: unset, it is the ledger's Redis, or else the broker's."""
    return next((name for name in (RESULTS, LEDGER) if os.environ.get(name) or os.environ.get(f"{name}_FILE")), BROKER)


def said(error: BaseException) -> str:
    """What an error says, in one line and without credentials."""
    return " ".join(str(redact("", f"{type(error).__name__}: {error}")).split())[:300]
