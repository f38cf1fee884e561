"""How far a verb has come with many requests: one line in a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

#: Seconds between two lines.
EVERY_S = 0.1


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
