"""The fixture `bridge_tasks`; see docs/testing.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery

from bridge.testing import BridgeTasks
from bridge.testing import bridge_tasks as in_app

#: Jobs that no stub answers run there.
pytest_plugins = ["bridge.emulator.pytest_plugin"]


@pytest.fixture
def bridge_tasks(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., BridgeTasks]]:
    """Call it with the app, and with `run` or on the emulator; it holds until the test ends."""
    with ExitStack() as stack:

        def put(app: Celery, run: Callable[..., Any] | None = None, **commands: Any) -> BridgeTasks:
            if run is None:
                request.getfixturevalue("runpod_emulator")
                if "RUNPOD_ENDPOINT_ID" not in os.environ:
                    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "demo")
            return stack.enter_context(in_app(app, run, **commands))

        yield put
