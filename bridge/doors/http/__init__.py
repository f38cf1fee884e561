"""The HTTP door: `api/` is `/v1`, `console/` the pages; `probes` for orchestrators and Prometheus, RunPod's `webhooks`.

`server` listens and puts `part`s on an address, inside `bounds`; `problem` is the form of every error; `threads` ask
what blocks. `gauges` reads the ledger-wide figures when somebody scrapes.
"""
