"""Waiting, as pure functions; nothing here sleeps."""

from __future__ import annotations

import random


def backoff(
    attempt: int, base_s: float, cap_s: float, *, jitter: float = 0.1, rng: random.Random | None = None
) -> float:
    """Seconds before try number `attempt` + 1 (from 1): doubling from `base_s` to `cap_s`, with +-`jitter` of it."""
    wait = min(cap_s, base_s * 2.0 ** min(max(0, attempt - 1), 30))
    return wait * (1 + jitter * (2 * (rng or random).random() - 1))


def spread(milliseconds: float, rng: random.Random | None = None) -> int:
    """The time with +-10 %, so that what became due together does not stay together."""
    return int(milliseconds * (0.9 + 0.2 * (rng or random).random()))
