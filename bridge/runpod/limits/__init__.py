"""What all processes share about calls to RunPod, in the ledger's Redis, each step one script of `lua/`.

`budget` counts the calls to an endpoint, `permits` are those that one grant allows, `circuit_breaker` (the gate)
stops all of them while our account or the endpoint cannot be used.
"""
