"""The typed client of docs/examples/typescript, built and run by Node: what a service that has copied it relies on."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import ROOT, House, Process
from tests.support.moto import S3Server
from tests.support.proxy import FaultProxy
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "docs" / "examples" / "typescript"
HUGE = {"text": "ü狐🦊" * 1_000_000}
BUILT = EXAMPLE / "dist" / "tested"
IMPORTS = (
    "import { createHash } from 'node:crypto';\n"
    f"import {{ Bridge, JobError, OutputUnavailable }} from '{(BUILT / 'bridge.js').as_uri()}';\n"
)
#: What a program says of an output that is too long to be shown.
MARK = "const mark = (output) => createHash('sha256').update(JSON.stringify(output)).digest('hex');\n"


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with the client built beside its packages; its types are checked by `test_typescript`, elsewhere."""
    found = shutil.which("node")
    if found is None or not (EXAMPLE / "node_modules" / "typescript").is_dir():
        pytest.skip("needs Node.js 18 or later and: npm install --no-package-lock --prefix docs/examples/typescript")
    command = [found, "node_modules/typescript/bin/tsc", "--noCheck", "--outDir", str(BUILT)]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, done.stdout
    return found


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker, with the HTTP API and without an object store."""
    url, port = redis_server.start().fresh_url(), free_port()
    directory = tmp_path_factory.mktemp("typescript")
    with House(directory, broker=url, redis_url=url, http_bind=f"127.0.0.1:{port}", api="on") as made:
        made.environment["BRIDGE_HTTP_URL"] = f"http://127.0.0.1:{port}"
        made.worker()
        yield made


@pytest.fixture
def program(node: str) -> Callable[..., Process]:
    """Starts a program of a service, whose modules are those of the example."""
    numbers = itertools.count(1)

    def started(house: House, text: str, **more: str) -> Process:
        """`bridge(options)` is connected to the house's Redis."""
        connected = "const bridge = (more) => Bridge.connect(process.env.BRIDGE_REDIS_URL, more);\n"
        file = house.directory / f"program-{next(numbers)}.mjs"
        file.write_text(IMPORTS + MARK + connected + text)
        return house.start("node", node, str(file), **more)

    return started


def end_of(process: Process) -> Any:
    """Its last line, as JSON, once it has ended well."""
    eventually(lambda: not process.running, timeout=60)
    assert process.stop() == 0, process.said()[-2000:]
    return json.loads(process.said().splitlines()[-1])


def mark(output: Any) -> str:
    """As the program's."""
    return hashlib.sha256(json.dumps(output, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


ASKED = json.dumps({"mock_return": HUGE}, ensure_ascii=False)


def test_an_output_over_8_mib_comes_whole_over_http(house: House, program: Callable[..., Process]) -> None:
    """No message carries it; its bytes are those that the event names."""
    told = end_of(
        program(
            house,
            f"const b = await bridge({{ http: process.env.BRIDGE_HTTP_URL }}), input = {ASKED};\n"
            "console.log(JSON.stringify(mark(await b.result(await b.submit({ input })))));\nawait b.close();\n",
        )
    )
    assert told == mark(HUGE)


def test_an_output_that_cannot_be_had_is_an_error_that_says_how_to_get_it(
    house: House, program: Callable[..., Process]
) -> None:
    """Never undefined, and never a reference: without HTTP's address, and with one where nobody listens."""
    told = end_of(
        program(
            house,
            f"const input = {ASKED}, said = [];\n"
            f"for (const more of [{{}}, {{ http: 'http://127.0.0.1:{free_port()}' }}]) {{\n"
            "  const b = await bridge(more);\n"
            "  const heard = await b.result(await b.submit({ input, id: 'large' })).catch((error) => error);\n"
            "  said.push([heard instanceof OutputUnavailable, heard.document?.status, heard.message]);\n"
            "  await b.close();\n}\nconsole.log(JSON.stringify(said));\n",
        )
    )
    (named, status, nowhere), (named_too, _, away) = told
    assert (named, status, named_too) == (True, "COMPLETED", True)
    for word in ("BRIDGE_API=on", "`http`", "BRIDGE_BLOB_URL", "bridge status large --content"):
        assert word in nowhere
    assert away.startswith("large: completed, but its output cannot be fetched from http://127.0.0.1:")


def test_an_output_over_8_mib_comes_whole_by_the_link_of_an_object_store(
    redis_url: str, tmp_path: Path, program: Callable[..., Process]
) -> None:
    """Without the HTTP API."""
    more: dict[str, Any] = {"blob_url": "s3://outputs/gpu", "blob_link_s": "1000"}
    with (
        S3Server(tmp_path) as s3,
        House(tmp_path, broker=redis_url, redis_url=redis_url, blob_options=s3.options_json, **more) as house,
    ):
        house.worker()
        send = f"const b = await bridge();\nconst job = await b.submit({{ input: {ASKED}, id: 'stored' }});\n"
        waiting = "for await (const event of b.events(job));\nconsole.log(JSON.stringify(job));\nawait b.close();\n"
        job = end_of(program(house, send + waiting))
        eventually(lambda: house.phase("stored") == "CLOSED" and s3.keys())
        read = f"const b = await bridge();\nconsole.log(JSON.stringify(mark(await b.result({json.dumps(job)}))));\n"
        assert end_of(program(house, read + "await b.close();\n")) == mark(HUGE)


def test_who_uses_an_id_for_another_request_hears_its_refusal_and_the_first_hears_its_own_end(
    house: House, program: Callable[..., Process]
) -> None:
    """And who sends the same again hears the same end: each sending has a stream of its own."""
    told = end_of(
        program(
            house,
            "const b = await bridge(), id = 'twice';\n"
            "const first = await b.submit({ id, input: { n: 1, mock_delay: 2 } });\n"
            "const other = await b.submit({ id, input: { n: 2 } });\n"
            "const again = await b.submit({ id, input: { n: 1, mock_delay: 2 } });\n"
            "const refused = await b.result(other).catch((error) => error);\n"
            "const outputs = await Promise.all([b.result(first), b.result(again)]);\n"
            "const reason = refused instanceof JobError && refused.document.reason;\n"
            "console.log(JSON.stringify({ reason, outputs }));\nawait b.close();\n",
        )
    )
    assert told["reason"] == "id_conflict"
    assert [output["n"] for output in told["outputs"]] == [1, 1]


def test_who_sends_what_is_refused_hears_why_whatever_the_id(house: House, program: Callable[..., Process]) -> None:
    """Also of an id that is none, by which no refusal can be named: never silence."""
    told = end_of(
        program(
            house,
            "const b = await bridge(), said = [];\n"
            "for (const asked of [{ id: 'order 66', input: { n: 1 } }, { input: { n: 1 }, timeout: 5 }]) {\n"
            "  const heard = await b.result(await b.submit(asked)).catch((error) => error);\n"
            "  said.push([heard instanceof JobError, heard.document?.field, heard.message]);\n"
            "}\nconsole.log(JSON.stringify(said));\nawait b.close();\n",
        )
    )
    assert [one[:2] for one in told] == [[True, "id"], [True, "timeout"]]
    assert "must be 1 to 200 of" in told[0][2]
    assert "must be at least 1000" in told[1][2]


def test_neither_a_reset_connection_nor_a_killed_redis_ends_the_program_and_its_result_comes(
    tmp_path: Path, program: Callable[..., Process]
) -> None:
    """The connection is made again, and what waits goes on reading where it was."""
    own = RedisServer(tmp_path)
    try:
        url = own.start().fresh_url()
        with House(tmp_path, broker=url, redis_url=url) as house, FaultProxy("127.0.0.1", own.port) as proxy:
            house.worker()
            service = program(
                house,
                "const b = await bridge();\nconst job = await b.submit({ id: 'cut', input: { mock_delay: 4 } });\n"
                "const answer = b.result(job);\nfor await (const event of b.events(job)) {\n"
                "  if (event.type === 'bridge.job.submitted') console.log('submitted');\n}\n"
                "await answer;\nconst more = await b.result(await b.submit({ input: { n: 7 } }));\n"
                "console.log(JSON.stringify(more));\nawait b.close();\n",
                BRIDGE_REDIS_URL=url.replace(f":{own.port}", f":{proxy.port}"),
            )
            eventually(lambda: "submitted" in service.said(), timeout=20)
            proxy.cut()
            eventually(lambda: "redis: read ECONNRESET" in service.said(), timeout=20)
            own.restart()
            eventually(lambda: "redis: Socket closed unexpectedly" in service.said(), timeout=20)
            assert end_of(service) == {"n": 7}
    finally:
        own.stop()
