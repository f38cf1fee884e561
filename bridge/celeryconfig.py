"""The bridge's Celery settings: only departures from Celery's defaults, each with its reason.

`BRIDGE_CELERY_CONFIG` (a dotted module, or a JSON file) is laid over them: routes of what follows a request,
`result_extended`, an own `result_expires` and the like belong there.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from celery.app.defaults import SETTING_KEYS
from kombu import Exchange, Queue

from bridge.errors import SettingsError
from bridge.redis.address import as_celery_has_it, is_redis, is_sentinel, scheme_of
from bridge.runtime import broker_connection
from bridge.settings import Settings
from bridge.settings.addresses import verifying

RUN, FINISH, CONTROL = "bridge.run", "bridge.finish", "bridge.control"
QUEUES = (RUN, FINISH, CONTROL)
#: Result backends that many threads may use at once, beside Redis. With others each thread has one of its own, as is
#: Celery's default: threads that share a client of memcached read each other's answers.
_SHARED = ("db+", "rpc", "django-db", "mongodb")


def build(settings: Settings) -> dict[str, Any]:
    """The settings as Celery takes them. Raises SettingsError when the overlay cannot be read."""
    config: dict[str, Any] = {
        "broker_url": settings.celery_broker_url,
        "result_backend": settings.result_backend_url,
        # JSON only: a pickle on the broker would run whatever its writer wanted.
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # Three queues, so that a cancel never waits behind jobs; declared exactly as `send_task(queue=NAME)` declares.
        "task_queues": tuple(_queue(name, settings) for name in QUEUES),
        "task_routes": {
            "bridge.run": {"queue": RUN},
            "bridge.finish": {"queue": FINISH},
            "bridge.*": {"queue": CONTROL},
        },
        # What follows a request and names no queue: its team may have another default than Celery's.
        "task_default_queue": settings.bridge_default_queue,
        # A message is acked once the ledger holds its request (I1).
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A request's state is ours to tell; STARTED would hide IN_QUEUE and IN_PROGRESS.
        "task_track_started": False,
        # Tasks take milliseconds and call no GPU: threads are enough, and cheap.
        "worker_consumer": "bridge.doors.celery.consumer.consumer:BridgeConsumer",
        "worker_pool": "prefork" if asks_for_prefork(sys.argv) else "threads",
        "worker_concurrency": 16,
        "worker_prefetch_multiplier": 4,
        # The ledger knows what is cancelled and what is running; gossip and mingle have nothing to add.
        "worker_enable_remote_control": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # States are written while Redis may be away for a moment (a store that fails would fail a task that did not).
        "result_backend_always_retry": True,
        "result_backend_max_retries": 20,
        # Waits in a thread of the pool, which others need; what follows a request waits in the ledger instead.
        "task_publish_retry_policy": {"max_retries": 5, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        "broker_transport_options": _transport(settings),
        # Logs are structlog's.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
    results = settings.result_backend_url
    config["result_backend_thread_safe"] = is_redis(results) or results.startswith(_SHARED)
    if is_redis(results):
        config["result_backend_transport_options"] = {"retry_policy": {"timeout": 30.0}}
        config["redis_socket_timeout"] = 10.0
        config["redis_retry_on_timeout"] = True
        config["redis_socket_keepalive"] = scheme_of(results) not in {"unix", "redis+socket"}  # which has none
    for name, value in overlay(settings.bridge_celery_config).items():
        # Tables are laid over ours, not in their place: one route must not take away the others.
        ours = config.get(name)
        config[name] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, dict) else value
    for address in ("broker_url", "result_backend"):
        _as_celery_has_it(config, settings, address)
    # Celery prefers the variable CELERY_BROKER_URL to the setting of that name; not to these. For results see `app`.
    for name in ("broker_read_url", "broker_write_url"):
        config.setdefault(name, config["broker_url"])
    return config


def _as_celery_has_it(config: dict[str, Any], settings: Settings, name: str) -> None:
    """Put an address into Celery's words, and what it says beside the server's name into Celery's other settings."""
    variable, tls, options = {
        "broker_url": ("CELERY_BROKER_URL", "broker_use_ssl", "broker_transport_options"),
        "result_backend": ("CELERY_RESULT_BACKEND", "redis_backend_use_ssl", "result_backend_transport_options"),
    }[name]
    # As everywhere in Celery, the variable goes before a setting of BRIDGE_CELERY_CONFIG.
    url = getattr(settings, variable.lower()) if os.environ.get(variable) else config[name]
    if not isinstance(url, str):
        return
    url, more, by_url = as_celery_has_it(url)
    if more:
        config[options] = {**more, **config.get(options, {})}
    if is_sentinel(url) and "master_name" not in config.get(options, {}):
        raise SettingsError(f"{variable}: names no master: sentinel://HOST:26379,HOST:26379/0?master_name=NAME")
    if by_url:
        config.setdefault(tls, by_url)
    if tls not in config:
        # kombu would trust any certificate, and Celery's results refuse to start, where redis-py asks for one.
        url = ";".join(map(verifying, url.split(";")))
    config[name] = url


def asks_for_prefork(argv: Sequence[str]) -> bool:
    """Whether a command line says `-P prefork`: Celery takes that for its default, over which a setting wins."""
    pairs = [*itertools.pairwise(argv), *((arg[:2], arg[2:]) for arg in argv if arg.startswith("-P"))]
    return ("-P", "prefork") in pairs or ("--pool", "prefork") in pairs or "--pool=prefork" in argv


def _queue(name: str, settings: Settings) -> Queue:
    arguments = {"x-queue-type": "quorum"} if settings.bridge_queue_type == "quorum" and settings.amqp else None
    return Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)


def _transport(settings: Settings) -> dict[str, Any]:
    if settings.amqp:
        return {**broker_connection.DEADLINES, "confirm_publish": True}
    return {
        # Own ack keys: a killed bridge worker's messages come back within a minute, and nobody else's are touched (I1).
        "visibility_timeout": 60,
        # Held for milliseconds, while messages are restored: who dies with it must not stop restores for minutes.
        "unacked_mutex_expire": 5,
        "unacked_key": "bridge.unacked",
        "unacked_index_key": "bridge.unacked_index",
        "unacked_mutex_key": "bridge.unacked_mutex",
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10.0,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


def overlay(where: str) -> dict[str, Any]:
    """A team's own Celery settings, by dotted module or JSON file."""
    if not where:
        return {}
    try:
        if where.endswith(".json"):
            found = json.loads(Path(where).read_text())
        else:
            module = importlib.import_module(where)
            found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    except (OSError, ValueError, ImportError) as error:
        raise SettingsError(f"BRIDGE_CELERY_CONFIG: {where}: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"BRIDGE_CELERY_CONFIG: {where}: must hold an object of Celery settings")
    return {name: value for name, value in found.items() if name.islower() and not _is_code(name, value)}


def _is_code(name: str, value: object) -> bool:
    """What a module has imported or defined, to set up what watches tasks, is no setting."""
    return isinstance(value, ModuleType) or (callable(value) and name not in SETTING_KEYS)
