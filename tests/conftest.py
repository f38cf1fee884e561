"""Fixtures for all tests: private servers, and a fresh place in them for each test.

There is one Redis per test process, that is: per run, or per worker of pytest-xdist, so that a test which hurts it
disturbs no other. The processes of a run share a RabbitMQ node, but for the files that hurt it (tests.support.shared).
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.servers import HOW_TO_GET_RABBITMQ, RabbitServer, RedisServer, find_rabbitmq
from tests.support.shared import HURTS, Lender, LentRabbit, Scheduling
from tests.support.slow import WITHOUT

# A slow example on a busy machine is no failure; the timeout of the test is.
hypothesis.settings.register_profile("bridge", deadline=None)
hypothesis.settings.load_profile("bridge")

#: By this name a test process is told whom to ask for the node of all.
LENDER = "lends_rabbitmq"
_lender = pytest.StashKey[Lender]()


@pytest.fixture(autouse=True, scope="session")
def _nothing_of_this_shell() -> Iterator[None]:
    """Hide the caller's own settings: a test says what it wants, and never finds a key or a server by chance.

    Tests marked `live` read RUNPOD_* from tests.conftest.OUTSIDE.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in OUTSIDE:
            patch.delenv(name)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # each process would compile every module anew
        # What killed processes leave goes with this folder.
        with tempfile.TemporaryDirectory(prefix="bt-", ignore_cleanup_errors=True) as folder:
            patch.setenv("TMPDIR", folder)
            yield


#: The caller's settings as they were: for `live` tests alone.
OUTSIDE = {k: v for k, v in os.environ.items() if k.startswith(("RUNPOD_", "BRIDGE_", "CELERY_"))}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A private Redis for this test process. A test that hurts it leaves it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def own_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A private RabbitMQ node for this test process; skips where there is no RabbitMQ."""
    server = RabbitServer(_rabbitmq(), tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def lent_rabbitmq(request: pytest.FixtureRequest) -> RabbitServer:
    """That of the whole run; of a run of one process its own."""
    told = getattr(request.config, "workerinput", {})
    if LENDER not in told:
        own: RabbitServer = request.getfixturevalue("own_rabbitmq")
        return own
    return LentRabbit(_rabbitmq(), told[LENDER], told["workerid"])


@pytest.fixture(scope="module")
def rabbitmq_server(request: pytest.FixtureRequest) -> RabbitServer:
    """The node that this file may use. One that hurts it stands in `HURTS`, and leaves it running."""
    file = request.path.relative_to(request.config.rootpath).as_posix()
    server: RabbitServer = request.getfixturevalue("own_rabbitmq" if file in HURTS else "lent_rabbitmq")
    return server


def _rabbitmq() -> Path:
    script = find_rabbitmq()
    if script is None:
        pytest.skip(HOW_TO_GET_RABBITMQ)
    return script


def pytest_configure(config: pytest.Config) -> None:
    """The process that leads others has what they share."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        home = tempfile.TemporaryDirectory(prefix="lent-rabbitmq-")
        config.add_cleanup(home.cleanup)
        config.stash[_lender] = Lender(Path(home.name))
        config.add_cleanup(config.stash[_lender].stop)  # before the other: last in, first out


def pytest_collection_finish() -> None:
    """The garbage collector looks at what was collected no more: each full look costs 0.25 s."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a test process where to ask."""
    if lender := node.config.stash.get(_lender, None):
        node.workerinput[LENDER] = lender.port


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Files that need a node of their own share it."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a database that no other test has used."""
    return redis_server.start().fresh_url()


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitServer) -> str:
    """The URL of a virtual host that no other test has used."""
    return rabbitmq_server.start().fresh_url()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped: what the machine lacks there is the machine's fault, and such a run proves less."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", f"{reason(report)} (CI=true: nothing is skipped)"
    return report


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was skipped and why, and what was left out: such a run proves less than it seems to."""
    skipped = Counter(reason(report) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_sep("!", f"{skipped.total()} tests did not run", red=True, bold=True)
        for why, count in skipped.items():
            terminalreporter.write_line(f"{count}: {why}", red=True)
    if WITHOUT in terminalreporter.config.option.markexpr:
        told = "the slow tests were left out: scripts/test --all runs them"
        terminalreporter.write_sep("!", told, yellow=True, bold=True)
