"""Keeps all threads of this process on one CPU, the one with the most to spare.

Python runs one thread of a process at a time. With several CPUs, a thread that gives the interpreter's lock up for a
system call of microseconds loses it to a thread that waits on another CPU, and has it back milliseconds later. On one
CPU it simply goes on (docs/performance.md has the figures).

Linux alone can do this for all threads of a process; elsewhere nothing is done.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bridge.telemetry import tell

#: Seconds between two looks at how busy the CPUs are, a fifth more or less: processes that have chosen alike must not
#: go on doing so. The first time the looks are closer.
LOOK_S, FIRST_S = 5.0, 0.5
#: CPUs whose use differs by less, as a part of one, are equally good.
ALIKE = 0.1
#: Another CPU must have so much more to spare, as a part of one, before this process moves there.
MOVES_FOR = 0.25
#: Where others use more of the best CPU than this part, the kernel knows better how to share them out.
CROWDED = 0.6

#: The CPUs that this process may use, while it keeps to one of them: a child gets them back.
_allowed: set[int] = set()


class _Look(NamedTuple):
    """In seconds: now, the CPU that this process has used, and how long each CPU was busy."""

    at: float
    own_s: float
    busy_s: dict[int, float]


class OneCpu:
    """`once()` looks, chooses and holds; for a loop. `let_go()` gives all threads back what they had."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        """`stat` is where the kernel tells how busy each CPU was. Nothing is held yet."""
        self._stat = stat
        self._seen: _Look | None = None
        self._held: int | None = None
        self._over = False

    @staticmethod
    def possible() -> bool:
        """Whether there is a choice: Linux, and more than one CPU."""
        return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(os.getpid())) > 1

    def once(self) -> float:
        """Returns seconds until the next look."""
        if self._over or not self._still_ours():
            return LOOK_S
        before, self._seen = self._seen, self._look()
        if before is None:
            return FIRST_S
        best = self._best(before, self._seen)
        if best != self._held:
            tell("cpu.held", cpu="any" if best is None else best)
        self._hold(best)
        return LOOK_S * random.uniform(0.8, 1.2)  # noqa: S311  (no secret)

    def let_go(self) -> None:
        """For good: what is started from here on may run anywhere again."""
        self._over = True
        if self._held is not None and self._still_ours():
            _on_all_threads(_allowed)
        _allowed.clear()
        self._held = None

    def _still_ours(self) -> bool:
        """Somebody else may have set the CPUs of this process since (`taskset -p`): theirs hold from then on."""
        if self._held is not None and os.sched_getaffinity(os.getpid()) != {self._held}:
            self._held, self._over = None, True
            _allowed.clear()
            return False
        return True

    def _look(self) -> _Look:
        return _Look(time.monotonic(), time.process_time(), _busy_s(self._stat))

    def _best(self, before: _Look, now: _Look) -> int | None:
        """The CPU that others use least; the one that is held, unless another is a good deal better. None: no one."""
        took, own = max(0.001, now.at - before.at), now.own_s - before.own_s
        here = {self._held} if self._held is not None else self._all()
        others: dict[int, float] = {}
        for cpu in self._all():
            used = now.busy_s.get(cpu, 0.0) - before.busy_s.get(cpu, 0.0) - (own / len(here) if cpu in here else 0.0)
            others[cpu] = max(0.0, used) / took  # the kernel's clocks are none too exact
        least = min(others.values())
        if least > CROWDED:
            return None
        if self._held is not None:
            # Two processes on one CPU see the same: one of them, as likely as not, stays.
            moves = others[self._held] - least > MOVES_FOR and random.random() < 1 / 2  # noqa: S311
            if not moves:
                return self._held
        return random.choice([cpu for cpu, used in others.items() if used - least <= ALIKE])  # noqa: S311

    def _all(self) -> set[int]:
        return _allowed or os.sched_getaffinity(os.getpid())

    def _hold(self, cpu: int | None) -> None:
        """Again at each look: a thread that was starting meanwhile may have what its parent had."""
        if cpu is None and self._held is None:
            return
        _allowed.update(self._all())
        try:
            _on_all_threads(_allowed if cpu is None else {cpu})
        except OSError:  # the container's set of CPUs was changed under it
            self.let_go()
            return
        self._held = cpu
        if cpu is None:
            _allowed.clear()


def _on_all_threads(cpus: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cpus)


def _busy_s(stat: Path) -> dict[int, float]:
    """How long each CPU was busy since it started; empty where the kernel does not tell."""
    found: dict[int, float] = {}
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        name, *told = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, (*told[:8], *["0"] * (8 - len(told))))
            found[int(name[3:])] = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return found


def _forked() -> None:
    """A child of a pool is a process of its own, and runs where it likes."""
    if _allowed:
        with suppress(OSError):
            os.sched_setaffinity(0, _allowed)
        _allowed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
