"""RunPod's side of the flood: the emulator with its limits times a factor, in a process of its own."""

from __future__ import annotations

import argparse
import signal

from bridge.emulator import Emulator, EndpointConfig
from bridge.emulator.config import PUBLISHED_LIMITS, Limit


def main() -> None:
    """Print the base URL, and serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--factor", type=float, required=True)
    parser.add_argument("endpoints", nargs="+")
    asked = parser.parse_args()
    limits = {
        op: Limit(max(1, int(limit.rate * asked.factor)), limit.concurrent) for op, limit in PUBLISHED_LIMITS.items()
    }
    config = EndpointConfig(limits=limits, workers_min=1)
    with Emulator(endpoints=dict.fromkeys(asked.endpoints, config), api_keys=[asked.api_key]) as emulator:
        print(emulator.base_url, flush=True)  # noqa: T201
        signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main()
