"""Kill points: every call that leaves a bridge process is one, numbered along the life of the request it is about.

The plan rides in the request's own id, so nobody has to be told it: `kp-17-link-12b.20a-0` is request number 17 of
the workload `link`; whichever process makes its 12th call dies before it, whichever makes its 20th dies after it. Calls
are counted in memory that all bridge processes of a walk share, so a count goes on where the dead one left it. What
names no request (a claim, a grant, an idle look) is counted by each process for itself, against a plan of its own.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

#: Requests of one walk at most; the first place says whether there is peace.
SLOTS = 60_000
ID = re.compile(r"kp-(\d+)-([a-z]+)-([0-9ab.]*)-\d+")
#: Said of no request, they still belong to the one that the thread was last busy with; so do calls about a whole batch.
_FOLLOWS = frozenset({"XACK", "XDEL", "ZREM", "http batch"})
_WORD = struct.Struct("<I")


class Points:
    """The counters, the plans, and the record of who died where."""

    def __init__(self, counters: Path, log: Path) -> None:
        """Opened before the fork, so that all children share them."""
        self._fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with counters.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SLOTS * _WORD.size)
        self._lock = threading.Lock()
        self._here = threading.local()
        self._unnamed = 0
        #: Of this process: die at the so-many-th call that names no request; 0 for never.
        self.process_at = 0
        self.process_when = "b"

    def write(self, **line: Any) -> None:
        """One line of the log, whole or not at all."""
        os.write(self._fd, (json.dumps({**line, "pid": os.getpid(), "t": time.time()}) + "\n").encode())

    def _die(self, **where: Any) -> None:
        if _WORD.unpack_from(self._shared, 0)[0]:
            return
        self.write(kill=True, **where)
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, label: str, said: str, call: Callable[[], Any]) -> Any:
        """Make the call, unless this is where the process dies."""
        if getattr(self._here, "inside", False):  # one call is one point, however many layers it passes
            return call()
        over = self.leaving(label, said)
        self._here.inside = True
        try:
            answer = call()
        finally:
            self._here.inside = False
        over()
        return answer

    def leaving(self, label: str, said: str) -> Callable[[], None]:
        """A call leaves, unless this is where the process dies; call what comes back when it is answered."""
        here = self._here
        found = {match.group(0): match for match in ID.finditer(said)}
        if found:
            here.last = dict(list(found.items())[:1])
        else:
            context = getattr(here, "context", None)
            found = (context and {context.group(0): context}) or (
                getattr(here, "last", {}) if {label, label.split(" ", maxsplit=1)[0]} & _FOLLOWS else {}
            )
        numbers = [self._count(match) for match in found.values()] or [self._count_unnamed()]
        matches: list[re.Match[str] | None] = [*found.values()] or [None]
        self._look(label, matches, numbers, "b")
        return lambda: self._look(label, matches, numbers, "a")

    def about(self, said: str) -> Callable[[], None]:
        """What this thread does from now on is about a request; call the answer when it no longer is."""
        self._here.context = ID.search(said)

        def over() -> None:
            self._here.context = None

        return over

    def _look(self, label: str, matches: list[re.Match[str] | None], numbers: list[int], when: str) -> None:
        for match, number in zip(matches, numbers, strict=True):
            if match is None:
                if number == self.process_at and when == self.process_when:
                    self._die(workload="-", n=number, when=when, label=label)
            elif f"{number}{when}" in match.group(3).split("."):
                self._die(workload=match.group(2), slot=int(match.group(1)), n=number, when=when, label=label)

    def _count(self, match: re.Match[str]) -> int:
        at = (int(match.group(1)) % SLOTS) * _WORD.size
        with self._lock:
            number = int(_WORD.unpack_from(self._shared, at)[0]) + 1
            _WORD.pack_into(self._shared, at, number)
        return number

    def _count_unnamed(self) -> int:
        with self._lock:
            self._unnamed += 1
            return self._unnamed


def made(counters: Path) -> None:
    """An empty file of counters."""
    counters.write_bytes(bytes(SLOTS * _WORD.size))


def peace(counters: Path) -> None:
    """Nobody dies any more: what is left of the walk only has to end."""
    with counters.open("r+b") as file:
        file.write(_WORD.pack(1))


def counted(counters: Path, slot: int) -> int:
    """How many calls about a request have been made."""
    with counters.open("rb") as file:
        file.seek(slot * _WORD.size)
        return int(_WORD.unpack(file.read(_WORD.size))[0])


@cache
def _scripts() -> dict[str, str]:
    """The scripts' names by their SHA-1."""
    from bridge.ledger.scripts import script  # noqa: PLC0415
    from bridge.runpod.limits.scripts import _source  # noqa: PLC0415

    found = {}
    rooms: list[tuple[str, str, Callable[[str], str]]] = [
        ("ledger", "bridge.ledger", lambda name: script(name).sha),
        ("runpod", "bridge.runpod.limits", lambda name: _source(name)[1]),
    ]
    for room, package, sha in rooms:
        for file in (files(package) / "lua").iterdir():
            name = file.name.removesuffix(".lua")
            if not name.startswith("_"):
                found[sha(name)] = f"{room}.{name}"
    return found


def _label(args: tuple[Any, ...]) -> str:
    if str(args[0]).startswith("EVAL") and len(args) > 1:
        return f"script {_scripts().get(str(args[1]), 'source')}"
    key = str(args[1]) if len(args) > 1 else ""
    return f"{args[0]} {ID.sub('*', key)[:40]}" if key.startswith(("bridge", "celery", "unacked")) else str(args[0])


def install(points: Points) -> None:
    """Wrap every way out of this process."""
    from amqp.channel import Channel  # noqa: PLC0415
    from celery.worker.request import Request  # noqa: PLC0415
    from redis import Redis  # noqa: PLC0415
    from redis.client import Pipeline  # noqa: PLC0415

    from bridge.redis import round_trips  # noqa: PLC0415
    from bridge.runpod.client import RunPodClient  # noqa: PLC0415

    def wrap(owner: Any, name: str, described: Callable[..., tuple[str, str]]) -> None:
        original = getattr(owner, name)

        def called(self: Any, *args: Any, **kwargs: Any) -> Any:  # a function of a module has no self, but a first one
            label, said = described(self, *args, **kwargs)
            return points.around(label, said, lambda: original(self, *args, **kwargs))

        setattr(owner, name, called)

    def scripts(_client: Any, many: Any) -> tuple[str, str]:
        more = f"+{len(many) - 1}" if len(many) > 1 else ""
        return _label(tuple(many[0])) + more, repr(many)

    def commands(pipe: Any, *_: Any, **__: Any) -> tuple[str, str]:
        stack = [command[0] for command in pipe.command_stack]
        return (f"{_label(stack[0])}+{len(stack) - 1}" if stack else "EXEC"), repr(stack)

    wrap(Redis, "execute_command", lambda _self, *args, **_: (_label(args), repr(args)))
    wrap(Pipeline, "execute", commands)
    wrap(round_trips, "call_many", scripts)
    for name in ("basic_publish_confirm", "_basic_publish"):
        wrap(
            Channel,
            name,
            lambda _self, msg, exchange="", routing_key="", **_: (
                f"amqp {exchange or routing_key}",
                f"{msg.body!r}{msg.properties!r}",
            ),
        )
    wrap(RunPodClient, "_call", lambda _self, op, *args, **_: (f"http {op}", repr(args)))
    _install_calls(points)
    acknowledge: Any = Request.acknowledge

    def acked(self: Any) -> Any:
        over = points.about(str(self.id))
        try:
            return points.around("ack", str(self.id), lambda: acknowledge(self))
        finally:
            over()

    Request.acknowledge = acked


def _install_calls(points: Points) -> None:
    """Calls to RunPod whose answer no thread waits for, and what the threads that make the others are busy with."""
    from bridge.engine.calls.threads import Callers  # noqa: PLC0415
    from bridge.runpod.client import RunPodClient  # noqa: PLC0415

    start, begin, begin_call = Callers.start, Callers.begin, RunPodClient._begin

    def begun(self: Any, op: Any, endpoint_id: Any, job_id: Any, body: Any, read: Any, then: Any) -> bool:
        over = points.leaving(f"http {op}", repr((endpoint_id, job_id, body)))

        def told(what: Any) -> None:
            over()
            then(what)

        return begin_call(self, op, endpoint_id, job_id, body, read, told)

    def started(self: Any, call: Callable[..., None], *args: Any, owner: str = "") -> None:
        def about(*inner: Any) -> None:
            over = points.about(getattr(getattr(inner[0], "record", None), "id", "") if inner else "")
            try:
                call(*inner)
            finally:
                over()

        start(self, about, *args, owner=owner)

    def left(self: Any, leave: Any, call: Callable[..., None], *args: Any, owner: str = "") -> bool:
        over = points.about(args[0].record.id)
        try:
            return begin(self, leave, call, *args, owner=owner)
        finally:
            over()

    RunPodClient._begin = begun  # type: ignore[method-assign]
    Callers.start = started  # type: ignore[method-assign]
    Callers.begin = left  # type: ignore[method-assign]
