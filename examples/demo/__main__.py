"""The main job, for everybody to see: 24 tiles as a chord, a story word by word, a cancel, a failure.

`--plain` prints one line a transition, `--json` only a summary, `--live` runs one request on the real RunPod.
Exit 0 only if each request ended as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import redis
from celery import Celery, chord
from PIL import Image

from examples.demo.servers import ROOT, Servers, clean, keep_only
from examples.demo.show import Show

COLUMNS, ROWS, SIZE = 6, 4, 160
LIMIT_S = 90.0
#: Beside the code, where it is found again, and where git does not look.
PICTURE = ROOT / "demo-output" / "mandelbrot.png"
#: What a real picture and a real story have at least.
LEAST_COLOURS, LEAST_WORDS = 100, 5


class Producer:
    """A Celery app like any other team's: it knows the bridge by the name of its queue."""

    def __init__(self, url: str, show: Show) -> None:
        """Connects at the first send."""
        self.app = Celery("producer", broker=url, backend=url, set_as_current=False)
        self.app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
        self.show = show
        self.ids: dict[str, str] = {}

    def job(self, what: str, given: dict[str, Any], endpoint: str, **more: Any) -> Any:
        """A `bridge.run` as a signature, shown from now on."""
        request_id = str(uuid.uuid4())
        self.ids[what] = request_id
        self.show.add(request_id, what)
        signature = self.app.signature(
            "bridge.run", kwargs={"input": given, "endpoint": endpoint, **more}, queue="bridge.run"
        )
        return signature.set(task_id=request_id)


class Listener(threading.Thread):
    """Follows the event stream from its beginning."""

    def __init__(self, url: str, show: Show) -> None:
        """Ends with the process."""
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._show = show
        self.events: list[dict[str, Any]] = []

    def run(self) -> None:
        """Read until the process ends."""
        cursor = "0-0"
        while True:
            try:
                found: Any = self._client.xread({"bridge:events": cursor}, count=200, block=500)
            except redis.RedisError:
                return
            for _, entries in found or ():
                for entry_id, entry in entries:
                    cursor = entry_id
                    event = json.loads(entry["data"])
                    self.events.append(event)
                    self._show.event(event)

    def named(self, request_id: str, name: str) -> list[dict[str, Any]]:
        """Events of one request."""
        return [e for e in list(self.events) if e["subject"] == request_id and e["type"] == f"bridge.job.{name}"]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", action="store_true", help="one line a transition")
    parser.add_argument("--json", action="store_true", help="only a summary, on stdout")
    parser.add_argument("--live", action="store_true", help="one request on the real RunPod")
    parser.add_argument("--out", type=Path, default=PICTURE, help="where the picture goes (default: %(default)s)")
    parser.add_argument("--svg", type=Path, help="draw what a terminal shows at the end")
    asked = parser.parse_args()
    # Before anything of Celery's is made: it puts CELERY_BROKER_URL above what a program says.
    keep_only(clean(os.environ, live=asked.live))
    show = Show("quiet" if asked.json else "plain" if asked.plain or not sys.stdout.isatty() else "live")
    try:
        summary = live(show) if asked.live else demo(show, asked.out.resolve())
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    if asked.svg:
        show.draw(asked.svg)
    if asked.json:
        print(json.dumps(summary))  # noqa: T201
    return 0 if summary["ok"] else 1


def demo(show: Show, out: Path) -> dict[str, Any]:
    """The main job on the emulator."""
    began = time.monotonic()
    with Servers() as servers:
        show.say("Redis is up (embedded)")
        servers.emulator()
        show.say("RunPod is up (emulated; the handlers are real RunPod handlers)")
        servers.bridge_worker()
        show.say("the bridge worker is up: celery -A bridge.app worker")
        servers.own_worker()
        listener = Listener(servers.url, show)
        listener.start()
        producer = Producer(servers.url, show)
        show.start()
        try:
            checks = _run(producer, listener, out)
        finally:
            show.stop()
    ok = all(checks.values())
    for name, held in checks.items():
        show.say(f"[{'green' if held else 'red'}]{'as it should' if held else 'NOT as it should'}[/]  {name}")
    told = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    show.say(f"picture: {told}" if out.exists() else "no picture")
    return {"ok": ok, "checks": checks, "picture": str(out), "seconds": round(time.monotonic() - began, 1)}


def _run(producer: Producer, listener: Listener, out: Path) -> dict[str, bool]:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    place = {"columns": COLUMNS, "rows": ROWS, "size": SIZE}
    tiles = [
        producer.job(f"tile {x},{y}", {"x": x, "y": y, **place}, "tiles") for y in range(ROWS) for x in range(COLUMNS)
    ]
    story = producer.job("story", {"seed": 7, "pause": 0.12}, "story", stream=True).apply_async()
    picture = chord(tiles, producer.app.signature("demo.join", kwargs={"path": str(out)}))()
    failing = producer.job("bad input", {"x": "left"}, "tiles").apply_async()
    joined = picture.get(timeout=LIMIT_S)
    long = producer.job("long render", {"x": 0, "y": 0, **place, "seconds": 300}, "tiles").apply_async()
    _until(lambda: listener.named(long.id, "started"))
    producer.app.send_task("bridge.cancel", kwargs={"id": long.id, "by": "demo"}, queue="bridge.control").get(
        timeout=20
    )
    words = story.get(timeout=LIMIT_S)
    ends = ((long, "cancelled"), (failing, "failed"), (story, "completed"))
    # An event may be told before or after the result is stored, and is heard later still.
    _until(lambda: all(job.ready() and listener.named(job.id, name) for job, name in ends))
    told = [event["data"]["output"] for event in listener.named(story.id, "chunk")]
    error = listener.named(failing.id, "failed")[0]["data"]["error"]
    with Image.open(out) as image:
        colours = image.getcolors(1 << 20)
        whole = (
            (image.width, image.height) == (COLUMNS * SIZE, ROWS * SIZE)
            and colours is not None
            and len(colours) > LEAST_COLOURS
        )
    return {
        "24 tiles ended, each once": all(len(listener.named(t.options["task_id"], "completed")) == 1 for t in tiles),
        "the chord joined them into one picture": whole and joined["tiles"] == COLUMNS * ROWS,
        "the story came word by word": told == words and len(words) > LEAST_WORDS,
        "the long job was cancelled": long.state == "REVOKED",
        "the bad input failed with its error": failing.state == "FAILURE" and "TypeError" in str(error),
    }


def _until(check: Any) -> None:
    ends = time.monotonic() + LIMIT_S
    while not check():
        if time.monotonic() > ends:
            raise RuntimeError("the demo waited too long")
        time.sleep(0.02)


def live(show: Show) -> dict[str, Any]:
    """One request on the real RunPod."""
    missing = [name for name in ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID") if not os.environ.get(name)]
    if missing:
        raise RuntimeError(f"--live needs {' and '.join(missing)}")
    with Servers(live=True) as servers:
        servers.bridge_worker()
        listener = Listener(servers.url, show)
        listener.start()
        producer = Producer(servers.url, show)
        given = json.loads(os.environ.get("DEMO_INPUT", '{"prompt": "hello"}'))
        sent = producer.job("live", given, os.environ["RUNPOD_ENDPOINT_ID"]).apply_async()
        output = sent.get(timeout=600)
        return {"ok": sent.state == "SUCCESS", "output": output}


if __name__ == "__main__":
    sys.exit(main())
