"""The HTTP door: health for orchestrators, metrics for Prometheus, and RunPod's callbacks.

`server` listens; `gauges` reads the ledger-wide figures when somebody scrapes.
"""
