"""examples/django as a running site: its page, its own worker, a bridge worker, and the emulator with its handler."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Self

import httpx
from celery import Celery

from bridge.emulator import Emulator, EndpointConfig
from tests.support.helpers import eventually, free_port
from tests.support.house import API_KEY, ROOT, House, Process

EXAMPLE = ROOT / "examples" / "django"


class Studio:
    """Everything started here ends with it."""

    def __init__(self, directory: Path, url: str, *, project: Path = EXAMPLE) -> None:
        """`project` is the folder with `manage.py`; `url` that of a Redis database of its own."""
        self.project = project
        self._emulator = Emulator(
            endpoints={"painter": EndpointConfig()}, api_keys=[API_KEY], handlers={"painter": EXAMPLE / "painter.py"}
        )
        self._emulator.start()
        self.house = House(directory, broker=url, redis_url=url, emulator=self._emulator, default_queue="studio")
        self.house.environment |= {
            "RUNPOD_ENDPOINT_ID": "painter",
            "DJANGO_DATABASE": str(directory / "db.sqlite3"),
        }
        self.app: Celery = self.house.app
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.house.__exit__()
        self._emulator.stop()

    def start(self, name: str, *command: str, **more: str) -> Process:
        """A process that can import the project, with the site's own environment alone."""
        return self.house.start(name, *command, **{"PYTHONPATH": f"{self.project}:{ROOT}", **more})

    def manage(self, *words: str, code: int = 0) -> str:
        """A command of Django's to its end; what it said."""
        process = self.start(words[0], sys.executable, str(self.project / "manage.py"), *words)
        eventually(lambda: not process.running, timeout=60)
        assert process.stop() == code, process.said()[-3000:]
        return process.said()

    def bridge_worker(self, **more: str) -> None:
        """`bridge` is the newest one."""
        self.house.environment |= more
        self.bridge = self.house.worker()

    def own_worker(self, app: str = "studio") -> Process:
        """The team's own, on its default queue."""
        words = ("-m", "celery", "-A", app, "worker", "-l", "INFO", "-P", "threads", "-c", "4")
        process = self.start("own", sys.executable, *words, "-n", f"{app}@test", "--without-gossip", "--without-mingle")
        eventually(lambda: "ready." in process.said() or not process.running, timeout=30)
        assert process.running, process.said()[-3000:]
        return process

    def page(self) -> None:
        """Migrate, and serve."""
        self.manage("migrate", "--verbosity", "0")
        address = f"127.0.0.1:{self.client.base_url.port}"
        served = self.start("page", sys.executable, str(self.project / "manage.py"), "runserver", "--noreload", address)
        eventually(lambda: not served.running or self.client.get("/").status_code == 200, timeout=30)
        assert served.running, served.said()[-3000:]

    def submit(self, prompt: str) -> int:
        """By the form; the newest picture's key."""
        before = self._keys()
        self._post("/pictures", prompt=prompt)
        [made] = set(self._keys()) - set(before)
        return made

    def make(self, *prompts: str) -> list[int]:
        """Rows without jobs, as another part of the site would make them."""
        said = self.manage(
            "shell", "-v", "0", "-c",
            "from pictures.models import Picture\n"
            f"print('made', [Picture.objects.create(user='bob', prompt=prompt).pk for prompt in {prompts!r}])",
        )  # fmt: skip
        return [int(key) for key in re.findall(r"made \[(.*)\]", said)[0].split(", ")]

    def cancel(self, picture: int) -> None:
        """By the button."""
        self._post(f"/pictures/{picture}/cancel")

    def state(self, picture: int) -> dict[str, Any]:
        """What the page's script hears."""
        answer: dict[str, Any] = self.client.get(f"/pictures/{picture}").raise_for_status().json()
        return answer

    def ended(self, picture: int, state: str = "SUCCESS") -> bool:
        """Waits for this end of it."""
        return bool(eventually(lambda: self.state(picture)["state"] == state, timeout=40))

    def progress(self, picture: int) -> Any:
        """The handler's, once it has come; the picture must not have ended before."""
        return self.state(picture).get("progress")

    def card(self, picture: int) -> str:
        """Of the page, what shows this picture."""
        cards: list[str] = re.findall(r"<article.*?</article>", self.client.get("/").text, re.DOTALL)
        return cards[sorted(self._keys(), reverse=True).index(picture)]

    def _keys(self) -> list[int]:
        return [int(key) for key in re.findall(r'id="picture-(\d+)"', self.client.get("/").text)]

    def _post(self, path: str, **form: str) -> None:
        token = re.findall(r'csrfmiddlewaretoken" value="(\w+)"', self.client.get("/").text)[0]
        self.client.post(path, data={"csrfmiddlewaretoken": token, **form}, follow_redirects=True).raise_for_status()
