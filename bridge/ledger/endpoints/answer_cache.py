"""One process asks, and its answer serves all: a short-lived answer in Redis, and one turn to fetch the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class OnceForAll:
    """Answers of one kind. `keep_ms`: how long the last answer is kept for those who take an old one."""

    client: redis.Redis
    prefix: str
    keep_ms: int = 60_000

    def answers(self, *names: str) -> dict[str, dict[str, Any]]:
        """The last answers that are kept."""
        if not names:
            return {}
        with mapped():
            found: Any = self.client.mget([self.prefix + name for name in names])
        return {name: json.loads(text) for name, text in zip(names, found, strict=True) if text}

    def put(self, name: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer for all."""
        with mapped():
            self.client.set(self.prefix + name, json.dumps(answer), px=self.keep_ms)

    def take_turn(self, name: str, token: str, *, turn_ms: int) -> bool:
        """Whether this caller fetches; the turn ends by itself when its process dies."""
        with mapped():
            return bool(self.client.set(f"{self.prefix}{name}:turn", token, nx=True, px=turn_ms))

    def end_turn(self, name: str, token: str) -> None:
        """Behind `put`."""
        with mapped():
            if self.client.get(f"{self.prefix}{name}:turn") == token:
                self.client.delete(f"{self.prefix}{name}:turn")
