"""Who looks at a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visitor:
    """`name` is "" for whoever reaches a loopback address; `address` is the connection's."""

    name: str
    address: str
    logged_in: bool = False
