"""What the demo shows: a live table of transitions, or one line a transition."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLOURS = {
    "accepted": "grey62",
    **dict.fromkeys(("submitted", "queued"), "cyan"),
    **dict.fromkeys(("started", "progress", "chunk"), "yellow"),
    "completed": "green",
    "cancelled": "magenta",
    **dict.fromkeys(("failed", "timed_out", "lost", "rejected"), "red"),
}


@dataclass
class Shown:
    """One request as it is shown."""

    what: str
    began: float
    steps: list[tuple[str, float]] = field(default_factory=list)
    note: str = ""


class Show:
    """`mode`: live, plain or quiet."""

    def __init__(self, mode: str) -> None:
        """Nothing is shown before the first line."""
        self._said: list[str] = []
        self.console = Console(stderr=mode == "quiet", quiet=mode == "quiet")
        self.mode = mode
        self.requests: dict[str, Shown] = {}
        self.story = ""
        self._live: Live | None = None
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line above the table."""
        line = f"[grey62]{time.monotonic() - self._began:5.1f} s[/]  {text}"
        self._said.append(line)
        self.console.print(line)

    def start(self) -> None:
        """Begin the live table."""
        if self.mode == "live" and self.console.is_terminal:
            self._live = Live(self._render(), console=self.console, refresh_per_second=12, transient=False)
            self._live.start()

    def stop(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.update(self._render())
            self._live.stop()
            self._live = None

    def add(self, request_id: str, what: str) -> None:
        """A request is on its way."""
        self.requests[request_id] = Shown(what, time.monotonic())

    def event(self, event: dict[str, Any]) -> None:
        """A transition."""
        shown = self.requests.get(event["subject"])
        if shown is None:
            return
        name, data = event["type"].rpartition(".")[2], event["data"]
        if name == "chunk":
            self.story += data["output"]
        elif not shown.steps or shown.steps[-1][0] != name:
            shown.steps.append((name, time.monotonic() - shown.began))
        if name == "failed":
            error = data["error"]
            shown.note = f"{error['type']}: {error['message']}" if isinstance(error, dict) else str(error)
        if self._live is not None:
            self._live.update(self._render())
        elif self.mode == "plain":
            said = data["output"] if name == "chunk" else shown.note if name == "failed" else data.get("job_id") or ""
            self.console.print(f"{event['time'][11:23]}  {shown.what:14} {name:10} {said}", highlight=False)

    def draw(self, path: Path) -> None:
        """What a terminal shows at the end, as an SVG that loads nothing from elsewhere."""
        before = sum("is up" in line for line in self._said)
        paper = Console(
            record=True, width=134, height=22, file=io.StringIO(), force_terminal=True, color_system="truecolor"
        )
        paper.print("[bold]$ scripts/demo[/]")
        self.console = paper
        for part in (*self._said[:before], "", self._render(), "", *self._said[before:]):
            paper.print(part, highlight=False)
        drawn = paper.export_svg(title="scripts/demo", theme=MONOKAI, unique_id="demo")
        fonts = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fonts.sub("", drawn).replace("Fira Code, monospace", "monospace"))

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="grey62")
        for heading in ("request", "where it stands", "seconds", ""):
            table.add_column(heading, no_wrap=self.console.record)
        for shown in self._newest():
            steps = Text()
            for n, (name, _) in enumerate(shown.steps):
                steps.append(" > " if n else "", style="grey42")
                steps.append(name, style=COLOURS.get(name, ""))
            table.add_row(shown.what, steps, f"{shown.steps[-1][1]:.1f}" if shown.steps else "", shown.note[:60])
        return Group(table, Text(f"\n{self.story}", style="italic") if self.story else Text(""))

    def _newest(self) -> list[Shown]:
        """As many as fit; those that still run first."""
        room = max(6, self.console.height - 8)
        ends = {"completed", "failed", "cancelled"}
        still = [s for s in self.requests.values() if not s.steps or s.steps[-1][0] not in ends]
        over = [s for s in self.requests.values() if s.steps and s.steps[-1][0] in ends]
        return sorted((over[-max(0, room - len(still)) :] + still)[-room:], key=lambda s: s.began)
