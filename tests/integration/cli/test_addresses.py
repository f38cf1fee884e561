"""A wrong address, password, right or driver is one sentence with what to do, and never a part of a password."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis._parsers.base import BaseParser

from bridge.app import create
from bridge.cli.check.check import _blobs
from bridge.cli.check.durability import of_broker
from bridge.cli.exit_codes import ExitCode
from bridge.doors.celery import servers
from bridge.errors import LedgerUnavailable, ServerUnavailable, SettingsError
from bridge.ledger import connect, inspect_server
from bridge.redis.outage import with_remedy
from bridge.settings import load
from tests.support.house import House
from tests.support.servers import RabbitServer, RedisServer

#: Each half would betray the other.
HALVES = ("opensesame", "tellnobody")
RAW, ENCODED = "/".join(HALVES), "%2F".join(HALVES)


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Iterator[House]:
    """No worker: none is needed to be told what is wrong."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as made:
        yield made


def bridge(house: House, *words: str, **more: str) -> tuple[int, str]:
    """Code and everything that was written."""
    done = house.bridge(*words, **more)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert not any(half in said for half in HALVES), said
    return done.returncode, said


RUN = ("run", "--input", '{"a": 1}', "--no-wait")
VERBS = {"check": ("check",), "run": RUN, "worker": ("worker",)}


def tells(house: House, says: str, code: int, verbs: tuple[str, ...] = tuple(VERBS), **more: str) -> None:
    """Each verb says it in one sentence; `check` looks on and has its own code, unless the settings are wrong."""
    for verb in verbs:
        found, said = bridge(house, *VERBS[verb], **more)
        assert says in said, (verb, said)
        looked_on = verb == "check" and "cannot be used" not in said
        assert found == (ExitCode.UNHEALTHY if looked_on else code), (verb, found, said)


@pytest.mark.parametrize("variable", ["BRIDGE_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
def test_a_slash_in_a_password_is_told_without_the_password(variable: str, house: House) -> None:
    """For each server alike, before a library has seen it."""
    scheme = "amqp" if variable == "CELERY_BROKER_URL" else "redis"
    code, said = bridge(house, *RUN, **{variable: f"{scheme}://me:{RAW}@h:1/0"})
    assert code == ExitCode.SETTINGS
    assert f"{variable}: " in said
    assert "%2F" in said


def test_a_wrong_password_or_vhost_of_rabbitmq(
    house: House, rabbitmq_server: RabbitServer, amqp_url: str, app: Callable[..., Celery]
) -> None:
    """A fault of the address, which no second try mends; a worker ends with it, where Celery would try for ever."""
    wrong = amqp_url.replace("guest:guest", f"guest:{ENCODED}")
    with pytest.raises(SettingsError, match=r"^CELERY_BROKER_URL: RabbitMQ refuses the user") as told:
        servers.open_broker(app(CELERY_BROKER_URL=wrong))
    assert not any(half in str(told.value) for half in HALVES)
    with pytest.raises(SettingsError, match=r"^CELERY_BROKER_URL: .*no such vhost"):
        servers.open_broker(app(CELERY_BROKER_URL=rabbitmq_server.url("nowhere")))
    says = "CELERY_BROKER_URL: RabbitMQ refuses the user"
    tells(house, says, ExitCode.SETTINGS, ("worker",), CELERY_BROKER_URL=wrong)


@pytest.mark.slow
def test_a_wrong_password_of_redis(house: House) -> None:
    """In each of its three places."""
    house.client.config_set("requirepass", "right")
    try:
        wrong = urlsplit(house.broker)._replace(netloc=f":{ENCODED}@127.0.0.1:{urlsplit(house.broker).port}").geturl()
        right = wrong.replace(ENCODED, "right")
        good = dict.fromkeys(("BRIDGE_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"), right)
        for variable in good:
            verbs = ("worker",) if variable == "BRIDGE_REDIS_URL" else ("check",)
            tells(house, f"{variable}: Redis refuses", ExitCode.SETTINGS, verbs, **{**good, variable: wrong})
    finally:
        house.client.config_set("requirepass", "")


def test_a_password_that_redis_does_not_have_is_told_as_such(house: House) -> None:
    """It is no right that is missing, and what is mended is the variable in which the address stands."""
    extra = urlsplit(house.broker)._replace(netloc=f":{ENCODED}@127.0.0.1:{urlsplit(house.broker).port}").geturl()
    says = "the address has a password, and Redis has none"
    for variable, more in {
        "CELERY_BROKER_URL": {},
        "CELERY_RESULT_BACKEND": {"BRIDGE_REDIS_URL": ""},
        "BRIDGE_REDIS_URL": {},
    }.items():
        _, said = bridge(house, "check", **more, **{variable: extra})
        assert f"{variable}: {says}" in said
        assert "+info" not in said


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "BRIDGE_REDIS_URL"),
        ({"BRIDGE_REDIS_URL": ""}, "CELERY_RESULT_BACKEND"),
        ({"BRIDGE_REDIS_URL": "", "CELERY_RESULT_BACKEND": ""}, "CELERY_BROKER_URL"),
    ],
)
def test_a_ledger_that_is_away_is_told_by_the_variable_that_names_it(
    house: House, variables: dict[str, str], named: str
) -> None:
    """By the one that its operator has set, by `check` and by the worker that cannot start."""
    nobody = "redis://127.0.0.1:1/0"
    names = ("BRIDGE_REDIS_URL", "CELERY_RESULT_BACKEND", "CELERY_BROKER_URL")
    variables = dict.fromkeys(names, nobody) | variables
    tells(house, f"is {named} right?", ExitCode.UNAVAILABLE, ("check", "worker"), **variables)


@pytest.mark.parametrize("rights", ["-info", "-eval -evalsha"])
@pytest.mark.slow
def test_a_user_of_redis_without_a_needed_right(rights: str, house: House, redis_server: RedisServer) -> None:
    """`check` really runs a script; so does the start of a worker."""
    house.client.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">pw", "~*", "&*", "+@all", *rights.split())
    try:
        poor = urlsplit(house.broker)._replace(netloc=f"poor:pw@127.0.0.1:{redis_server.port}").geturl()
        tells(
            house, "BRIDGE_REDIS_URL: Redis does not let", ExitCode.SETTINGS, ("check", "worker"), BRIDGE_REDIS_URL=poor
        )
    finally:
        house.client.execute_command("ACL", "DELUSER", "poor")


def test_the_rights_that_the_sentence_names_are_enough(house: House, redis_server: RedisServer) -> None:
    """A worker with them, and with no others, carries a job on broker, ledger and results."""
    rights = ("~*", "&*", "+@all", "-@dangerous", "+info", "+config|get")
    house.client.execute_command("ACL", "SETUSER", "enough", "reset", "on", ">pw", *rights)
    try:
        url = urlsplit(house.broker)._replace(netloc=f"enough:pw@127.0.0.1:{redis_server.port}").geturl()
        names = ("BRIDGE_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
        house.environment |= dict.fromkeys(names, url)
        worker = house.worker()
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}, worker.said()
        assert worker.stop() == ExitCode.OK
    finally:
        house.client.execute_command("ACL", "DELUSER", "enough")


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("LOADING Redis is loading the dataset in memory", "it is reading its file: wait"),
        ("LOADING Valkey is loading the dataset in memory", "it is reading its file: wait"),
        ("READONLY You can't write against a read only replica.", "it is a replica: name the master"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "without its master"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "its memory is full"),
    ],
)
def test_what_a_server_refuses_is_told_with_its_remedy_wherever_it_is_asked(says: str, remedy: str) -> None:
    """Ledger, broker and results: redis-py drops the first word of such an answer, and kombu the class it gave it."""
    refusal = BaseParser.parse_error(says)

    def refuses() -> None:
        raise refusal

    with pytest.raises(LedgerUnavailable) as told:
        inspect_server(cast("Redis", SimpleNamespace(info=refuses)))
    assert remedy in with_remedy(str(told.value), "is BRIDGE_REDIS_URL right?")
    for raised in (refusal, OperationalError(str(refusal))):
        assert remedy in str(servers.explained(raised))


@pytest.mark.slow
def test_a_server_without_tls_where_the_address_has_it_is_told_as_such(house: House) -> None:
    """It says nothing to a greeting that it cannot read, as one that hangs."""
    tls = house.broker.replace("redis://", "rediss://") + "?ssl_cert_reqs=none"
    code, said = bridge(house, "check", BRIDGE_REDIS_URL=tls)
    assert code == ExitCode.UNHEALTHY
    assert "it speaks no TLS there" in said


@pytest.fixture
def app(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Celery]:
    """The bridge's app in this process, with other addresses: a process for each would take seconds."""

    def made(**addresses: str) -> Celery:
        names = ("BRIDGE_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
        for name, url in {**dict.fromkeys(names, redis_url), **addresses}.items():
            monkeypatch.setenv(name, url)
        return create()

    return made


AWAY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    "url", ["foo://x", "foo", "db+nodriver://me:pw@h/x", "tests.nowhere:Backend", "cache+memory://", "sentinel://h:1"]
)
def test_results_that_are_none(url: str, app: Callable[..., Celery]) -> None:
    """A scheme or a driver that is not there, before anything is connected to."""
    with pytest.raises(SettingsError) as told:
        servers.recognise(app(CELERY_RESULT_BACKEND=url))
    assert told.value.faults[0].startswith("CELERY_RESULT_BACKEND: ")


def test_each_fault_is_told_once(app: Callable[..., Celery]) -> None:
    """Broker and results are both built of the same settings."""
    with pytest.raises(SettingsError) as told:
        servers.recognise(app(BRIDGE_LEASE_S="soon"))
    assert told.value.faults == ("BRIDGE_LEASE_S: must be a number",)


@pytest.mark.parametrize("url", ["foo://h", "confluentkafka://h:1", "memory://", "sentinel://h:1"])
def test_a_broker_that_is_none(url: str, app: Callable[..., Celery]) -> None:
    """The same of the broker; and one that would start and never work."""
    with pytest.raises(SettingsError) as told:
        servers.recognise(app(CELERY_BROKER_URL=url))
    assert told.value.faults[0].startswith("CELERY_BROKER_URL: ")


def test_a_broker_without_broadcasts_is_told_with_what_cancels_instead(
    app: Callable[..., Celery], redis_url: str
) -> None:
    """SQS: `revoke()` reaches no worker. Nothing is opened to say so, and `check` does not look for a Redis there."""
    url = "sqs://key:secret@127.0.0.1:1"
    (says,) = servers.broker_doubts(app(CELERY_BROKER_URL=url))
    assert "`revoke()`" in says
    assert "bridge.cancel" in says
    assert of_broker(load(celery_broker_url=url)) == []


@pytest.mark.parametrize(("results", "shared"), [("cache+memcached://h:1", False), ("rpc://", True), ("", True)])
def test_threads_share_a_result_backend_only_where_its_client_is_made_for_it(
    results: str, shared: bool, app: Callable[..., Celery]
) -> None:
    """Two threads with one client of memcached would read each other's answers."""
    made = app(CELERY_RESULT_BACKEND=results) if results else app()
    assert made.conf.result_backend_thread_safe is shared


def test_a_task_uses_the_result_backend_of_its_own_thread(app: Callable[..., Celery]) -> None:
    """Whatever thread built the tracer: Celery makes one backend for each where they cannot be shared."""
    made = app()
    made.conf.result_backend_thread_safe = False
    for name in ("bridge.finish", "bridge.run"):
        with ThreadPoolExecutor(1) as pool:
            theirs = pool.submit(getattr, made.tasks[name].backend, "connparams").result()
        assert made.tasks[name].backend.connparams is made.backend.connparams
        assert theirs is not made.backend.connparams


def test_a_socket_carries_ledger_broker_and_results(tmp_path: Path, redis_server: RedisServer) -> None:
    """In redis-py's spelling and in Celery's, with a database of its own; `check` finds no fault with it."""
    number = urlsplit(redis_server.start().fresh_url()).path.strip("/")
    ours, celerys = (
        f"unix://{redis_server.socket}?db={number}",
        f"redis+socket://{redis_server.socket}?virtual_host={number}",
    )
    with House(tmp_path, broker=celerys, redis_url=celerys) as house:
        house.environment |= {"BRIDGE_REDIS_URL": ours, "CELERY_BROKER_URL": ours}
        worker = house.worker()
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}, worker.said()
        code, said = bridge(house, "check")
        assert code == ExitCode.OK, said
        assert worker.stop() == ExitCode.OK


def test_results_that_are_away(app: Callable[..., Celery]) -> None:
    """An outage, which may pass."""
    with pytest.raises(ServerUnavailable, match=r"^CELERY_RESULT_BACKEND: the server does not answer"):
        servers.open_results(app(CELERY_RESULT_BACKEND=AWAY))


@pytest.mark.parametrize("url", [AWAY, "amqp://guest:guest@127.0.0.1:1//"])
def test_a_broker_that_is_away(url: str, app: Callable[..., Celery]) -> None:
    """Told within seconds, where Celery would try for ever."""
    with pytest.raises(ServerUnavailable, match=r"^CELERY_BROKER_URL: the server does not answer"):
        servers.open_broker(app(CELERY_BROKER_URL=url))


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=CERT_NONE", "?ssl_cert_reqs=optional"])
def test_each_spelling_of_tls_can_be_used_for_all_three(query: str, app: Callable[..., Celery]) -> None:
    """By redis-py, by kombu and by Celery's results, which spell it in three ways and have three defaults."""
    url = f"rediss://127.0.0.1:1/0{query}"
    made = app(BRIDGE_REDIS_URL=url, CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url)
    servers.recognise(made)
    settings = load()
    wanted = {"": ssl.CERT_REQUIRED, "?ssl_cert_reqs=CERT_NONE": ssl.CERT_NONE}.get(query, ssl.CERT_OPTIONAL)
    client = connect(settings.ledger_url)
    connection: Any = client.connection_pool.make_connection()
    assert connection.cert_reqs == wanted
    client.close()
    assert made.backend.connparams["ssl_cert_reqs"] == wanted
    assert made.connection_for_write().ssl["ssl_cert_reqs"] == wanted


def test_a_broker_or_results_that_are_away_have_their_exit_code(house: House) -> None:
    """9, of the command."""
    tells(house, "CELERY_BROKER_URL: ", ExitCode.UNAVAILABLE, ("run",), CELERY_BROKER_URL=AWAY)
    tells(house, "CELERY_RESULT_BACKEND: ", ExitCode.UNAVAILABLE, ("run",), CELERY_RESULT_BACKEND=AWAY)


def test_a_misspelt_variable_is_named(house: House) -> None:
    """With the nearest right name, by `check` and as a worker starts; its value is nobody's business."""
    more = {"BRIDGE_LEASES_S": "tellnobody", "BRIDGE_HTTP_PORT_9464_TCP_ADDR": "10.0.0.1"}
    code, said = bridge(house, "check", **more)
    assert code == ExitCode.UNHEALTHY  # no worker runs
    assert "BRIDGE_LEASES_S is no setting of the bridge; is it BRIDGE_LEASE_S?" in said
    assert "PORT_9464" not in said
    house.environment |= more
    process = house.worker()
    assert process.said().count("BRIDGE_LEASES_S is no setting") == 1
    assert "tellnobody" not in process.said()


@pytest.mark.slow
def test_a_port_where_no_redis_answers_is_a_wrong_address(house: House, amqp_url: str, redis_url: str) -> None:
    """RabbitMQ's, or a Redis in the place of its sentinels: no second try mends it."""
    other = urlsplit(amqp_url).port
    says = "BRIDGE_REDIS_URL: what answers there does not speak Redis"
    tells(house, says, ExitCode.SETTINGS, ("check", "worker"), BRIDGE_REDIS_URL=f"redis://127.0.0.1:{other}/0")
    plain = urlsplit(redis_url).port
    says = "BRIDGE_REDIS_URL: the server there is no sentinel"
    address = f"sentinel://127.0.0.1:{plain}/0?master_name=main"
    tells(house, says, ExitCode.SETTINGS, ("check", "worker"), BRIDGE_REDIS_URL=address)


def test_check_says_that_a_store_hangs_and_does_not_hang_itself() -> None:
    """Its library may be held for minutes, whatever timeout it was given."""
    over = threading.Event()
    store = SimpleNamespace(scheme="s3", probe=over.wait)
    settings = SimpleNamespace(bridge_blob_timeout_s=0.1)
    has: Any = SimpleNamespace(outputs=SimpleNamespace(blobs=store), settings=settings)
    ((level, about, says),) = _blobs(has)
    over.set()
    assert (level, about) == ("FAULT", "outputs")
    assert says.startswith("s3:// has not answered within 2.2 s; large outputs stay in the ledger")
