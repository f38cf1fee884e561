"""docs/callbacks.md says what the code does."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from bridge.callbacks.addresses import Addresses
from bridge.callbacks.post import Outcome, Poster
from bridge.doors.parse import Request, take
from bridge.engine.tell.callbacks import _HOST
from bridge.job.callback import EVENT_NAMES
from bridge.job.enums import END_EVENT, EventName
from bridge.settings import Settings
from bridge.settings.callbacks import allowed_of

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "callbacks.md").read_text()


def test_the_request_shown_is_taken_by_the_doors() -> None:
    """With its callback."""
    (shown,) = re.findall(r"^```json request\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    taken = take(shown.encode(), {}, "stream", {}, "requests", "bridge:requests")
    assert isinstance(taken, Request), taken
    assert taken.run.callback is not None
    assert taken.run.callback.events == tuple(json.loads(shown)["callback"]["events"])


def test_the_local_recipe_makes_a_receiver_that_is_called(tmp_path: Path) -> None:
    """With the certificate and the settings that it makes."""
    (shown,) = re.findall(r"^```sh local\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    told = 'echo "$BRIDGE_CALLBACK_ALLOW"; echo "$BRIDGE_CALLBACK_CA_FILE"'
    made = subprocess.run(["/bin/sh", "-ec", shown + told], cwd=tmp_path, capture_output=True, text=True, check=True)
    allow, ca_file = made.stdout.split()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.timeout = 10
        turn = threading.Thread(target=server.handle_request)
        turn.start()
        poster = Poster(Addresses(allowed_of(allow)), timeout_s=5, ca_file=Path(ca_file), agent="runpod-bridge/test")
        outcome = poster.post(f"https://localhost:{server.server_port}/hook", b"{}", {})
        turn.join()
    assert outcome.kind == "delivered", outcome


def test_every_event_that_can_be_asked_for_is_named_and_is_one() -> None:
    """Beside `end`, each is an event of a job; none of those is missing."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `events`"))
    assert set(re.findall(r"`(\w+)`", row)) - {"events"} == set(EVENT_NAMES)
    of_endpoints = {"purged", "paused", "resumed"}
    assert set(EVENT_NAMES) - {"end"} == {event.value for event in EventName} - of_endpoints
    assert {event.value for event in END_EVENT.values()} <= set(EVENT_NAMES)


def test_every_outcome_of_a_try_is_named() -> None:
    """As the metric's label has it."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `bridge_callbacks_total"))
    assert set(re.findall(r"`(\w+)`", row)) == {*_HOST, "given_up", "skipped"}
    assert set(_HOST) == set(re.findall(r"`(\w+)` ?\(", str(Outcome.__doc__))) | {"away"}


def test_the_settings_named_are_settings() -> None:
    """Here and in the table of all settings, where each has its line."""
    named = set(re.findall(r"BRIDGE_CALLBACK_[A-Z_]+", PAGE))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_lines_that_verify_stand_in_the_programs_that_the_tests_run() -> None:
    """Python's and Node's; Go's says that it is not run."""
    for language, program in {"python": "callback-python/receiver.py", "js": "callback-node/receiver.mjs"}.items():
        text = (DOCS / "examples" / program).read_text()
        (shown,) = re.findall(rf"^```{language}\n((?:from|import).*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        assert "webhook.verify(body, " in text
        assert "import" in shown and ".verify(body, " in shown  # noqa: PT018
    assert "not run by the tests" in PAGE[: PAGE.index("```go")]
