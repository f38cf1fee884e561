"""Who looks at a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visitor:
    """`name` is "" for whoever reaches a loopback address; `address` is the connection's."""

    name: str
    address: str
    logged_in: bool = False
    session: str = ""  # of who has logged in: random, another at each login

    @property
    def signs(self) -> str:
        """What the forms of this visitor are signed for."""
        return f"{self.name}\0{self.session}" if self.session else self.name
