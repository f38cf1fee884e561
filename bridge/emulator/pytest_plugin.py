"""Fixtures for tests of code that talks to RunPod.

Switch it on in the project's conftest.py:

    pytest_plugins = ["bridge.emulator.pytest_plugin"]

and ask for `runpod_emulator`: an `Emulator` of one endpoint, "demo", with the key "test-key", fresh for each test.
RUNPOD_ENDPOINT_BASE_URL and RUNPOD_API_KEY point at it while the test runs. A test that needs other endpoints,
settings, handlers or a speed says so:

    @pytest.mark.runpod_emulator(endpoints={"flux": EndpointConfig(cold_start_s=30)}, speed=60)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from bridge.emulator.server import Emulator

DEFAULT_KEY = "test-key"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "runpod_emulator(*arguments, **more): arguments of `Emulator` for `runpod_emulator`"
    )


@pytest.fixture
def runpod_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """RunPod on loopback, for one test."""
    marker = request.node.get_closest_marker("runpod_emulator")
    given = ((), {}) if marker is None else (marker.args, marker.kwargs)
    arguments = inspect.signature(Emulator).bind(*given[0], **given[1]).arguments
    with Emulator(**arguments) as emulator:
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", emulator.base_url)
        monkeypatch.setenv("RUNPOD_API_KEY", next(iter(arguments.get("api_keys", [DEFAULT_KEY]))))
        yield emulator
