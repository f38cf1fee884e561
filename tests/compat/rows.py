"""Every row of the table."""

from __future__ import annotations

import sys
from functools import partial

from tests.compat import places
from tests.compat.environments import go_program, node_with, python_with
from tests.compat.row import COLUMNS, ROOM, Row

_NO_BROADCAST = {"revoke": "no: SQS carries no broadcasts; `bridge.cancel` does it"}
_NOBODY_HEARS = {column: "nobody hears of it" for column in COLUMNS if column != "jobs"}
_ONE_COLUMN = {column: "" for column in COLUMNS if column != "jobs"}


def _celery() -> list[str]:
    return [sys.executable, str(ROOM / "producer.py")]


def _older(version: str, *more: str) -> list[str]:
    # Kombu of its time; what Celery before 5.4 needs and does not say, or needs an older one of.
    packages = (f"celery[redis]~={version}.0", f"kombu~={version}.0", "importlib-metadata<5", "packaging", *more)
    return [str(python_with("-".join(("celery", version, *more)), *packages)), str(ROOM / "producer.py")]


def _node() -> list[str]:
    folder = node_with("node", "celery-node")
    return ["env", f"COMPAT_NODE={folder}", "node", str(ROOM / "producer.mjs")]


def _go() -> list[str]:
    modules = ("github.com/gocelery/gocelery@v0.0.0-20201111034804-825d89059344", "github.com/gomodule/redigo@v1.8.9")
    return [str(go_program("go", ROOM / "producer.go", *modules))]


_AT_REDIS = places.redis_server
_MSGPACK = {"task_serializer": "msgpack", "accept_content": ["json", "msgpack"]}
_ACCEPTS = {"accept_content": ["json", "msgpack"]}

ROWS = (
    Row("broker", "Redis", _AT_REDIS, _celery),
    Row("broker", "Redis, by its socket", places.redis_socket, _celery),
    Row("broker", "Redis with TLS, `rediss://`", places.redis_tls, _celery),
    Row("broker", "Valkey", places.valkey, _celery),
    Row("broker", "Sentinel", places.sentinel, _celery, note="failover: `tests/chaos/test_sentinel.py`"),
    Row("broker", "RabbitMQ, classic queues", places.rabbitmq, _celery, note="ledger and results in Redis"),
    Row("broker", "RabbitMQ, quorum queues", places.rabbitmq_quorum, _celery,
        note="`BRIDGE_QUEUE_TYPE=quorum`; producers: `task_create_missing_queue_type`, or `no_declare`"),
    Row("broker", "RabbitMQ with TLS, `amqps://`", places.rabbitmq_tls, _celery, note="`broker_use_ssl` names the CA"),
    Row("broker", "SQS (moto's server)", places.sqs, _celery, cannot=_NO_BROADCAST,
        note="ledger and results in Redis; `pycurl`"),
    Row("results", "Redis", _AT_REDIS, _celery, jobs=200),
    Row("results", "`rpc://`", places.rpc, _celery, jobs=200, note="broker RabbitMQ; Celery has no chords with it"),
    Row("results", "PostgreSQL", places.postgresql, _celery, jobs=200, note="`SQLAlchemy`, `psycopg2`"),
    Row("results", "MariaDB", places.mariadb, _celery, jobs=200, note="`SQLAlchemy`, `PyMySQL`"),
    Row("results", "`django-db`", places.django_db, _celery, jobs=200,
        note="`django-celery-results`, `DJANGO_SETTINGS_MODULE`"),
    Row("results", "memcached", places.memcached, _celery, jobs=400, note="`pymemcache`"),
    Row("results", "none, `disabled://`", places.nowhere, _celery, cannot=_NOBODY_HEARS, note="events tell the ends"),
    *(
        Row("producer", f"Celery {version}", _AT_REDIS, partial(_older, version))
        for version in ("5.2", "5.3", "5.4", "5.5", "5.6")
    ),
    Row("producer", "protocol 1", _AT_REDIS, _celery, settings={"task_protocol": 1}),
    Row("producer", "msgpack", _AT_REDIS, partial(_older, "5.6", "msgpack"), settings=_MSGPACK, overlay=_ACCEPTS,
        note="`accept_content` in `BRIDGE_CELERY_CONFIG`, `msgpack` installed"),
    Row("producer", "gzip", _AT_REDIS, _celery, settings={"task_compression": "gzip"}),
    Row("producer", "`celery-node`", _AT_REDIS, _node, cannot=_ONE_COLUMN),
    Row("producer", "`gocelery`", _AT_REDIS, _go, cannot=_ONE_COLUMN, note="protocol 1"),
)  # fmt: skip
