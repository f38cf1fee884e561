"""Pages from templates: everything that comes from anywhere is escaped; how times, sizes and words are written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from bridge import __version__

if TYPE_CHECKING:
    from bridge.doors.http.console.session import Visitor

STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
#: What there is no figure of.
NEVER = "\u2013"
#: How each status and verdict looks: good, bad, warn, busy, calm.
TONES = {
    "COMPLETED": "good", "FAILED": "bad", "TIMED_OUT": "bad", "LOST": "bad", "REJECTED": "bad", "CANCELLED": "warn",
    "IN_PROGRESS": "busy", "IN_QUEUE": "calm", "ACCEPTED": "calm", "SCHEDULED": "calm", "SUBMITTING": "busy",
    "UNANSWERED": "warn", "RETRYING": "warn", "ok": "good", "cold": "calm", "paused": "warn", "throttled": "warn",
    "unhealthy": "bad", "out_of_credit": "bad", "unauthorised": "bad", "unreachable": "bad",
}  # fmt: skip


class Pages:
    """Renders; `names` of the address bar are the templates' own affair."""

    def __init__(self, *, read_only: bool, content: bool) -> None:
        """`content`: whether inputs and outputs may be looked at."""
        self._templates = Environment(
            loader=PackageLoader("bridge.doors.http.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters |= FILTERS
        self._templates.globals |= {
            "read_only": read_only,
            "content": content,
            "version": __version__,
            "static": static_path,
            "tone": lambda word: TONES.get(word, "calm"),
        }

    @property
    def routes(self) -> list[Route]:
        """What the pages load."""
        return [Route("/static/{name}", _static, methods=["GET"])]

    def page(self, request: Request, template: str, visitor: Visitor | None, told: Mapping[str, Any]) -> Response:
        """A page; only its middle where its script looks again."""
        part = bool(request.headers.get("x-console-part"))
        text = self._templates.get_template(template).render(
            layout="part.html" if part else "layout.html",
            visitor=visitor,
            path=request.url.path,
            query=dict(request.query_params),
            **told,
        )
        return HTMLResponse(text)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response(status_code=404)
    kept = "public, max-age=31536000, immutable" if request.query_params.get("v") else "no-cache"
    headers = {"cache-control": kept, "x-content-type-options": "nosniff"}
    return Response(_read(name), media_type=STATIC[name], headers=headers)


@cache
def _read(name: str) -> bytes:
    return (files("bridge.doors.http.console") / "static" / name).read_bytes()


@cache
def static_path(name: str) -> str:
    """Its address, which changes with it."""
    return f"/console/static/{name}?v={hashlib.sha256(_read(name)).hexdigest()[:12]}"


# How things are written


def span(seconds: float | None) -> str:
    """`240 ms`, `12.4 s`, `3 min`, `2.5 h`, `4 d`."""
    if seconds is None:
        return NEVER
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds > 0 else "0 s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (1.5 * size if unit != "min" else 100):
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 and unit != "min" else f"{value:.0f} {unit}"  # noqa: PLR2004
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004


def moment(stamp: str | None) -> datetime | None:
    """A document's time."""
    return datetime.fromisoformat(stamp) if stamp else None


def ago(stamp: str | None) -> str:
    """`4 s ago`, `in 3 min`; a dash for never."""
    at = moment(stamp)
    if at is None:
        return NEVER
    seconds = (datetime.now(UTC) - at).total_seconds()
    if seconds < -1:
        return f"in {_rough(-seconds)}"
    return "now" if seconds < 1 else f"{_rough(seconds)} ago"


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else span(seconds)  # noqa: PLR2004


def clock(stamp: str | None) -> str:
    """`28 Nov 21:04:11.532`."""
    at = moment(stamp)
    return f"{at:%d %b %H:%M:%S}.{at.microsecond // 1000:03}" if at else NEVER


def count(value: float | None) -> str:
    """`1,234`; `1.2` below ten where it is no whole number."""
    if value is None:
        return NEVER
    if value != int(value) and value < 10:  # noqa: PLR2004
        return f"{value:.1f}"
    return f"{value:,.0f}"


def size(value: int | None) -> str:
    """`312 B`, `1.4 KiB`."""
    if value is None:
        return NEVER
    found = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if found < 1024 or unit == "GiB":  # noqa: PLR2004
            return f"{found:.0f} {unit}" if unit == "B" or found >= 100 else f"{found:.1f} {unit}"  # noqa: PLR2004
        found /= 1024
    return ""


def pretty(value: object) -> str:
    """JSON for people; text as it is."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def path_of(values: Sequence[float], width: int = 240, height: int = 40, *, closed: bool = False) -> str:
    """The `d` of an SVG path through the values, as high as the highest of them lets it."""
    return scaled(values, max(values, default=0), width, height, closed=closed)


def scaled(values: Sequence[float], highest: float, width: int, height: int, *, closed: bool = False) -> str:
    """The same, where `highest` reaches the top: for lines that share a picture."""
    if not values:
        return ""
    step, room = width / max(1, len(values) - 1), height - 4
    points = [(n * step, height - 1 - room * value / (highest or 1)) for n, value in enumerate(values)]
    line = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"{line}L{width},{height}L0,{height}Z" if closed else line


def percent(part: float, whole: float) -> int:
    """Of 100."""
    return max(0, min(100, math.ceil(100 * part / whole))) if whole else 0


FILTERS: dict[str, Any] = {
    "span": span, "ago": ago, "clock": clock, "count": count, "size": size, "pretty": pretty, "path_of": path_of,
    "scaled": scaled, "percent": percent,
}  # fmt: skip
