"""docs/testing.md, as a team would use it: its blocks are the files of a project, whose tests are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from bridge.errors import JobFailed
from bridge.testing import bridge_tasks
from tests.support.house import ROOT

NAMES = ("conftest.py", "studio.py", "test_with_pytest.py", "test_with_unittest.py")
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL)


def run_in(directory: Path, *command: str) -> str:
    """What it says; it must succeed without any server."""
    environment = {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}", "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_recipe_works_as_it_stands(tmp_path: Path) -> None:
    """With pytest and with unittest."""
    for name, block in zip(NAMES, BLOCKS, strict=True):
        (tmp_path / name).write_text(block)
    said = run_in(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey", "test_with_pytest.py")
    assert "6 passed" in said
    assert "OK" in run_in(tmp_path, "-m", "unittest", "test_with_unittest")


def test_an_app_is_afterwards_as_it_was() -> None:
    """Its own tasks, settings and `send_task`, also after an error within."""
    app = Celery("theirs", set_as_current=False)

    @app.task(name="bridge.status", shared=False)
    def own() -> str:
        return "own"

    before = set(app.tasks)
    with pytest.raises(ZeroDivisionError), bridge_tasks(app, run=lambda **_: 1 / 0):
        app.signature("bridge.run", kwargs={"input": {"a": 1}}).apply_async(throw=True).get()
    assert set(app.tasks) == before
    assert app.tasks["bridge.status"]() == "own"
    assert app.conf.task_always_eager is False
    assert "send_task" not in vars(app)


def test_a_command_that_nobody_has_stubbed_says_what_to_do() -> None:
    """And one that there is not is told at once."""
    app = Celery("theirs", set_as_current=False)
    with bridge_tasks(app), pytest.raises(NotImplementedError, match="cancel=lambda"):
        app.send_task("bridge.cancel", args=["r1"]).get()
    with pytest.raises(TypeError, match="stop: is no command"), bridge_tasks(app, stop=print):
        pass


def test_a_task_that_replaces_itself_ends_as_what_has_replaced_it() -> None:
    """Wherever it stands, by `raise` or `return`; what follows it runs once, and nothing of it runs after."""
    app, ran = Celery("theirs", set_as_current=False), Counter[str]()

    @app.task(shared=False)
    def tail(output: Any) -> Any:
        return {"tail": output}

    @app.task(shared=False)
    def note(*_: Any, what: str) -> None:
        ran[what] += 1

    @app.task(shared=False, bind=True, autoretry_for=(Exception,), max_retries=1)
    def old(self: Any, value: Any, *, returns: bool = False) -> Any:
        job = app.signature("bridge.run", kwargs={"input": {"value": value}}, task_id=f"{self.request.id}-job")
        if returns:
            return self.replace(job | tail.s())
        raise self.replace(job | tail.s())

    def run(input: dict[str, Any], **_: Any) -> Any:
        if input["value"] == "bad":
            raise JobFailed("out of memory")
        return input

    with bridge_tasks(app, run=run) as sent:
        follows = {"link": note.s(what="link"), "link_error": note.si(what="errback")}
        assert old.apply_async(("a",), task_id="r1", **follows).get() == {"tail": {"value": "a"}}
        assert old.delay("a", returns=True).get() == {"tail": {"value": "a"}}
        assert (tail.s(1) | old.s() | tail.s()).apply_async().get() == {"tail": {"tail": {"value": {"tail": 1}}}}
        assert ran == {"link": 1}
        failed = old.apply_async(("bad",), **follows)
        assert isinstance(failed.result, JobFailed)
        assert ran == {"link": 1, "errback": 1}
    assert len(sent.calls) == 4


def test_what_ran_eagerly_is_found_by_its_id_where_celery_stores_it() -> None:
    """By Celery's own setting, for code that asks for a job by its id."""
    app = Celery("theirs", set_as_current=False, backend="cache+memory://")
    app.conf.task_store_eager_result = True
    with bridge_tasks(app, run=lambda **asked: asked["input"]):
        app.send_task("bridge.run", kwargs={"input": {"a": 1}}, task_id="picture-17", queue="bridge.run")
        assert app.AsyncResult("picture-17").get() == {"a": 1}
