"""Threads in which a route asks what blocks: the ledger, or RunPod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Threads:
    """So many calls at once, in one event loop."""

    def __init__(self, at_once: int) -> None:
        """None is started yet."""
        self._limiter = anyio.CapacityLimiter(at_once)

    async def __call__(self, call: Callable[[], T], within_s: float) -> T:
        """Its answer. Raises TimeoutError after `within_s`, its turn counted; it may still do what it was to do."""
        async with asyncio.timeout(within_s):
            return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)
