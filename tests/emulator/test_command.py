"""`bridge emulate` as a process: what it prints, how it stops, what it refuses; and `Emulator` in process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge import __version__
from bridge.emulator import Emulator, EndpointConfig
from tests.support.helpers import COMMAND_S, eventually, free_port

ROOT = Path(__file__).parents[2]


def emulate(*arguments: str) -> subprocess.Popen[str]:
    """Start the command."""
    command = [sys.executable, "-m", "bridge.emulator", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_it_says_its_version() -> None:
    """Which a bug report begins with."""
    with emulate("--version") as process:
        assert process.communicate(timeout=COMMAND_S)[0] == f"runpod-emulator, version {__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_exports_serves_and_stops_cleanly(number: signal.Signals) -> None:
    """Exactly two lines, which a shell can eval; exit code 0 and nothing on stderr."""
    port = free_port()
    names = ("--endpoint", "one", "--endpoint", "two", "--api-key", "k1", "--api-key", "k2")
    with emulate("--port", str(port), *names, "--speed", "60", "--no-limits") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        assert lines == [
            f"export RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:{port}/v2",
            "export RUNPOD_API_KEY=k1",
        ]
        base = lines[0].partition("=")[2]
        for name, key in (("one", "k1"), ("two", "Bearer k2")):
            assert httpx.get(f"{base}/{name}/health", headers={"Authorization": key}).status_code == 200
        assert httpx.get(f"{base}/demo/health", headers={"Authorization": "k1"}).status_code == 404
        process.send_signal(number)
        rest, errors = process.communicate(timeout=COMMAND_S)
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.slow
def test_several_endpoints_have_a_handler_each_and_arguments_behind_two_dashes(tmp_path: Path) -> None:
    """`--handler a=... --handler b=... -- ARGS`: each answers for itself, with RunPod's own package."""
    handlers = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.py"
        path.write_text(
            f"import runpod\nrunpod.serverless.start({{'handler': lambda job: '{name} ' + job['input']['w']}})\n"
        )
        handlers += ["--handler", f"{name}={path}"]
    with emulate("--port", "0", "--api-key", "k", *handlers, "--", "--rp_log_level", "ERROR") as process:
        assert process.stdout is not None
        base = process.stdout.readline().strip().partition("=")[2]
        headers = {"Authorization": "k"}
        for name in ("a", "b"):
            sent = httpx.post(f"{base}/{name}/run", headers=headers, json={"input": {"w": "heard"}}).json()
            status = partial(lambda url: httpx.get(url, headers=headers).json(), f"{base}/{name}/status/{sent['id']}")
            eventually(lambda status=status: status()["status"] == "COMPLETED", timeout=20)  # type: ignore[misc]
            assert status()["output"] == f"{name} heard"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=COMMAND_S)
    assert process.returncode == 0


def test_a_signal_ends_it_at_whatever_moment_it_comes() -> None:
    """Also between its last line and its rest, where a handler must take no lock."""
    for _ in range(6):
        with emulate("--port", "0") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=COMMAND_S)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--handler", "/nowhere/handler.py"], "/nowhere/handler.py"),
        (["--handler", __file__, "--python", "/nowhere/python"], "/nowhere/python"),
        (["--handler", __file__, "--python", "y=/nowhere/python"], "'y' has no handler"),
        (["--python", "/nowhere/python"], "--handler"),
        (["--", "--rp_log_level", "ERROR"], "--handler"),
        (["--speed", "0"], "speed"),
        (["--speed", "inf"], "speed"),
        (["--api-key", ""], "API key"),
        (["--endpoint", "a/b"], "a/b"),
        (["--handler", f"x={__file__}", "--handler", f"x={__file__}"], "two handlers"),
    ],
)
def test_it_refuses_what_cannot_be_and_names_it(arguments: list[str], names: str) -> None:
    """Exit code 2 and a sentence, no traceback."""
    with emulate("--port", "0", *arguments) as process:
        _, errors = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 2
    assert names in errors
    assert "Traceback" not in errors


def test_a_taken_port_is_told() -> None:
    """With address and reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with emulate("--port", str(port)) as process:
            _, errors = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors


def test_start_and_stop_leave_no_thread_and_keep_the_port() -> None:
    """And both may be called twice."""
    before = threading.active_count()
    emulator = Emulator(["demo"])
    for _ in range(3):
        emulator.start().start()
        base = emulator.base_url
        assert httpx.get(f"{base}/demo/health", headers={"Authorization": "test-key"}).status_code == 200
        emulator.stop()
        emulator.stop()
        assert threading.active_count() == before
        with pytest.raises(RuntimeError, match="start"):
            emulator.jobs("demo")
    assert emulator.base_url == base


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])  # noqa: S104 - what a container needs
def test_it_listens_where_it_is_told_and_names_an_address_that_answers(host: str) -> None:
    """IPv4, IPv6, and every address."""
    with Emulator(["demo"], host=host) as emulator:
        assert httpx.get(f"{emulator.base_url}/demo/health", headers={"Authorization": "test-key"}).status_code == 200


def test_stop_cuts_off_held_calls() -> None:
    """Nobody waits 90 s for an emulator that is gone."""
    emulator = Emulator(["demo"]).start()
    failures: list[Exception] = []

    def hold() -> None:
        try:
            httpx.post(
                f"{emulator.base_url}/demo/runsync",
                json={"input": {"mock_delay": 600}},
                headers={"Authorization": "test-key"},
                timeout=60,
            )
        except httpx.TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    eventually(lambda: emulator.counts()["demo"]["inProgress"] == 1)
    emulator.stop()
    thread.join(5)
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"endpoints": "demo"}, "endpoints"),
        ({"api_keys": "k"}, "api_keys"),
        ({"api_keys": []}, "API key"),
        ({"api_keys": ["k", ""]}, "API key"),
        ({"endpoints": {"demo": {"workers_max": 1}}}, "'demo' needs an EndpointConfig"),
        ({"endpoints": [""]}, "name"),
        ({"endpoints": ["a b"]}, "'a b'"),
        ({"endpoints": ["a/b"]}, "'a/b'"),
        ({"endpoints": [".."]}, "'..'"),
        ({"endpoints": ["x", "x--batch"]}, "'x--batch'"),
        ({"handlers": {"demo": "/nowhere.py"}}, "/nowhere.py"),
        ({"handlers": {"other": __file__}}, "other"),
        ({"speed": -1}, "speed"),
    ],
)
def test_an_emulator_that_cannot_be_is_refused(given: dict[str, Any], names: str) -> None:
    """When it is made, with the name of what is wrong."""
    with pytest.raises((ValueError, TypeError), match=names):
        Emulator(**given)


@pytest.mark.parametrize(
    ("given", "names"),
    [({"workers_min": 4}, "workers_min"), ({"page": 0}, "page"), ({"stream_hold_s": -1}, "stream_hold_s")],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], names: str) -> None:
    """By name."""
    with pytest.raises(ValueError, match=names):
        EndpointConfig(**given)


def test_it_is_a_command_of_its_own_that_loads_nothing_of_the_bridge() -> None:
    """Who tests a worker has never heard of Celery, and does not wait for it to load."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["runpod-emulator"].partition(":")
    program = (
        f"import sys; from {module} import {function}; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'celery', 'kombu', 'redis', 'pydantic', "
        "'requests', 'structlog'}), *(n for n in sys.modules if n.startswith('bridge.') and 'emulator' not in n))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.strip() == ""
