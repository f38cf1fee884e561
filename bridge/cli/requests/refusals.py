"""Which of the requests that were sent no door could take."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.process.components import Components

#: Seconds between two looks.
LOOK_S = 2.0
#: Seconds after which what no door has taken is worth a word: most likely no worker runs.
UNTAKEN_S = 5.0


class Refusals:
    """What a door has refused since this was made: of such a request no record tells, but a dead letter."""

    def __init__(self, has: Components) -> None:
        newest = has.ledger.dead.newest(1)
        self._dead = has.ledger.dead
        self._cursor = newest[0]["id"] if newest else "0-0"
        self._told: dict[str, str] = {}
        self._look_at = time.monotonic() + LOOK_S
        self._doubt_at = time.monotonic() + UNTAKEN_S

    def of(self, request_id: str) -> str | None:
        """Why it was not taken; None where nothing is known of that (yet)."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            for letter_id, text in self._dead.after(self._cursor, 1_000):
                self._cursor = letter_id
                if text:
                    letter = json.loads(text)["data"]
                    self._told[str(letter["request_id"])] = str(letter["detail"])
        return self._told.get(request_id)

    def doubtful(self) -> bool:
        """Whether it is time, once, to say that what was sent has not been taken."""
        if time.monotonic() < self._doubt_at:
            return False
        self._doubt_at = math.inf
        return True
