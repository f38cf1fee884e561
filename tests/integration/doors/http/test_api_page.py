"""docs/http-api.md as a stranger reads it: its commands run as they stand, its tables are the code's own."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bridge.doors.http.api.description import openapi
from bridge.doors.http.api.tokens import Tokens
from bridge.doors.http.problem import REASONS
from tests.integration.doors.http.test_api_tokens import token
from tests.support.api import api_house
from tests.support.chromium import Tab, chromium
from tests.support.helpers import COMMAND_S, eventually, free_ports
from tests.support.house import ROOT

PAGE = (ROOT / "docs" / "http-api.md").read_text()
EXAMPLE = ROOT / "docs" / "examples" / "browser"


def section(heading: str) -> str:
    """What stands below a heading."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_the_first_result_comes_by_the_commands_as_they_stand(tmp_path: Path) -> None:
    """All of them, one after the other, in one shell; on other ports than the page's."""
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    redis, emulator, bridge = free_ports(3)
    for shown, here in (("6379", redis), ("9464", bridge), ("8700", emulator)):
        commands = commands.replace(f":{shown}", f":{here}").replace(f"--port {shown}", f"--port {here}")
    commands = commands.replace("bridge emulate", f"bridge emulate --port {emulator}")
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BRIDGE_HTTP_BIND": f"127.0.0.1:{bridge}",
    }
    script = f"set -eu\n{commands}\necho; echo all done"
    with tempfile.TemporaryFile() as said:
        shell = subprocess.Popen(
            ["/bin/bash", "-c", script], cwd=tmp_path, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            shell.wait(COMMAND_S)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait()
        said.seek(0)
        told = said.read().decode()
    eventually(lambda: not _alive(shell.pid))
    assert "all done" in told, told
    assert '{"prompt":"a heron"}' in told
    assert [told.count(f"event: {name}\n") for name in ("chunk", "completed")] == [4, 1]
    assert '"outcome":"' in told


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_route_right_and_reason_stands_on_the_page() -> None:
    """And none that the code has not."""
    shown = section("What there is")
    for path in openapi.document()["paths"]:
        name = path.replace("{endpoint}", "{name}")
        assert name in shown or name.rpartition("/")[2] in shown, path
    rows = re.findall(r"^\| (`.*?) \| (\d{3}) \|", section("Errors"), re.MULTILINE)
    told = {reason: int(status) for reasons, status in rows for reason in re.findall(r"`(\w+)`", reasons)}
    assert told == {reason: status for reason, (status, _) in REASONS.items()}


def test_the_blocks_of_the_page_are_what_they_seem() -> None:
    """The file of tokens is one, and the problem is one that the door gives."""
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert Tokens.parse(toml) == ["web"]
    (problem,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    told = json.loads(problem)
    assert (told["status"], told["title"]) == REASONS[told["reason"]]


# The browser


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    """Of a headless browser."""
    with chromium(tmp_path / "chromium") as opened:
        yield opened


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """The page, as `python -m http.server` serves it; its origin."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(EXAMPLE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_submits_streams_and_cancels_with_nothing_else(
    redis_url: str, tmp_path: Path, tab: Tab, site: str
) -> None:
    """In a real browser, from another origin, with a token."""
    path = tmp_path / "tokens.toml"
    secret = token(path, "web", "--tenant", "acme")["authorization"].removeprefix("Bearer ")
    with api_house(tmp_path, redis_url, api_tokens_file=str(path), api_origins=site) as (house, client):
        tab.open(f"{site}/index.html")

        def fill(name: str, value: str) -> None:
            tab.run(f"document.querySelector('[name={name}]').value = {json.dumps(value)}")

        def text(name: str) -> str:
            return str(tab.run(f"document.querySelector('#{name}').textContent"))

        def ask(given: str) -> None:
            fill("input", given)
            tab.click("#ask button")

        fill("bridge", str(client.base_url).rstrip("/"))
        fill("token", "nobodys")
        ask('{"a": 1}')
        eventually(lambda: "token is not known" in text("status"))
        fill("token", secret)
        ask('{"mock_stream": ["Once ", "upon ", "a ", "time."], "mock_delay": 0.2}')
        eventually(lambda: text("status") == "COMPLETED")
        assert text("chunks") == "Once upon a time."
        ask('{"mock_delay": 600}')
        eventually(lambda: text("status") == "IN_PROGRESS")
        tab.click("#cancel")
        eventually(lambda: text("status") == "CANCELLED")
        eventually(lambda: "CANCELLED" in {job["status"] for job in house.emulator.jobs("demo")})
        assert [line for line in tab.said if "401" not in line] == []
