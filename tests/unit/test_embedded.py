"""The embedded server: it starts, keeps what it was told, and never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from bridge import embedded
from bridge.embedded import EmbeddedRedis, EmbeddedRedisError
from tests.support.helpers import eventually, free_port

_ORPHAN = """
import sys, time
from bridge.embedded import EmbeddedRedis
server = EmbeddedRedis().start()
print(server.pid, server.port, flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    """Whether no process has this id any more, zombies aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=5, decode_responses=True)


def test_a_started_server_answers_and_a_stopped_one_is_gone() -> None:
    """Between start and stop it answers on loopback; afterwards process and data are gone."""
    with EmbeddedRedis() as server, _client(server) as client:
        pid = server.pid
        assert client.ping()
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        home = Path(str(client.config_get("dir")["dir"]))
        assert home.is_dir()
    assert _gone(pid)
    assert not home.exists()
    assert not server.running


def test_it_evicts_nothing_and_writes_every_change_down() -> None:
    """A ledger needs noeviction and an append-only file."""
    with EmbeddedRedis() as server, _client(server) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"


def test_a_killed_server_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    """A kill -9 right after an acknowledged write loses nothing."""
    with EmbeddedRedis(directory=tmp_path) as server:
        port = server.port
        with _client(server) as client:
            client.set("kept", "yes")
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running)
        server.start()
        assert server.port == port
        with _client(server) as client:
            assert client.get("kept") == "yes"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """However its starter ends, no server stays behind."""
    starter = subprocess.Popen(
        [sys.executable, "-c", _ORPHAN],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    with starter.stdout:
        pid = int(starter.stdout.readline().split()[0])
        assert not _gone(pid)
        starter.kill()
        starter.wait(5)
    eventually(lambda: _gone(pid))


def test_a_signal_mask_of_the_starter_is_not_inherited() -> None:
    """A starter that blocks SIGTERM still gets a server that ends when asked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with EmbeddedRedis() as server:
            os.kill(server.pid, signal.SIGTERM)
            eventually(lambda: not server.running, timeout=4)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_a_server_that_cannot_start_says_why() -> None:
    """The error carries the server's own last words."""
    with pytest.raises(EmbeddedRedisError, match="no-such-option"):
        EmbeddedRedis(options=("--no-such-option", "1")).start()


def test_a_port_taken_by_another_server_is_not_mistaken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """When another server has the port, the next try takes another one."""
    with EmbeddedRedis() as first:
        ports = [first.port, free_port()]
        monkeypatch.setattr(embedded, "_free_port", lambda: ports.pop(0))
        with EmbeddedRedis() as second:
            assert second.port != first.port
            assert second.running


def test_a_named_binary_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """REDIS_SERVER_BIN decides; a wrong one is named, never passed over."""
    chosen = tmp_path / "my-server"
    chosen.write_text("#!/bin/sh\n")
    chosen.chmod(chosen.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("REDIS_SERVER_BIN", str(chosen))
    assert embedded.find_server() == chosen
    monkeypatch.setenv("REDIS_SERVER_BIN", "no-such-server")
    with pytest.raises(EmbeddedRedisError, match="no-such-server"):
        embedded.find_server()


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package, nothing on PATH: the text names the ways out."""
    monkeypatch.delenv("REDIS_SERVER_BIN", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded, "_bundled", lambda: None)
    with pytest.raises(EmbeddedRedisError, match="embedded"):
        embedded.find_server()


def test_a_stop_without_a_start_does_nothing() -> None:
    """Stop is safe at any time; a port is known only after a start."""
    server = EmbeddedRedis()
    server.stop()
    with pytest.raises(EmbeddedRedisError, match="never started"):
        _ = server.port
