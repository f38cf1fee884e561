"""What moves a record on: loops of `once()`, and plain functions over the ledger that doors call.

`accept/` takes requests in; `submit/`, `watch/` and `cancel_and_retry` call RunPod; `large_outputs` go to the object
store; `tell/` brings news to callers; `control/` answers commands; `upkeep/` is done beside. `calls/` is what loops
share that call others, `endpoint_health/` knows how endpoints answer, `notifier` who hears of a change; `engine` starts
and stops the loops of one process.
"""
