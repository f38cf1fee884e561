"""Hears that other processes have put work into the ledger, and wakes the loops of this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds to listen in one turn; a lost wake costs at most the loops' own idle look.
LISTEN_S = 1.0


@dataclass(slots=True)
class Wake:
    """One `once()` listens until something is heard."""

    ledger: Ledger
    woken: Callable[[], None]
    _listener: Any = field(default=None, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        if self._listener is None:
            self._listener = self.ledger.engines.listen()
        try:
            with mapped():
                heard = self._listener.get_message(ignore_subscribe_messages=True, timeout=LISTEN_S)
            if heard is not None:
                self.woken()
        except Exception:
            self.close()
            raise
        return 0.0

    def close(self) -> None:
        """Hang up."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
