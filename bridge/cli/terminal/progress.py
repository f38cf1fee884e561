"""How far a verb has come with many requests: one line in a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import click

#: Seconds between two lines.
EVERY_S = 0.1
#: Seconds of the past that a pace is of, and between two marks in it; below so many a second it is told by the minute.
PACE_OVER_S, PACE_STEP_S, SLOW_A_SECOND = 60.0, 1.0, 0.5
#: A unit of time is used from so many of it on.
TWICE = 2


class Pace:
    """Ends a second over the last minute, and how long the rest takes at that pace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has ended."""
        self._clock = clock
        self._count = 0
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])

    def ended(self, count: int) -> None:
        """So many more."""
        now = self._clock()
        self._count += count
        if now - self._marks[-1][0] >= PACE_STEP_S:
            self._marks.append((now, self._count))
        while len(self._marks) > 1 and now - self._marks[1][0] > PACE_OVER_S:
            self._marks.popleft()

    def told(self, left: int) -> str:
        """`, 4.1/s, 2 min left`; nothing before anything has ended."""
        since, before = self._marks[0]
        passed, count = self._clock() - since, self._count - before
        if count == 0 or passed <= 0:
            return ""
        rate = count / passed
        said = f"{rate:.1f}/s" if rate >= SLOW_A_SECOND else f"{rate * 60:.1f}/min"
        return f", {said}" + (f", {duration(left / rate)} left" if left > 0 else "")


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, size, digits in (("days", 86_400, 1), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= TWICE * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


class Progress:
    """Counts answers by their outcome; a terminal's line is written over, on stderr."""

    def __init__(self, total: int) -> None:
        """Of so many."""
        self._shown = sys.stderr.isatty() and total > 1
        self._written_at = 0.0
        self._outcomes: Counter[str] = Counter()
        self.begin("asked", total)

    def begin(self, verb: str, total: int) -> None:
        """The next part of the way."""
        self._verb, self._total, self._count = verb, total, 0

    def step(self, answer: dict[str, Any]) -> dict[str, Any]:
        """One more; the answer is handed on."""
        self._count += 1
        self._outcomes[answer["outcome"]] += 1
        now = time.monotonic()
        if self._shown and (now - self._written_at > EVERY_S or self._count == self._total):
            self._written_at = now
            click.echo(f"\r{self._verb} {self._count}/{self._total}  {self.summary}\033[K", nl=False, err=True)
        return answer

    def done(self) -> None:
        """End the line."""
        if self._shown:
            click.echo(err=True)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many of each."""
        return self._outcomes

    @property
    def summary(self) -> str:
        """`2 cancelled, 1 requested`."""
        return ", ".join(f"{count} {outcome}" for outcome, count in self._outcomes.items()) or "no request matches"
