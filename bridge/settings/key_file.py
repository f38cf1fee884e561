"""A key in a file, read again when the file changes: a rotation needs no restart."""

from __future__ import annotations

import os
import threading
from pathlib import Path

#: Characters that are read at most: a key has under a hundred.
KEY_MAX = 10_000


class KeyFile:
    """Thread-safe. Costs one `stat` a look."""

    def __init__(self, path: Path) -> None:
        """Read at the first look."""
        self.path = path
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, ...], str] | None = None

    def read(self) -> str:
        """The key. Raises OSError or ValueError while there has never been one.

        While a file is being replaced it may be gone, empty or half written: until there is a key again, the one
        before is used.
        """
        known = self._known
        try:
            stamp = self._stamp()
            if known is None or known[0] != stamp:
                with self.path.open() as file:
                    key = file.read(KEY_MAX).strip()
                with self._lock:
                    if key or known is None:
                        known = self._known = stamp, key
            return known[1]
        except (OSError, ValueError):
            if known is None:
                raise
            return known[1]

    @property
    def stamp(self) -> object:
        """Differs once another key was read."""
        known = self._known
        return known[0] if known else None

    def _stamp(self) -> tuple[int, ...]:
        found = os.stat(self.path)  # noqa: PTH116  (follows the link that a mounted secret is)
        return found.st_ino, found.st_mtime_ns, found.st_size
