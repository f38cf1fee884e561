"""The programs of docs/examples, as they stand there: other languages' own clients, against a bridge worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import ROOT, House
from tests.support.proxy import FaultProxy
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import AmqpService, doors_are_open

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "docs" / "examples"
ENDS = ["bridge.job.accepted", "bridge.job.submitted"]


@pytest.fixture(scope="module")
def house(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """Both doors."""
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("foreign"), broker=amqp, redis_url=redis_url) as made:
        made.worker()
        eventually(lambda: doors_are_open(amqp), timeout=20, every=0.1)
        yield made


@pytest.fixture(scope="module")
def empty(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A broker and a Redis on which the bridge has never run, nor does yet."""
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("empty"), broker=amqp, redis_url=redis_url) as made:
        yield made


def run(house: House, folder: Path, *command: str) -> str:
    """What the program says; fails with its errors."""
    environment = {
        "PATH": os.environ["PATH"],
        "AMQP_URL": house.broker,
        "REDIS_URL": house.environment["BRIDGE_REDIS_URL"],
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(told: dict[str, Any]) -> None:
    """What every one of them has to have seen."""
    assert told["chunks"] == ["once", "upon", "a time"]
    assert told["output"] == "the end"
    assert told["correlation_id"].startswith("order 66")
    assert told["events"][:2] == ENDS
    assert told["events"][-1] == "bridge.job.completed"
    assert told["events"].count("bridge.job.chunk") == 3
    assert told["cancelled"] == "CANCELLED"


def test_each_example_may_come_before_the_bridge_has_ever_run(empty: House) -> None:
    """It declares what it needs; what it has sent waits, and is done when a worker comes."""
    more = {"AMQP_URL": empty.broker, "REDIS_URL": empty.environment["BRIDGE_REDIS_URL"]}
    programs = {"python-pika": [sys.executable, str(EXAMPLES / "python-pika" / "client.py")]}
    if shutil.which("redis-cli"):
        programs["redis-cli"] = ["sh", str(EXAMPLES / "redis-cli" / "client.sh")]
    node = shutil.which("node")
    for name, package in (("node-amqplib", "amqplib"), ("node-redis", "redis")):
        if node is not None and (EXAMPLES / name / "node_modules" / package).is_dir():
            programs[name] = [node, str(EXAMPLES / name / "client.mjs")]
    running = {name: empty.start(name, *command, **more) for name, command in programs.items()}
    on_redis = sum("redis" in name for name in programs)
    eventually(lambda: waiting(empty.broker) == len(programs) - on_redis, timeout=20)
    eventually(lambda: empty.client.xlen("bridge:requests") == on_redis, timeout=20)
    assert all(process.running for process in running.values())
    empty.worker()
    for name, process in running.items():
        eventually(lambda process=process: not process.running, timeout=60)  # type: ignore[misc]
        assert process.stop() == 0, f"{name}: {process.said()}"
        assert "CANCELLED" in process.said().splitlines()[-1]


def waiting(url: str) -> int:
    """Requests that wait on the broker."""
    service = AmqpService(url)
    try:
        return service.left("bridge.requests")
    finally:
        service.close()


def test_python_pika(house: House) -> None:
    """RabbitMQ."""
    folder = EXAMPLES / "python-pika"
    check(json.loads(run(house, folder, sys.executable, "client.py").splitlines()[-1]))


@pytest.mark.parametrize(("name", "package"), [("node-amqplib", "amqplib"), ("node-redis", "redis")])
def test_node(house: House, name: str, package: str) -> None:
    """RabbitMQ by amqplib, Redis streams by redis."""
    node, folder = node_for(name, package), EXAMPLES / name
    check(json.loads(run(house, folder, node, "client.mjs").splitlines()[-1]))


def node_for(name: str, package: str) -> str:
    """Node, where the example's packages are installed."""
    node = shutil.which("node")
    if node is None or not (EXAMPLES / name / "node_modules" / package).is_dir():
        pytest.skip(f"needs Node.js 18 or later and: npm install --no-package-lock --prefix docs/examples/{name}")
    return node


@pytest.mark.parametrize(
    ("name", "package", "variable"), [("node-amqplib", "amqplib", "AMQP_URL"), ("node-redis", "redis", "REDIS_URL")]
)
def test_a_lost_connection_does_not_end_a_program_in_node(
    house: House, tmp_path: Path, name: str, package: str, variable: str
) -> None:
    """It says so, connects again, and hears all of the request that it has sent before."""
    node = node_for(name, package)
    real = {"AMQP_URL": house.broker, "REDIS_URL": house.environment["BRIDGE_REDIS_URL"]}[variable]
    parts = urlsplit(real)
    assert parts.port is not None
    before = house.submits()
    with FaultProxy("127.0.0.1", parts.port) as proxy:
        told = json.dumps({"mock_stream": ["once", "upon", "a time"], "mock_return": "the end", "mock_delay": 1.5})
        more = {variable: real.replace(f":{parts.port}", f":{proxy.port}"), "INPUT": told}
        program = house.start(name, node, str(EXAMPLES / name / "client.mjs"), **more)
        eventually(lambda: house.submits() > before, timeout=20)
        proxy.refuse()
        eventually(lambda: f"{parts.scheme}:" in program.said(), timeout=20)
        assert program.running
        proxy.restore()
        eventually(lambda: not program.running, timeout=60)
        assert program.stop() == 0, program.said()[-2000:]
    check(json.loads(program.said().splitlines()[-1]))


@pytest.mark.parametrize(
    ("name", "package"), [("node-amqplib", "amqplib"), ("node-redis", "redis"), ("python-pika", "pika")]
)
def test_a_program_gets_an_output_over_8_mib_whole_or_says_where_it_is(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path: Path, name: str, package: str
) -> None:
    """From the HTTP API; without its address, an error names the variable."""
    port, python = free_port(), name.startswith("python")
    runs = sys.executable if python else node_for(name, package)
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    huge = "heron " * 1_500_000
    source = tmp_path / "input.json"
    source.write_text(json.dumps({"mock_return": huge}))
    with House(tmp_path, broker=amqp, redis_url=redis_url, http_bind=f"127.0.0.1:{port}", api="on") as own:
        own.worker()
        program = tmp_path / f"client.{'py' if python else 'mjs'}"
        text = (EXAMPLES / name / program.name).read_text()
        # 9 MB do not fit into a variable of the environment.
        text = text.replace('os.environ.get("INPUT",', f"(lambda _: open('{source}').read())(")
        text = text.replace("process.env.INPUT ??", f"(await import('node:fs')).readFileSync('{source}', 'utf8') ??")
        if not python:
            text = text.replace(f'from "{package}"', f'from "{_entry(EXAMPLES / name, package)}"')
        program.write_text(text)
        more = {"AMQP_URL": amqp, "REDIS_URL": redis_url}
        whole = own.start("whole", runs, str(program), **more, BRIDGE_HTTP_URL=f"http://127.0.0.1:{port}")
        eventually(lambda: not whole.running, timeout=60)
        assert json.loads(whole.said().splitlines()[-1])["output"] == huge
        without = own.start("without", runs, str(program), **more)
        eventually(lambda: not without.running, timeout=60)
        assert without.stop() != 0
        assert re.search(
            r"its output of \d+ bytes is at /v1/requests/story-.*/output: set BRIDGE_HTTP_URL", without.said()
        )


@pytest.mark.parametrize(
    ("name", "package"),
    [("node-amqplib", "amqplib"), ("node-redis", "redis"), ("python-pika", "pika"), ("redis-cli", "")],
)
def test_a_program_whose_id_is_refused_says_so(house: House, tmp_path: Path, name: str, package: str) -> None:
    """At once, though the refusal names no request."""
    file, command = {"python-pika": ("client.py", [sys.executable]), "redis-cli": ("client.sh", ["sh"])}.get(
        name, ("client.mjs", [])
    )
    if package == "" and shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli: Debian and Ubuntu: apt-get install redis-tools; macOS: brew install redis")
    program, text = tmp_path / file, (EXAMPLES / name / file).read_text()
    if not command:
        command = [node_for(name, package)]
        text = text.replace(f'from "{package}"', f'from "{_entry(EXAMPLES / name, package)}"')
    program.write_text(text.replace("story-$", "no id $").replace("story-{", "no id {"))
    more = {"AMQP_URL": house.broker, "REDIS_URL": house.environment["BRIDGE_REDIS_URL"]}
    running = house.start(f"{name}-refused", *command, str(program), **more)
    eventually(lambda: not running.running, timeout=20)
    assert running.stop() != 0
    assert "was refused" in running.said()
    assert "id: must be 1 to 200 of A-Z a-z 0-9 . _ : -" in running.said()
    assert "was not heard of" not in running.said()


def _entry(folder: Path, package: str) -> str:
    main: str = json.loads((folder / "node_modules" / package / "package.json").read_text())["main"]
    return (folder / "node_modules" / package / main).resolve().as_uri()


def test_typescript(house: House) -> None:
    """Redis streams, by a client that is typed by the bridge's schemas."""
    node, folder = node_for("typescript", "typescript"), EXAMPLES / "typescript"
    run(house, folder, node, "node_modules/typescript/bin/tsc")
    check(json.loads(run(house, folder, node, "dist/main.js").splitlines()[-1]))


def test_the_blocks_of_the_page_do_what_it_says(house: House) -> None:
    """docs/services.md, from top to bottom, in a shell."""
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli: Debian and Ubuntu: apt-get install redis-tools; macOS: brew install redis")
    page = (ROOT / "docs" / "services.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("```sh") == 2
    submit, follow_and_cancel = (block.replace("redis-cli ", 'redis-cli -u "$REDIS_URL" ') for block in blocks)
    said = run(house, EXAMPLES, "sh", "-c", submit)
    shown = json.loads(re.findall(r"^```json event\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0])
    told = next(json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert shown.keys() <= told.keys()
    assert shown["data"].keys() <= told["data"].keys()
    for name in ("source", "subject", "type", "datacontenttype", "dataschema"):
        assert told[name] == shown[name]
    for name in ("phase", "status", "started", "completed", "succeeded", "output"):
        assert told["data"][name] == shown["data"][name]
    run(house, EXAMPLES, "sh", "-c", follow_and_cancel)

    def answered() -> bool:
        entries: Any = house.client.xrange("bridge:reply:billing")
        return any(json.loads(entry["data"])["type"] == "bridge.command.answered" for _, entry in entries)

    eventually(answered)


def test_redis_cli(house: House) -> None:
    """A shell, and nothing else."""
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli: Debian and Ubuntu: apt-get install redis-tools; macOS: brew install redis")
    said = run(house, EXAMPLES / "redis-cli", "sh", "client.sh")
    parts: dict[str, list[dict[str, Any]]] = {}
    for line in said.splitlines():
        if line.startswith("== "):
            found = parts[line[3:]] = []
        else:
            found.append(json.loads(line))
    end = parts["replies"][-1]["data"]
    check(
        {
            "chunks": [e["data"]["output"] for e in parts["replies"] if e["type"] == "bridge.job.chunk"],
            "output": end["output"],
            "correlation_id": end["correlation_id"],
            "events": [e["type"] for e in parts["events"]],
            "cancelled": parts["cancelled"][-1]["data"]["status"],
        }
    )


def test_a_fastapi_service_submits_streams_and_cancels(house: House) -> None:
    """As it stands, under uvicorn, with its callers' HTTP alone."""
    port = free_port()
    house.start(
        "service",
        sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--app-dir", str(EXAMPLES / "fastapi"),
    )  # fmt: skip
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=COMMAND_S) as web:
        eventually(lambda: web.get("/openapi.json").status_code == 200, timeout=20)
        story = web.post("/stories", json={"words": ["Once", "upon", "a", "time"]})
        assert story.status_code == 202
        path = f"/stories/{story.json()['id']}"
        assert web.get(path).json()["status"] in {"ACCEPTED", "IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
        told = [line.removeprefix("data: ") for line in web.get(f"{path}/words").text.splitlines() if "data: " in line]
        assert [json.loads(data) for data in told] == ["Once", "upon", "a", "time", "completed"]
        long = f"/stories/{web.post('/stories', json={'words': ['again'] * 2000}).json()['id']}"
        assert web.delete(long).json()["outcome"] in {"cancelled", "requested"}
        eventually(lambda: web.get(long).json()["status"] == "CANCELLED", timeout=20)
        for path, code in (("/stories/nobodys", 404), ("/stories/no%20id", 422)):
            assert web.get(path).status_code == code
            assert web.get(f"{path}/words").status_code == code
        assert web.delete("/stories/no%20id").status_code == 422
