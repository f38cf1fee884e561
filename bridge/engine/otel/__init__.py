"""Traces and metrics by OpenTelemetry (`BRIDGE_OTEL`), from what ledger and registry hold anyway; docs/tracing.md.

Nothing here is loaded while it is off, and nothing on a request's road knows of it.
"""
