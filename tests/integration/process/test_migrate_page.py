"""docs/migrate-from-celery.md: each block is run, or stands word for word in a file of examples/django that is run."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery

from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import ROOT, House, Process, hang_up
from tests.support.servers import RedisServer
from tests.support.studio import EXAMPLE, Studio

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "migrate-from-celery.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
#: Blocks that begin with a file's name: (name, the rest).
FILES = [
    (found[1], found[2].strip("\n"))
    for _, code in BLOCKS
    if (found := re.match(r"(?:# |<!-- )([\w/]+\.\w+)(?: -->)?\n(.*)", code, re.DOTALL))
]
PLAIN = {name: code for name, code in FILES if "/" not in name}
OF_DJANGO = [(name, code) for name, code in FILES if "/" in name]
RUN = [code for kind, code in BLOCKS if kind == "python" and not code.startswith("# ")]
UNIT = ROOT / "docker" / "systemd" / "bridge@.service"


def only(kind: str) -> str:
    """The one block of this kind."""
    [code] = [code for found, code in BLOCKS if found == kind]
    return str(code)


@pytest.fixture(scope="module")
def studio(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The project's servers; a bridge worker that knows the page's cap for each user."""
    home = tmp_path_factory.mktemp("migrate")
    (home / "bridge.toml").write_text(only("toml"))
    with Studio(home, redis_server.start().fresh_url()) as made:
        made.bridge_worker(BRIDGE_CONFIG_FILE=str(home / "bridge.toml"))
        yield made


def test_no_block_is_of_a_kind_that_nobody_runs() -> None:
    """A block that is added is one of these."""
    assert PLAIN.keys() == {"before.py", "after.py"}
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("python") == len(RUN) + len([name for name, _ in FILES if name.endswith(".py")])
    assert {kind: kinds.count(kind) for kind in set(kinds) - {"python"}} == {
        "sh": 2, "html": 1, "toml": 1, "yaml": 1, "ini": 1
    }  # fmt: skip


@pytest.mark.parametrize(("name", "code"), OF_DJANGO, ids=[f"{n} {name}" for n, (name, _) in enumerate(OF_DJANGO)])
def test_a_block_of_django_stands_in_the_example(name: str, code: str) -> None:
    """The example is run over HTTP by test_django_example.py. Imports may stand elsewhere in it."""
    assert code in (EXAMPLE / name).read_text()


def test_the_task_does_after_what_it_did_before(studio: Studio, tmp_path: Path) -> None:
    """The same name, arguments, id and result, by a worker that waits and by one that does not."""
    studio.project = tmp_path
    results = [_rendered(studio, tmp_path, module) for module in ("before", "after")]
    assert results[0] == results[1]
    assert results[1]["published"]["svg"].startswith("<svg")


def _rendered(studio: Studio, folder: Path, module: str) -> dict[str, Any]:
    """What a caller gets; what it can do meanwhile, only afterwards."""
    (folder / f"{module}.py").write_text(PLAIN[f"{module}.py"])
    worker = studio.own_worker(module)
    result: dict[str, Any] = studio.app.send_task("studio.render", args=["a heron"], queue="studio").get(timeout=60)
    if module == "after":
        slow = studio.app.send_task("studio.render", args=["a harbour, slowly"], queue="studio")
        eventually(lambda: slow.state == "IN_PROGRESS" and slow.info["job_id"], timeout=20)
        slow.revoke()
        eventually(lambda: slow.state == "REVOKED", timeout=20)
        assert studio.house.ask("status", id=slow.id)["status"] == "CANCELLED"
    assert worker.stop() == 0
    return result


#: The first run of the task is over, its chain is sent, and its message is not acked yet: then its worker is killed.
KILLED_ONCE = """
import os
import signal
from pathlib import Path

from celery.signals import task_postrun

app.conf.task_acks_late = True


@task_postrun.connect(sender=render)
def killed_once(**_):
    if not (flag := Path(__file__).with_name("killed")).exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_task_that_is_delivered_again_because_its_worker_was_killed_runs_one_job(
    amqp_url: str, redis_url: str, tmp_path: Path
) -> None:
    """The page's task under `acks_late`: both runs send the same job, and the caller has its one result."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url, default_queue="studio") as house:
        house.worker()
        (tmp_path / "after.py").write_text(PLAIN["after.py"] + KILLED_ONCE)
        path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        own = (sys.executable, "-m", "celery", "-A", "after", "worker", "-P", "threads", "-l", "INFO")
        first = house.start("own", *own, **path)
        sent = house.app.send_task("studio.render", args=["a heron"], queue="studio")
        eventually(lambda: not first.running, timeout=30)
        assert (tmp_path / "killed").exists(), first.said()[-2000:]
        second = house.start("own", *own, **path)
        eventually(lambda: f"Task studio.render[{sent.id}] ignored" in second.said(), timeout=30)  # it has run again
        assert sent.get(timeout=60) == {"published": {"prompt": "a heron"}}
        assert house.send({"n": 1}).get(timeout=60) == {"n": 1}  # so what was sent before it has been taken too
        assert house.submits() == 2


def test_autoretry_for_has_no_effect_on_a_job(studio: Studio, tmp_path: Path) -> None:
    """The task has ended without an error before the job fails: one submit, and the task ran once."""
    studio.project = tmp_path
    kept = PLAIN["after.py"].replace('"studio.render")', '"studio.render", autoretry_for=(Exception,), max_retries=3)')
    (tmp_path / "retries.py").write_text(kept.replace(', "retries": 3', ""))
    worker, before = studio.own_worker("retries"), studio.house.submits()
    sent = studio.app.send_task("studio.render", args=["nothing"], queue="studio")
    assert "there is nothing to paint" in str(sent.get(timeout=60, propagate=False))
    assert studio.house.submits() == before + 1
    assert worker.stop() == 0
    assert worker.said().count("Task studio.render[") == worker.said().count("] received") + 1 == 2


@pytest.mark.parametrize("code", RUN, ids=[re.sub(r"\W+", " ", code[:30]) for code in RUN])
def test_a_block_that_uses_the_app_runs(studio: Studio, code: str) -> None:
    """In a process of the Django project, which has its routes from the settings."""
    studio.project = EXAMPLE
    start = "import django; django.setup()\nfrom studio.celery import app\n"
    more = {"DJANGO_SETTINGS_MODULE": "studio.settings"}
    process = studio.start("block", sys.executable, "-c", start + code, **more)
    eventually(lambda: not process.running, timeout=60)
    assert process.stop() == 0, process.said()[-3000:]


def test_the_cap_of_the_page_holds_for_each_user(studio: Studio) -> None:
    """A user's third job waits; another user's goes."""
    assert tomllib.loads(only("toml"))["tenants"]["*"]["max_in_flight"] == 2
    long = {"prompt": "a harbour", "seconds": 300}
    ann = [studio.house.send(long, metadata={"tenant": "ann"}) for _ in range(3)]
    eventually(lambda: sorted(_waits(studio, job.id) or "" for job in ann) == ["", "", "cap"], timeout=20)
    bob = studio.house.send(long, metadata={"tenant": "bob"})
    eventually(lambda: studio.house.ask("status", id=bob.id)["job_id"], timeout=20)
    for job in (*ann, bob):
        studio.house.ask("cancel", id=job.id)
    eventually(lambda: all(job.state == "REVOKED" for job in (*ann, bob)), timeout=20)


def _waits(studio: Studio, request_id: str) -> Any:
    told = studio.house.ask("status", id=request_id)
    return told.get("waiting_for") or (None if told["job_id"] else "not yet submitted")


def test_each_command_of_the_page_works(studio: Studio) -> None:
    """Each line that starts a worker starts one, beside the others; `bridge check` finds no fault then."""
    lines = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if "export" not in line]
    assert len(lines) == 4
    workers = [_started(studio, line) for line in lines]
    for line in lines:
        found = re.findall(r"-n (\w+)@%h", line)
        name = f"{found[0] if found else 'bridge'}@{socket.gethostname()}"
        eventually(lambda: studio.app.control.ping([name], timeout=1.0), timeout=30)  # noqa: B023  (here and now)
    check = _started(studio, "bridge check")
    eventually(lambda: not check.running, timeout=30)
    for process in (*workers, check):
        assert process.stop() == 0, process.said()[-3000:]


def _started(studio: Studio, line: str) -> Process:
    program, *words = line.split()
    return studio.house.start("line", str(Path(sysconfig.get_path("scripts")) / program), *words)


def test_a_team_that_pickles_sends_json(studio: Studio) -> None:
    """By an option of the send; a pickle is refused, and its sender hears what to do."""
    app = Celery("pickles", broker=studio.house.broker, backend=studio.house.backend, set_as_current=False)
    app.conf.update(task_serializer="pickle", accept_content=["pickle", "json"])
    send = partial(app.send_task, "bridge.run", kwargs={"input": {"prompt": "a heron"}}, queue="bridge.run")
    try:
        told = send().get(timeout=60, propagate=False)
        assert (type(told).__name__, "send application/json" in str(told)) == ("JobRejected", True)
        assert send(serializer="json").get(timeout=60)["svg"].startswith("<svg")
    finally:
        hang_up(app)


def test_ci_does_what_the_page_says(tmp_path: Path) -> None:
    """Its last command, with its variables alone, in a copy of the project."""
    job = yaml.safe_load(only("yaml"))["jobs"]["tests"]
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.sqlite3", "__pycache__"))
    command = job["steps"][-1]["run"].split()
    assert command[0] == "python"
    environment = {**job["env"], "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=project, env=environment, capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def test_the_unit_has_the_lines_of_the_page() -> None:
    """In its own order."""
    lines = UNIT.read_text().splitlines()
    found = [lines.index(line) for line in only("ini").splitlines()]
    assert found == sorted(found)
