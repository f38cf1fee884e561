"""One RabbitMQ node for all test processes of a run: each start takes four seconds of CPU.

The process that leads the run starts it once somebody asks, and ends it. Files that kill, freeze or restart their node,
or touch more of it than a virtual host, stand in HURTS: they have one of their own.
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Self

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.support.servers import RabbitServer, find_rabbitmq

#: File -> its group. A group stays in one test process, and so needs one node.
HURTS = {
    "tests/chaos/test_outages.py": "rabbitmq-1",
    "tests/chaos/test_servers_fail.py": "rabbitmq-1",
    "tests/integration/support/test_servers.py": "rabbitmq-1",
    "tests/integration/doors/json/test_json_outages.py": "rabbitmq-1",
    "tests/integration/doors/celery/worker/test_worker_ends.py": "rabbitmq-2",  # long enough
}


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """Files, and groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return HURTS.get(file, file)


class Lender:
    """Of the process that leads the run: tells where the node is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.node: RabbitServer | None = None
        # The node is tied to the thread that starts it.
        self._thread = threading.Thread(target=self._serve, name="lends-rabbitmq", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if not connection.recv(1):  # `stop`
                    break
                connection.sendall(json.dumps(self._told()).encode())
        if self.node is not None:
            self.node.stop()

    def _told(self) -> dict[str, Any]:
        if self.node is None:
            script = find_rabbitmq()
            assert script is not None
            self.node = RabbitServer(script, self._directory)
        try:
            return self.node.start().told()
        except AssertionError as error:  # it did not start: each process that asks says so
            return {"fault": str(error)}

    def stop(self) -> None:
        """End the node."""
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


class LentRabbit(RabbitServer):
    """The node as a test process has it: for virtual hosts of its own, and never to be hurt."""

    def __init__(self, script: Path, lender: int, name: str) -> None:
        """`name` is that of the test process: no other has it."""
        with socket.create_connection(("127.0.0.1", lender)) as connection, connection.makefile("rb") as answer:
            connection.sendall(b"?")
            told = json.load(answer)
        assert "fault" not in told, told["fault"]
        self._script = script
        self._take(told, names=f"test-{name}")

    @property
    def pid(self) -> int:
        """Nobody's here."""
        raise AssertionError("this node is shared: name the test's file in tests.support.shared.HURTS")

    @property
    def running(self) -> bool:
        """As long as the run lasts."""
        return True

    def start(self) -> Self:
        """It runs."""
        return self

    def restart(self) -> None:
        """Not this one."""
        _ = self.pid

    def stop(self) -> None:
        """Whoever leads the run does."""
