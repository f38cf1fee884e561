"""A bridge worker under every command and pool: jobs run, SIGTERM ends it in time, its exit code tells how it ended."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from bridge.cli.exit_codes import ExitCode
from tests.support.helpers import eventually, free_ports
from tests.support.house import House, Process
from tests.support.servers import RabbitServer
from tests.support.slow import slow

COMMANDS = {
    "bridge": [sys.executable, "-m", "bridge.cli", "worker"],
    "celery": [sys.executable, "-m", "celery", "-A", "bridge.app", "worker", "-l", "INFO"],
}
#: Seconds that SIGTERM leaves, and what a busy machine may need beyond them.
GRACE_S, SLACK_S = 10, 10


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Iterator[House]:
    """Redis alone."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as made:
        yield made


def worker(house: House, command: str, *args: str, **more: str) -> Process:
    """As a user starts one: the bridge's own command, which becomes Celery's; that one is forked (`House.fork`)."""
    start = house.start if command == "bridge" else house.fork
    return start(f"{command}-worker", *COMMANDS[command], "-c", "4", *args, **more)


def ready(process: Process) -> None:
    """Until it takes messages."""
    eventually(lambda: "ready." in process.said() or not process.running, timeout=60)
    assert process.running, process.said()[-3000:]


def ended(process: Process) -> int:
    """The code of one that ends by itself."""
    eventually(lambda: not process.running, timeout=60)
    return process.stop()


@pytest.mark.parametrize(
    ("command", "broker", "pool"),
    [
        ("bridge", "redis", "threads"),
        ("celery", "amqp", "threads"),
        *(slow("bridge", "redis", pool) for pool in ("prefork", "gevent", "solo")),
        *(slow("bridge", "amqp", pool) for pool in ("threads", "prefork", "gevent", "solo")),
        *(slow("celery", "amqp", pool) for pool in ("prefork", "gevent", "solo")),
    ],
)
def test_twenty_jobs_run_and_sigterm_ends_it_within_its_grace(
    command: str, broker: str, pool: str, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Exit code 0; task events are on, so that with gevent several greenlets use the connection that they leave on."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url, stop_grace_s=str(GRACE_S)) as house:
        process = worker(house, command, "-P", pool, "-E")
        ready(process)
        sent = [house.send({"n": n}) for n in range(20)]
        assert [one.get(timeout=30)["n"] for one in sent] == list(range(20))
        begun = time.monotonic()
        assert process.stop(timeout=60) == ExitCode.OK, process.said()[-3000:]
        assert time.monotonic() - begun < GRACE_S + SLACK_S


@pytest.mark.slow
def test_a_result_that_the_pool_has_not_counted_delays_no_end(redis_url: str, tmp_path: Path) -> None:
    """Billiard's process waits for it, half a minute: beyond the grace. It happened, with RabbitMQ, now and then."""
    more: dict[str, Any] = {"celery_config": "tests.uncounted_config", "stop_grace_s": str(GRACE_S)}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **more) as house:
        process = worker(house, "bridge", "-P", "prefork")
        ready(process)
        assert house.send({"n": 1}).get(timeout=30) == {"n": 1}
        begun = time.monotonic()
        assert process.stop(timeout=60) == ExitCode.OK, process.said()[-3000:]
        assert time.monotonic() - begun < GRACE_S + SLACK_S


def test_a_gevent_pool_that_celery_sees_too_late_is_refused(house: House) -> None:
    """It would take messages, run none of them and hear no SIGTERM."""
    process = worker(house, "celery", "-Pgevent")
    assert ended(process) == ExitCode.SETTINGS, process.said()
    assert "`-P gevent`" in process.said()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_of_a_fixed_size_is_not_autoscaled(house: House, pool: str) -> None:
    """Celery takes the option, and what it then raises for each message would refuse that message."""
    refused = worker(house, "celery", "--autoscale", "10,2", "-P", pool)
    assert ended(refused) == ExitCode.SETTINGS
    assert "--autoscale: this pool has a fixed size" in refused.said()
    assert "Traceback" not in refused.said()


def test_a_prefork_pool_is_autoscaled(house: House) -> None:
    """As with any worker of Celery's."""
    scaled = worker(house, "celery", "--autoscale", "3,1", "-P", "prefork")
    ready(scaled)
    assert [sent.get(timeout=60) for sent in [house.send({"n": n}) for n in range(20)]] == [{"n": n} for n in range(20)]


def test_the_bridges_own_command_hands_a_gevent_pool_on_in_time_however_it_is_written(house: House) -> None:
    """A job runs, and SIGTERM ends it."""
    process = worker(house, "bridge", "-Pgevent")
    ready(process)
    assert house.send({"n": 1}).get(timeout=30) == {"n": 1}
    assert process.stop(timeout=60) == ExitCode.OK, process.said()[-3000:]


UNUSABLE = {
    "evicting": ({}, "maxmemory-policy is allkeys-lru", ExitCode.SETTINGS),
    "ledger_away": ({"BRIDGE_REDIS_URL": "redis://127.0.0.1:1/0"}, "is BRIDGE_REDIS_URL right?", ExitCode.UNAVAILABLE),
    "port_taken": ({}, "a port of its own", ExitCode.SETTINGS),
    "results_unknown": ({"CELERY_RESULT_BACKEND": "foo://x"}, "CELERY_RESULT_BACKEND: ", ExitCode.SETTINGS),
    "no_such_django": ({"DJANGO_SETTINGS_MODULE": "studio.none"}, "SETTINGS_MODULE: studio.none ", ExitCode.SETTINGS),
    "results_away": ({"CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0"}, "CELERY_RESULT", ExitCode.UNAVAILABLE),
    "broker_unknown": ({"CELERY_BROKER_URL": "foo://x"}, "CELERY_BROKER_URL: ", ExitCode.SETTINGS),
    "crash": ({"BRIDGE_CELERY_CONFIG": "tests.odd_config"}, "worker.crashed", ExitCode.CRASHED),
}  # fmt: skip


@pytest.mark.parametrize(("command", "pool"), [("bridge", "threads"), slow("celery", "prefork")])
@pytest.mark.parametrize("what", list(UNUSABLE))
def test_what_stops_a_worker_is_a_sentence_and_a_documented_code(
    what: str, command: str, pool: str, house: House
) -> None:
    """Never 0, no traceback but of what nobody foresaw, and no child left."""
    more, says, code = UNUSABLE[what]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if what == "port_taken":
            more = {"BRIDGE_HTTP_BIND": f"127.0.0.1:{taken.getsockname()[1]}"}
        if what == "evicting":
            house.client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            process = worker(house, command, "-P", pool, **more)
            assert ended(process) == code, process.said()[-3000:]
        finally:
            house.client.config_set("maxmemory-policy", "noeviction")
    assert says in process.said()
    assert ("Traceback" in process.said()) == (what == "crash")
    assert "word" not in process.said()
    eventually(lambda: not children_of(process.pid))


def children_of(pid: int) -> list[int]:
    """Processes of its group that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_the_hosts_django_variable_hurts_no_worker_without_django(house: House, tmp_path: Path) -> None:
    """An environment of the bridge's own has no Django, and results in Redis need none."""
    (tmp_path / "django.py").write_text("raise ImportError('no Django here')\n")
    path = f"{tmp_path}:{house.environment['PYTHONPATH']}"
    process = worker(house, "celery", DJANGO_SETTINGS_MODULE="studio.settings", PYTHONPATH=path)
    ready(process)
    assert house.send({"n": 1}).get(timeout=30) == {"n": 1}


def test_a_ledger_that_is_loading_is_unavailable(house: House) -> None:
    """A supervisor starts the worker again, and it comes up once the server has its data."""
    with Loading() as url:
        process = worker(house, "bridge", BRIDGE_REDIS_URL=url)
        assert ended(process) == ExitCode.UNAVAILABLE
    assert "loading the dataset" in process.said()


class Loading:
    """A server that says of everything that it is loading: a real one does so for milliseconds only."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        with connection:
            while said := connection.recv(65_536):
                asked = max(1, sum(line.startswith(b"*") for line in said.split(b"\r\n")))
                connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n" * asked)


# Node names


@pytest.mark.slow
def test_its_name_is_its_own_beside_another_celery_worker(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """RabbitMQ lets one connection alone have the queue of a name; `celery@host` is everybody's default."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url) as house:
        other = house.start(
            "other", *[sys.executable, "-m", "celery", "-A", "tests.foreign", "worker", "-l", "INFO", "-P", "solo"],
            FOREIGN_BROKER=house.broker, FOREIGN_BACKEND=house.backend,
        )  # fmt: skip
        ready(other)
        assert f"celery@{socket.gethostname()} ready" in other.said()
        for command in COMMANDS:
            process = worker(house, command)
            ready(process)
            assert f"bridge@{socket.gethostname()} ready" in process.said()
            assert process.stop() == ExitCode.OK
            named = worker(house, command, "-n", "celery2@%h")
            ready(named)
            assert f"celery2@{socket.gethostname()} ready" in named.said()
            assert named.stop() == ExitCode.OK
        assert other.running


@pytest.mark.slow
def test_two_of_one_name_on_rabbitmq_say_what_to_do(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """RESOURCE_LOCKED is a setting's fault: 11, and the first one works on."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url) as house:
        first = worker(house, "bridge")
        ready(first)
        second = worker(house, "celery")
        assert ended(second) == ExitCode.SETTINGS, second.said()[-3000:]
        assert "-n bridge2@%h" in second.said()
        assert "Traceback" not in second.said()
        assert house.send({"a": 1}).get(timeout=20) == {"a": 1}


@pytest.mark.slow
def test_ctrl_c_is_told_from_a_crash(house: House) -> None:
    """130, as of every shell command."""
    process = worker(house, "bridge")
    ready(process)
    process.kill(signal.SIGINT)
    assert ended(process) == ExitCode.STOPPED


class Rabbit:
    """A user and a virtual host of its own on RabbitMQ, and what an operator does to them."""

    def __init__(self, server: RabbitServer) -> None:
        self._erl = server.erl
        url = server.fresh_url()
        self.vhost = url.rpartition("/")[2]
        self.url = url.replace("guest:guest", f"{self.vhost}:word")
        self._erl(f'rabbit_auth_backend_internal:add_user(<<"{self.vhost}">>, <<"word">>, <<"x">>)')
        self.may(".*", ".*", ".*")

    def may(self, configure: str, write: str, read: str) -> None:
        """Permissions; a connection may go on with what it has asked before, so all are closed."""
        what = ", ".join(f'<<"{text}">>' for text in (self.vhost, self.vhost, configure, write, read, "x"))
        self._erl(f"rabbit_auth_backend_internal:set_permissions({what})")
        self.hang_up()

    def password(self, word: str) -> None:
        """Another one."""
        self._erl(f'rabbit_auth_backend_internal:change_password(<<"{self.vhost}">>, <<"{word}">>, <<"x">>)')
        self.hang_up()

    def queues(self, most: int | None) -> None:
        """A limit of the virtual host."""
        if most is None:
            self._erl(f'rabbit_vhost_limit:clear(<<"{self.vhost}">>, <<"x">>)')
        else:
            self._erl(f'rabbit_vhost_limit:set(<<"{self.vhost}">>, [{{<<"max-queues">>, {most}}}], <<"x">>)')
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        self._erl('[rabbit_networking:close_connection(P, "bye") || P <- rabbit_networking:connections()]')


@pytest.mark.slow
def test_a_running_worker_waits_for_a_rabbitmq_that_refuses_it(
    rabbitmq_server: RabbitServer, redis_url: str, tmp_path: Path
) -> None:
    """Whatever an operator changes: told, not ready, nothing lost, and it goes on when that is mended."""
    rabbit = Rabbit(rabbitmq_server.start())
    port = free_ports(1)[0]
    changes: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
        (lambda: rabbit.may(".*", "^$", ".*"), lambda: rabbit.may(".*", ".*", ".*")),
        (lambda: rabbit.may(".*", ".*", "^$"), lambda: rabbit.may(".*", ".*", ".*")),
        (lambda: rabbit.may("^$", "^$", "^$"), lambda: rabbit.may(".*", ".*", ".*")),
        (lambda: rabbit.password("other"), lambda: rabbit.password("word")),
        (lambda: rabbit.queues(1), lambda: rabbit.queues(None)),
    )

    def answers() -> int:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code

    with House(tmp_path, broker=rabbit.url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        process = worker(house, "bridge")
        ready(process)
        for n, (worse, better) in enumerate(changes):
            sent = house.send({"n": n, "mock_delay": 1})
            worse()
            eventually(lambda: answers() == 503, timeout=20)
            assert process.running, process.said()[-3000:]
            better()
            assert sent.get(timeout=30)["n"] == n
            assert house.send({"again": n}).get(timeout=20) == {"again": n}
            eventually(lambda: answers() == 200, timeout=20)
            assert process.running, process.said()[-3000:]
        eventually(lambda: "broker.refused" in process.said())
        assert "settings.unusable" not in process.said()
        assert ":word" not in process.said()
        rabbit.password("other")
        eventually(lambda: answers() == 503, timeout=20)
        assert process.stop(timeout=60) == ExitCode.OK  # also while it waits


@pytest.mark.parametrize("what", ["read", slow("queues")])
def test_a_worker_that_rabbitmq_refuses_from_the_start_says_so_and_ends(
    what: str, rabbitmq_server: RabbitServer, redis_url: str, tmp_path: Path
) -> None:
    """Nothing that waiting would mend by itself: an operator is to see it."""
    rabbit = Rabbit(rabbitmq_server.start())
    if what == "read":
        rabbit.may(".*", ".*", "^$")
    else:
        rabbit.queues(1)
    with House(tmp_path, broker=rabbit.url, redis_url=redis_url) as house:
        process = worker(house, "bridge")
        assert ended(process) == ExitCode.SETTINGS, process.said()[-3000:]
        assert "settings.unusable" in process.said()
        assert "Traceback" not in process.said()


@pytest.mark.slow
def test_a_running_worker_waits_for_a_redis_that_refuses_it(redis_url: str, tmp_path: Path) -> None:
    """Its user may do less for a while, or nothing, or has another password."""
    admin: Any = redis.Redis.from_url(redis_url, decode_responses=True)
    user = "a-team"
    admin.execute_command("ACL", "SETUSER", user, "on", ">word", "~*", "&*", "+@all")
    broker = redis_url.replace("redis://", f"redis://{user}:word@")
    with House(tmp_path, broker=broker, backend=redis_url, redis_url=redis_url) as house:
        process = worker(house, "bridge")
        ready(process)
        for n, (worse, better) in enumerate((("-@all", "+@all"), ("-evalsha", "+@all"), ("resetchannels", "&*"))):
            admin.execute_command("ACL", "SETUSER", user, worse)
            admin.client_kill_filter(user=user)
            admin.rpush("bridge.run", "what rings")
            time.sleep(1.5)  # for as long as its user may not
            assert process.running, process.said()[-3000:]
            admin.execute_command("ACL", "SETUSER", user, better)
            assert house.send({"n": n}).get(timeout=30) == {"n": n}
        admin.execute_command("ACL", "SETUSER", user, ">other", "<word")
        admin.client_kill_filter(user=user)
        time.sleep(1.5)
        admin.execute_command("ACL", "SETUSER", user, ">word")
        assert house.send({"n": 9}).get(timeout=30) == {"n": 9}
        assert process.running, process.said()[-3000:]
    admin.execute_command("ACL", "DELUSER", user)
    admin.close()
