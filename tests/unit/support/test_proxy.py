"""The fault proxy does to connections what its methods say."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import FaultProxy


class _Echo(socketserver.BaseRequestHandler):
    """Send back whatever comes, until the end."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionError:
            return


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy in front of an echo server."""
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with FaultProxy("127.0.0.1", server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has already carried bytes."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
        assert _echo(connection, b"warm") == b"warm"
        yield connection


def _echo(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = connection.recv(65536)
        if not piece:
            return got
        got += piece
    return got


def test_a_healthy_proxy_passes_large_bodies_unchanged(client: socket.socket) -> None:
    """A megabyte comes back as it went."""
    body = bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(body,))
    sender.start()
    got = b""
    while len(got) < len(body):
        got += client.recv(65536)
    sender.join(60)
    assert got == body


def test_a_hung_connection_stays_open_and_loses_nothing(proxy: FaultProxy, client: socket.socket) -> None:
    """Bytes sent into a hang arrive after it."""
    proxy.hang()
    client.sendall(b"held")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(4)
    proxy.restore()
    client.settimeout(5)
    assert client.recv(4) == b"held"


def test_a_cut_resets_open_connections_and_takes_new_ones(proxy: FaultProxy, client: socket.socket) -> None:
    """A cut is one event, not a state."""
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(4)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as another:
        assert _echo(another, b"new") == b"new"
    assert proxy.taken == 2


def test_a_refusing_proxy_keeps_its_port_for_later(proxy: FaultProxy, client: socket.socket) -> None:
    """While it refuses nothing connects; after it the same port works."""
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(4)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
    proxy.restore()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as another:
        assert _echo(another, b"back") == b"back"


def test_a_delay_is_waited_each_way(proxy: FaultProxy, client: socket.socket) -> None:
    """A delay of 50 ms makes a round trip of 100 ms: shorter waits time out."""
    proxy.delay = 0.05
    client.settimeout(0.09)
    client.sendall(b"slow")
    with pytest.raises(TimeoutError):
        client.recv(4)
    client.settimeout(5)
    assert client.recv(4) == b"slow"
