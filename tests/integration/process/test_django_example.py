"""examples/django over HTTP: the page, the team's own worker, a bridge worker, the emulator."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import ROOT
from tests.support.servers import RedisServer
from tests.support.studio import EXAMPLE, Studio

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The site, its workers, and the bridge's."""
    with Studio(tmp_path_factory.mktemp("studio"), redis_server.start().fresh_url()) as made:
        made.bridge_worker()
        made.own_worker()
        made.page()
        yield made


def test_a_picture_is_painted_and_shown(studio: Studio) -> None:
    """From the form to the image on the page."""
    picture = studio.submit("a heron at dawn")
    assert studio.ended(picture)
    card = studio.card(picture)
    assert "data:image/svg+xml,%3Csvg%20" in card
    assert "done" in card
    assert "Cancel" not in card


def test_a_form_that_is_sent_twice_is_two_pictures_and_two_jobs(studio: Studio) -> None:
    """Each picture is one job, under the picture's id."""
    before = studio.house.submits()
    first, second = studio.submit("two boats"), studio.submit("two boats")
    for picture in (first, second):
        assert studio.ended(picture)
    assert studio.house.submits() == before + 2
    assert studio.house.ask("status", id=f"picture-{first}")["status"] == "COMPLETED"


def test_progress_is_shown_and_a_cancel_reaches_the_gpu(studio: Studio) -> None:
    """The states on the way are the job's; it is cancelled at RunPod, and the page says by whom."""
    picture = studio.submit("a harbour in fog, slowly")
    told = eventually(lambda: studio.progress(picture), timeout=30)
    assert 0 < told["percent"] <= 100
    assert studio.state(picture)["state"] == "IN_PROGRESS"
    assert "Cancel" in studio.card(picture)
    studio.cancel(picture)
    eventually(lambda: studio.house.ask("status", id=f"picture-{picture}")["status"] == "CANCELLED", timeout=20)
    assert "cancelled by ann" in studio.card(picture)
    assert any(call["op"] == "cancel" and call["code"] == 200 for call in studio.house.emulator.calls())


def test_a_failure_is_shown_in_the_handlers_words(studio: Studio) -> None:
    """After its retries."""
    picture = studio.submit("nothing")
    assert studio.ended(picture, "FAILURE")
    assert "there is nothing to paint" in studio.card(picture)
    assert studio.house.ask("status", id=f"picture-{picture}")["attempt"] == 4


def test_an_album_is_bound_when_all_its_jobs_have_ended(studio: Studio) -> None:
    """The chord's body, and the task of beat, by the team's own worker."""
    ids = studio.make("mountain", "river", "night")
    album = studio.app.send_task("pictures.tasks.album", args=[ids], queue="studio").get(timeout=30)
    assert studio.app.AsyncResult(album).get(timeout=60) == 3
    assert all(studio.state(picture)["state"] == "SUCCESS" for picture in ids)


def test_beat_sends_a_picture(studio: Studio, tmp_path: Path) -> None:
    """The schedule of the settings, sped up."""
    (tmp_path / "soon.py").write_text(
        "from studio.celery import app\n"
        "[entry] = app.conf.beat_schedule.values()\n"
        "app.conf.beat_schedule = {'soon': {**entry, 'schedule': 0.5}}\n"
    )
    path = f"{tmp_path}:{EXAMPLE}:{ROOT}"
    words = ("-m", "celery", "-A", "soon", "beat", "-s", str(tmp_path / "beat"), "-l", "INFO")
    beat = studio.start("beat", sys.executable, *words, PYTHONPATH=path)
    eventually(lambda: "the picture of the day" in studio.client.get("/").text, timeout=30)
    assert beat.stop() == 0


def test_a_rolling_restart_loses_no_job_and_runs_none_twice(studio: Studio) -> None:
    """The bridge worker ends in the midst of a job, and another goes on."""
    before = studio.house.submits()
    picture = studio.submit("a long road")
    eventually(lambda: studio.state(picture)["state"] == "IN_PROGRESS", timeout=30)
    assert studio.bridge.stop() == 0
    meanwhile = studio.submit("a bend of it")
    studio.bridge_worker()
    for one in (picture, meanwhile):
        assert studio.ended(one)
    assert studio.house.submits() == before + 2


def test_the_readmes_command_starts_it_all_and_leaves_nothing(tmp_path: Path) -> None:
    """On a Redis of its own; SIGTERM ends the page, the workers, the emulator and the Redis."""
    readme = (EXAMPLE / "README.md").read_text()
    assert "scripts/install\n" in readme
    [command] = re.findall(r"\.venv/bin/python (examples/django/start.py)", readme)
    port, log = free_port(), tmp_path / "start.log"
    environment = {
        **os.environ,
        "DJANGO_DATABASE": str(tmp_path / "db.sqlite3"),
        "CELERY_BROKER_URL": "redis://127.0.0.1:9",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", command, "--port", str(port)], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        eventually(lambda: f"http://127.0.0.1:{port}/" in log.read_text() or process.poll() is not None, timeout=60)
        assert "What shall be painted?" in httpx.get(f"http://127.0.0.1:{port}/").text, log.read_text()
        children = _children(process.pid)
        assert len(children) >= 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(COMMAND_S) == 0, log.read_text()
        eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    finally:
        process.kill()


def _children(pid: int) -> list[int]:
    """Of a process, direct ones."""
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in said]


def test_the_examples_page_needs_nothing_from_elsewhere() -> None:
    """No font, script or style of another host."""
    page = (EXAMPLE / "pictures" / "templates" / "pictures" / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|\{%)[^\"]+", page)
