"""RunPod Serverless on this machine: a faithful emulator of its HTTP API, usable without the bridge.

    from bridge.emulator import Emulator, EndpointConfig

    with Emulator(["demo"]) as emulator:
        ...  # point any RunPod client at emulator.base_url with the key "test-key"

It imports nothing of the rest of `bridge`, so that it cannot share its mistakes.
"""

from bridge.emulator.config import EndpointConfig, Handler, Limit
from bridge.emulator.server import Emulator

__all__ = ["Emulator", "EndpointConfig", "Handler", "Limit"]
