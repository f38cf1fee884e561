"""An engine without a worker, until it is told to stop; what `bridge engine` does."""

from __future__ import annotations

import signal
import threading

from bridge import wiring
from bridge.app import app


def main() -> None:
    """Run until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    bridge = wiring.current(app)
    bridge.check()
    bridge.start_engine()
    ended.wait()
    bridge.stop_engine()


if __name__ == "__main__":
    main()
