"""Listens on HTTP: a thread for each address."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from bridge.doors.http.bounds import HEAD_MAX, bounded, bounded_protocol
from bridge.doors.http.part import Part
from bridge.doors.http.problem import http_error, not_served
from bridge.errors import SettingsError
from bridge.runtime import open_files
from bridge.telemetry import tell

START_S = 5.0
#: Connections that wait in the kernel, and those that are taken at once before the first is counted: asyncio would take
#: all that wait, and a burst would use up the process' files, which ledger, broker and RunPod then miss.
WAITING_MAX, AT_ONCE = 2048, 32
#: Seconds that answers under way have once the server is to stop.
STOP_S = 3.0


class HttpServer:
    """Serves from threads of its own until `stop`."""

    def __init__(self, connections_max: int) -> None:
        """Nothing is bound before `listen`; each address takes so many connections at most."""
        self._connections_max = connections_max
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []
        self._parts: list[Part] = []
        self.ports: list[int] = []

    def listen(self, name: str, bind: str, parts: Sequence[Part], *, by_hand: bool) -> None:
        """Serve parts at `host:port`; none for "". Raises SettingsError when an address set by hand is taken."""
        if not bind:
            return
        host, _, port = bind.rpartition(":")
        try:
            listener = socket.create_server((host.strip("[]") or "0.0.0.0", int(port)))  # noqa: S104  (as it was set)
        except OSError as error:
            if by_hand:
                mend = "; each process of a host needs a port of its own" if error.errno == errno.EADDRINUSE else ""
                raise SettingsError(f"{name.upper()}: {bind}: {os.strerror(error.errno or 0)}{mend}") from error
            tell("http.taken", bind=bind)
            return
        # What is accepted inherits it. asyncio sets it only on sockets whose protocol is named; without it the second
        # answer on a connection waits 40 ms for the first one's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvloop would block the one thread of a gevent pool; asyncio's own loop goes through gevent's patched select.
        options: dict[str, Any] = {"loop": "asyncio", "log_level": "critical", "access_log": False, "lifespan": "off"}
        options["ws"] = "none"  # nothing here speaks it, whatever is installed
        options["proxy_headers"] = False  # who asks is who has connected; whoever trusts a proxy looks at its header
        options["log_config"] = None  # its lines go where all lines go
        options["timeout_graceful_shutdown"] = int(STOP_S)
        # No more than a quarter of what the process may open: the rest is for ledger, broker and RunPod.
        held = sum(part.held_max for part in parts)
        most = max(1, min(self._connections_max, open_files.limit() // 4))
        if held:
            most += max(0, min(held, open_files.at_least(4 * (most + held)) // 4 - most))
        routes = [route for part in parts for route in part.routes]
        app = Starlette(routes=routes, exception_handlers={HTTPException: http_error, 404: not_served})
        app.router.redirect_slashes = False  # it would lead to whatever Host a stranger names
        config = uvicorn.Config(
            bounded(app),
            http=bounded_protocol(most),
            h11_max_incomplete_event_size=HEAD_MAX,
            backlog=AT_ONCE,  # to asyncio it is both numbers
            **options,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), name=f"bridge-{name}", daemon=True)
        thread.start()
        ends = time.monotonic() + START_S
        while not server.started and thread.is_alive() and time.monotonic() < ends:
            time.sleep(0.01)
        if server.started:
            listener.listen(WAITING_MAX)
        self._servers.append((server, thread))
        self._parts.extend(parts)
        self.ports.append(listener.getsockname()[1])
        tell("http.started", bind=f"{host}:{self.ports[-1]}")

    def stop(self) -> None:
        """Answer what is under way, and close."""
        for part in self._parts:
            part.close()
        self._parts.clear()
        for server, _ in self._servers:
            server.should_exit = True
        for _, thread in self._servers:
            thread.join(START_S)
        self._servers.clear()
